"""results/*.json -> the tables and the plot of docs/performance.md, between its marks.

python benchmarks/performance_page.py
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from page_tables import fill_page, table
from scale import LARGEST, ROUNDS, SIDES, TILED_PX, TILES

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
RESULTS = Path(__file__).parent / "results"
PETABYTE_MP = 1e15 / 2 / 1e6
HOUR_S = 3600.0
LARGE = f"{LARGEST} px, OME-Zarr"
Figures = Mapping[str, Any]


def main() -> None:
    """Write every table and draw the plot."""
    found = {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("engines", "scale", "training", "peers")
    }
    jobs = found["scale"]["jobs"]
    fill_page(
        PAGE,
        {
            "engines": engines(found["engines"]),
            "sides": sizes({**{f"{s} px": f"{s} px" for s in SIDES}, LARGE: LARGE}, jobs),
            "tiles": sizes({f"tiles of {px} px": f"{px} px" for px in TILES}, jobs),
            "planes": sizes({name: name for name in jobs if "planes" in name}, jobs),
            "workers": workers(jobs),
            "petabyte": petabyte(jobs),
            "training": training(found["training"]["cases"]),
            "peers": peers(found["peers"]),
        },
    )
    plot(jobs)


def engines(found: Figures) -> list[str]:
    """Return seconds a megapixel by network and engine, and the ratios that were asked for."""
    seconds, ratios = found["cpu"]["s_per_mp"], found["cpu"]["ratios"]
    rows = [[name.replace(",", ":", 1), f"{s:.2f}"] for name, s in seconds.items()]
    product = found["cpu"]["matrix_product_s_per_mp"]
    rows += [[f"{n}: multiply-adds in a matrix product", f"{s:.2f}"] for n, s in product.items()]
    asked = table(["ratio", ""], [[n.replace("_", " "), f"{r:.2f}"] for n, r in ratios.items()])
    return [*table(["network, engine", "s a megapixel"], rows), "", *asked]


def sizes(titles: Mapping[str, str], jobs: Figures) -> list[str]:
    """Return time and memory of jobs that are done."""
    rows = [
        [
            title,
            f"{jobs[name]['megapixels']:g}",
            f"{jobs[name]['wall_s_per_mp']:.3f}",
            f"{jobs[name]['cpu_s_per_mp']:.3f}",
            f"{jobs[name]['peak_mib']:.0f}",
        ]
        for name, title in titles.items()
        if name in jobs
    ]
    return table(["", "megapixels", "s a megapixel", "processor s", "peak, MiB"], rows)


def workers(jobs: Figures) -> list[str]:
    """Return what one and two workers take, by turns."""
    done = [i for i in range(ROUNDS) if f"2 workers, round {i}" in jobs]
    seconds = {n: [jobs[f"{n} workers, round {i}"]["wall_s_per_mp"] for i in done] for n in (1, 2)}
    gain = statistics.median(a / b for a, b in zip(seconds[1], seconds[2], strict=True))
    rows = [[n, f"{statistics.median(s):.3f}"] for n, s in seconds.items()]
    return [
        *table(["workers of one thread", "s a megapixel"], rows),
        "",
        f"Gain: {gain:.2f}, median of {len(done)} rounds.",
    ]


def petabyte(jobs: Figures) -> list[str]:
    """Return how long an archive would take."""
    core_s = PETABYTE_MP * jobs[LARGE]["cpu_s_per_mp"]
    rows = [[f"{n:,} cores", f"{core_s / n / HOUR_S:,.0f} hours"] for n in (100, 1_000, 10_000)]
    return table(["", "it takes"], rows)


def training(cases: Figures) -> list[str]:
    """Return steps a second."""
    rows = [
        [
            name,
            " x ".join(map(str, case["batch"])),
            f"{case['steps_per_s']['median']:.1f}",
            f"{case['processor_s_per_step']['median']:.3f}",
            f"{case['waiting_share']:.1%}",
        ]
        for name, case in cases.items()
    ]
    return table(["", "batch", "steps/s", "processor s a step", "waiting"], rows)


def peers(found: Figures) -> list[str]:
    """Return what networks and deconvolution reach, and cost."""
    titles = {
        "input": "input",
        "lucy_richardson": "Richardson-Lucy (scikit-image)",
        "careamics": "CARE (CAREamics)",
        "output": "crosscope",
        "target": "target",
    }
    costs = {
        "lucy_richardson": found["cost"]["lucy_richardson"],
        "output": found["cost"]["output"],
        "careamics": found["cost"]["careamics, tiles of 256 px"],
    }
    rows = []
    for name, title in titles.items():
        one, cost = found["median"][name], costs.get(name)
        rows.append(
            [
                title,
                f"{one['psnr_db']:.1f}",
                f"{one['f1']:.3f}",
                f"{one['invented']:.1%}",
                f"{one['fwhm_nm']:.1f}",
                f"{one['resolved_nm']:.0f}",
                cost and f"{cost['cpu_s_per_mp']:.2f}",
                cost and f"{cost['peak_mib']:.0f}",
            ]
        )
    head = ["", "PSNR, dB", "F1", "invented", "FWHM, nm", "pairs from, nm"]
    return table([*head, "processor s a megapixel", "peak, MiB"], rows)


def plot(jobs: Figures) -> None:
    """Draw time and memory against image side, tiles, planes at a time and workers."""
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    axes = figure.subplots(2, 4, sharex="col", sharey="row")
    columns = {
        "image side, px": {side: f"{side} px" for side in SIDES} | {LARGEST: LARGE},
        f"tile, px (image of {TILED_PX} px)": {px: f"tiles of {px} px" for px in TILES},
        "planes of one image of a megapixel": {
            int(name.split()[0]): name for name in jobs if "planes" in name
        }
        | {1: "1000 px"},
        "workers of one thread": {n: f"{n} workers, round 1" for n in (1, 2)},
    }
    panels = {"wall_s_per_mp": "s a megapixel", "peak_mib": "peak memory, MiB"}
    for column, (what, names) in enumerate(columns.items()):
        done = {x: jobs[name] for x, name in sorted(names.items()) if name in jobs}
        for row, (key, title) in enumerate(panels.items()):
            axis = axes[row, column]
            axis.plot(list(done), [job[key] for job in done.values()], "o-", color="#0072b2")
            axis.set_xscale("log", base=2)
            axis.grid(color="0.9")
            if column == 0:
                axis.set_ylabel(title)
            if row == 1:
                axis.set_xlabel(what)
                axis.set_xticks(list(done), [str(x) for x in done], rotation=90)
    for axis in axes[:, 0]:  # when all is drawn: the rows share it
        axis.set_ylim(bottom=0)
    figure.savefig(PAGE.with_name("performance.png"), dpi=110)


if __name__ == "__main__":
    main()
