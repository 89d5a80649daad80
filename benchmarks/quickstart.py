"""Time, memory and figures of `crosscope quickstart`, as a user runs it -> results/quickstart.json.

    python benchmarks/quickstart.py [--seeds 3]

The seeds are not those of the tests. Peak memory is that of the process. The first field of the
first seed's picture becomes docs/quickstart.png, and the medians over the seeds the README's table.

    python benchmarks/quickstart.py --table     only writes the table anew, from the results
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import PIL.Image
from machine import describe_machine

PICTURE = Path(__file__).parents[1] / "docs" / "quickstart.png"
README = Path(__file__).parents[1] / "README.md"
MARK = "<!-- by benchmarks/quickstart.py -->"
RESULT = Path(__file__).parent / "results" / "quickstart.json"

FIRST_SEED = 100


def main() -> None:
    """Run the quickstart for some seeds and write what it reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        write_table()
        return
    runs = [measure(seed) for seed in range(FIRST_SEED, FIRST_SEED + parser.parse_args().seeds)]
    RESULT.write_text(json.dumps({"machine": describe_machine(), "runs": runs}, indent=2) + "\n")
    write_table()


def write_table() -> None:
    """Put the medians over the seeds into the README, between its two marks."""
    runs = json.loads(RESULT.read_text())["runs"]
    rows = ["| image | FWHM, nm | PSNR, dB | SSIM | F1 | missed | invented | pairs from |"]
    rows += ["|---|---|---|---|---|---|---|---|"]
    for method in ("input", "lucy_richardson", "output", "target"):

        def median(*path: str, method: str = method) -> float:
            found = []
            for run in runs:
                value = run["summary"][path[0]][method]
                found.append(value[path[1]] if len(path) > 1 else value)
            return statistics.median(found)

        rows.append(
            f"| {method.replace('_', '-')} | {median('fwhm_nm', 'median'):.1f} "
            f"± {median('fwhm_nm', 'sd'):.1f} | {median('psnr_db', 'median'):.1f} "
            f"| {median('ssim', 'median'):.4f} | {median('spots', 'f1'):.3f} "
            f"| {median('spots', 'missed'):.1%} | {median('spots', 'invented'):.1%} "
            f"| {median('resolved_nm'):.0f} nm |"
        )
    wall, cpu = (statistics.median(run[key] for run in runs) for key in ("wall_s", "cpu_s"))
    peak = max(run["peak_mib"] for run in runs)
    rows += ["", f"It took {wall:.0f} s ({cpu:.0f} s of processor time on 2 cores), {peak} MiB."]
    before, _, rest = README.read_text().partition(MARK)
    after = rest.partition(MARK)[2]
    README.write_text("\n".join([before + MARK, "", *rows, "", MARK]) + after)


def measure(seed: int) -> dict[str, object]:
    """Run it once, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "crosscope", "quickstart", f"{folder}/out"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--seed", str(seed), "--json"], check=True, stdout=subprocess.PIPE
        )
        wall = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if seed == FIRST_SEED:
            with PIL.Image.open(f"{folder}/out/report/picture.png") as picture:
                picture.crop((0, 0, picture.width, picture.height // 3)).save(PICTURE)
    summary = json.loads(done.stdout)["summary"]
    output, target = summary["fwhm_nm"]["output"], summary["fwhm_nm"]["target"]
    psnr = summary["psnr_db"]
    figures = {
        "seed": seed,
        "wall_s": round(wall, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_mib": round(after.ru_maxrss / 1024),
        "fwhm_off": round(output["median"] / target["median"] - 1, 4),
        "f1": summary["spots"]["output"]["f1"],
        "invented": summary["spots"]["output"]["invented"],
        "psnr_above_lucy_richardson_db": round(
            psnr["output"]["median"] - psnr["lucy_richardson"]["median"], 2
        ),
        "summary": summary,
    }
    print({key: value for key, value in figures.items() if key != "summary"}, flush=True)
    return figures


if __name__ == "__main__":
    main()
