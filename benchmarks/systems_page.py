"""results/systems.json -> the tables and the plot of docs/systems.md, between its marks.

    python benchmarks/systems_page.py [--pictures]

`--pictures` also draws docs/systems/*.png anew, by the models that come with the program.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from page_tables import fill_page, table
from systems import (
    ABLATIONS,
    FULL,
    LINES,
    MORE,
    PERFECT_PER_UM,
    RESULT,
    SEED,
    SEEDS,
    VIEWS,
)

import crosscope as cs
from crosscope.report.picture import draw_fields

# isort: split
# `systems` has put examples/ on the path
from beads_confocal_to_sted import BEADS
from nuclei_by_transfer import NUCLEI
from recipes import Size, View, judge
from widefield_three_channels import CHANNELS, predict_together

PAGE = Path(__file__).parents[1] / "docs" / "systems.md"
PICTURES = PAGE.parent / "systems"
SHOWN = Size(test=2, size_px=256)
SPEED = Path(__file__).parent / "results" / "engines.json"
# assumed, for the throughput: a camera, and what each of its fields takes
CAMERA_PX, EXPOSURE_S, MOVE_S = 2048, 0.1, 0.3
OFF, CLOSE = ["spectrum off, median", "largest"], "within 20 % up to, per um"
METHODS = {
    "input": "input",
    "bicubic": "bicubic",
    "lucy_richardson": "Richardson-Lucy",
    "nnls": "non-negative least squares",
    "twin": "twin",
    "output": "output",
    "target": "target",
}
SPOT_COLOURS = {"input": "#999999", "output": "#0072b2", "target": "#d55e00"}
WIDTH_BINS = range(80, 321, 4)  # nm
KNOWN = ("output", "target", "known")
PAIRS_OF = {
    "pits": "two pits, centre to centre",
    "maxima": "two maxima of two pits",
    "rings": "two maxima of one pit, a ring",
}
Figures = Mapping[str, Any]


def main() -> None:
    """Write every table and, where asked, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", action="store_true")
    if parser.parse_args().pictures:
        draw_pictures()
    jobs = {name: job["figures"] for name, job in json.loads(RESULT.read_text())["jobs"].items()}
    tables = {
        "beads": by_method([jobs[f"beads-{seed}"] for seed in SEEDS]),
        "wide-field": wide_field(jobs["widefield-1000"]),
        "perfect": perfect(jobs["perfect wide-field"]),
        "more": more(jobs),
        "filled": filled(jobs),
        "filtered": filtered(jobs["filtered wide-field"]),
        "crossed": crossed(jobs["widefield-1000"]),
        "nuclei": nuclei(jobs["nuclei-1000"]),
        "curve": curve(jobs["nuclei-1000"]),
        "pits": by_method([jobs["tirf-1000"]["pits"]]),
        "filaments": by_method([jobs["tirf-1000"]["filaments"]]),
        "close": close(jobs["tirf-1000"]["close pits"]),
        "lapse": lapse(jobs["tirf-1000"]["time-lapse"]),
        "ablation": ablation(jobs),
        "pairs": pairs(jobs),
        "noise": noise(jobs),
        "throughput": throughput(),
    }
    fill_page(PAGE, tables)
    plot_pairs(jobs)


def at(figures: Figures, path: str, form: str = ".1f") -> str | None:
    """Return what lies at "psnr_db.output.median", or None where there is nothing."""
    value: Any = figures
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else format(value, form)


def over(several: Sequence[Figures], path: str, form: str = ".1f") -> str | None:
    """Return the median over several runs of what lies at a path."""
    found = [float(text) for one in several if (text := at(one, path, ".9g")) is not None]
    return format(statistics.median(found), form) if found else None


def by_method(several: Sequence[Figures]) -> list[str]:
    """Return the figures of every method."""
    rows = []
    for method, title in METHODS.items():
        if method not in several[0]["psnr_db"]:
            continue
        width, sd = (over(several, f"fwhm_nm.{method}.{key}") for key in ("median", "sd"))
        rows.append(
            [
                title,
                over(several, f"psnr_db.{method}.median"),
                over(several, f"ssim.{method}.median", ".4f"),
                width and f"{width} ± {sd}",
                over(several, f"spots.{method}.f1", ".3f"),
                over(several, f"spots.{method}.missed", ".1%"),
                over(several, f"spots.{method}.invented", ".1%"),
                over(several, f"resolved_nm.{method}", ".0f"),
            ]
        )
    head = ["", "PSNR, dB", "SSIM", "FWHM, nm", "F1", "missed", "invented", "pairs from, nm"]
    return table(head, rows)


def wide_field(figures: Figures) -> list[str]:
    """Return the channels' figures."""
    methods = ("bicubic", "lucy_richardson", "nnls", "output", "target")
    rows = []
    for channel in ("dapi", "fitc", "txred"):
        found = figures[channel]
        rows.append(
            [
                channel.upper(),
                *(at(found, f"psnr_db.{method}.median") for method in methods),
                at(found, "spectrum.median", ".0%"),
                at(found, "spectrum.largest", ".0%"),
                at(found, "spectrum.up_to_per_um", ".2f"),
                at(found, "spectrum.close_up_to_per_um", ".2f"),
                at(found, "background.nrmse.bicubic.median", ".4f"),
                at(found, "background.nrmse.output.median", ".4f"),
            ]
        )
    head = [f"PSNR, dB, {METHODS[m]}" if n == 0 else METHODS[m] for n, m in enumerate(methods)]
    spectrum = [*OFF, "up to, per um", CLOSE]
    return table(["", *head, *spectrum, "background error, bicubic", "output"], rows)


def perfect(figures: Figures) -> list[str]:
    """Return what an image would have that is perfect up to a frequency, and empty beyond."""
    rows = [
        [
            name.upper(),
            *(format(found[f"{end} per um"], ".1f") for end in PERFECT_PER_UM),
        ]
        for name, found in figures.items()
    ]
    head = [f"perfect up to {end} per um" for end in PERFECT_PER_UM]
    return table(["PSNR, dB", *head], rows)


def more(jobs: Mapping[str, Figures]) -> list[str]:
    """Return what more fields, steps or channels bring, and turned fields beside them."""
    rows = []
    for name in MORE:
        if name in jobs:
            psnr = jobs[name]["psnr_db"]
            before, adversary = (
                psnr.get("twin", psnr["output"]),
                psnr.get("twin") and psnr["output"],
            )
            found = (psnr["lucy_richardson"], before, adversary, psnr["turned"])
            gain = max(value for value in found[1:] if value) - psnr["lucy_richardson"]
            rows.append([name, *(value and f"{value:.2f}" for value in found), f"{gain:.2f}"])
    head = ["Richardson-Lucy", "before the adversary", "output", "turned and flipped", "gain"]
    return table(["PSNR, dB", *head], rows)


def filled(jobs: Mapping[str, Figures]) -> list[str]:
    """Return how far an adversary fills wide-field's spectrum, and what it costs."""
    psnr = [f"psnr_db.{method}.median" for method in ("lucy_richardson", "twin", "output")]
    rows = [
        [
            name.replace(tried, f"{channel.upper()}, "),
            *(at(found, p, ".2f") for p in psnr),
            *off(found),
        ]
        for channel in CHANNELS
        for name, found in jobs.items()
        if name.startswith(tried := f"{channel} adversarial ")
    ]
    head = ["Richardson-Lucy", "twin", "output", *OFF]
    return table(["PSNR, dB", *head], rows)


def filtered(figures: Figures) -> list[str]:
    """Return what it costs to give the spectrum its power by a filter."""
    rows = [
        [
            channel.upper() if share == "0%" else f"{channel.upper()}, at least {share}",
            at(found, "psnr_db", ".2f"),
            at(found, "ssim", ".4f"),
            *off(found),
            at(found, "spectrum.close_up_to_per_um", ".2f"),
        ]
        for channel, shares in figures.items()
        for share, found in shares.items()
    ]
    return table(["twin", "PSNR, dB", "SSIM", *OFF, CLOSE], rows)


def off(found: Figures) -> list[str | None]:
    """Return how far a spectrum is off, in the median and at most."""
    return [at(found, f"spectrum.{which}", ".0%") for which in ("median", "largest")]


def crossed(figures: Figures) -> list[str]:
    """Return what the TxRed model makes of channels that it was not made for."""
    rows = [
        [
            name.upper(),
            at(figures[name], "psnr_db.bicubic.median"),
            at(figures[name], "psnr_db.lucy_richardson.median"),
            at(figures[f"txred model on {name}"], "psnr_db.output.median"),
            at(figures[name], "psnr_db.output.median"),
        ]
        for name in ("dapi", "fitc")
    ]
    return table(["PSNR, dB", "bicubic", "Richardson-Lucy", "TxRed's model", "its own model"], rows)


def nuclei(figures: Figures) -> list[str]:
    """Return what the bead model, the transfer and the mixture are worth."""
    rows: list[list[str | None]] = []
    for name in (
        "bead model on nuclei",
        "from nothing",
        "transferred",
        "from nothing, long",
        "transferred, long",
        "mixed, on nuclei",
    ):
        found = figures[name]
        rows.append(
            [name, at(found, "psnr_db.output.median"), at(found, "ssim.output.median", ".4f")]
        )
    for method in ("lucy_richardson", "input", "target"):
        found = figures["transferred"]
        rows.append(
            [
                METHODS[method],
                at(found, f"psnr_db.{method}.median"),
                at(found, f"ssim.{method}.median", ".4f"),
            ]
        )
    return table(["nuclei", "PSNR, dB", "SSIM"], rows)


def curve(figures: Figures) -> list[str]:
    """Return what fewer fields to learn from are worth."""
    points = figures["learning curve"] | {"14": figures["transferred, long"]}
    rows = [
        [name, at(found, "psnr_db.output.median", ".2f"), at(found, "ssim.output.median", ".4f")]
        for name, found in points.items()
    ]
    return table(["fields learnt from", "PSNR, dB", "SSIM"], rows)


LAPSES = {
    "truth": "truth",
    "target": "target",
    "known": "known place",
    "frame by frame": "output, frame by frame",
    "rolling average": "output, rolling average",
}


def close(figures: Figures) -> list[str]:
    """Return the share of close pits that are seen as two."""
    columns = {"pairs": ".0f"} | {f"{image}_share": ".0%" for image in KNOWN}
    rows = [
        [title, *(at(figures, f"{of}.{key}", form) for key, form in columns.items())]
        for of, title in PAIRS_OF.items()
    ]
    head = ["110 to 130 nm apart", "how many", *(f"two in {image}" for image in KNOWN)]
    return table(head, rows)


def lapse(figures: Figures) -> list[str]:
    """Return how well lone pits are followed."""
    columns = ("flicker", "correlation", "correlation_low")
    rows = [
        [title, *(at(figures, f"{image}.{key}", ".4f") for key in columns)]
        for image, title in LAPSES.items()
    ]
    head = [f"{figures['pits']} pits", "flicker", "correlation, median", "5th percentile"]
    return table(head, rows)


def ablation(jobs: Mapping[str, Figures]) -> list[str]:
    """Return what every objective is worth, beside the default."""
    rows = {name: jobs[name] for name in ABLATIONS} | {"default": jobs[f"beads-{SEED}"]}
    twins = [at(found, "psnr_db.twin.median") for found in rows.values()]
    told = [_row(name, found) for name, found in rows.items()]
    with_twin = [[*row[:2], twin, *row[2:]] for row, twin in zip(told, twins, strict=True)]
    return table([*HEAD[:2], "its twin's", *HEAD[2:]], with_twin)


HEAD = ["", "PSNR, dB", "SSIM", "spectrum off", "FWHM, nm", "F1", "invented", "pairs from, nm"]


def _row(name: str, found: Figures) -> list[str | None]:
    return [
        name,
        at(found, "psnr_db.output.median"),
        at(found, "ssim.output.median", ".4f"),
        at(found, "spectrum.median", ".1%"),
        at(found, "fwhm_nm.output.median"),
        at(found, "spots.output.f1", ".3f"),
        at(found, "spots.output.invented", ".2%"),
        at(found, "resolved_nm.output", ".0f"),
    ]


def series(jobs: Mapping[str, Figures]) -> dict[str, Figures]:
    """Return the ways to take pairs, in the order of the table."""
    return {
        **{f"{n} line averages": jobs[f"{n} line averages"] for n in (1, 4)},
        f"{LINES} line averages, registered, beads only": jobs[f"{LINES} line averages"],
        "the same, from another start": jobs["another start"],
        **{f"{px} px misregistered": jobs[f"{px} px misregistered"] for px in (0.0, 0.1, 0.3, 1.0)},
        **{f"half {s}": jobs[f"beads with {s}"] for s in ("nuclei", "filaments")},
    }


def pairs(jobs: Mapping[str, Figures]) -> list[str]:
    """Return what the pairs' quality does to the bead model."""
    return table(HEAD, [_row(name, found) for name, found in series(jobs).items()])


def plot_pairs(jobs: Mapping[str, Figures]) -> None:
    """Draw the same as bars."""
    found = series(jobs)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    panels = {"psnr_db.output.median": "PSNR, dB", "fwhm_nm.output.median": "FWHM, nm"}
    for axis, (path, title) in zip(axes, (panels | {"spots.output.f1": "F1"}).items(), strict=True):
        values = [float(at(one, path, ".9g") or "nan") for one in found.values()]
        axis.plot(values, range(len(values)), "o", color="#0072b2")
        axis.set_xlabel(title)
        axis.grid(axis="y", color="0.9")
    axes[0].set_yticks(range(len(found)), list(found))
    axes[0].invert_yaxis()
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / "pairs.png", dpi=110)


def noise(jobs: Mapping[str, Figures]) -> list[str]:
    """Return the ratio of signal to noise of input, output and target, and what is gained."""
    rows = []
    for name, found in jobs["signal to noise"].items():
        gains = [found["output"] / found[image] for image in ("input", "target")]
        ratios = [format(found[image], ".0f") for image in ("input", "output", "target")]
        rows.append([name, *ratios, *(format(gain, ".1f") for gain in gains)])
    head = ["(s - b) / n", "input", "output", "target", "gain on the input", "on the target"]
    return table(head, rows)


def throughput() -> list[str]:
    """Return what area both microscopes take in a second, and with the prediction's time."""
    speed = json.loads(SPEED.read_text())["wall"]
    fast_s_per_mp = speed["s_per_mp"][speed["best"]["fast 32"]]
    rows = []
    for name, pixel_um, predicted in (
        ("20x", 0.325, False),
        ("10x", 0.65, False),
        ("10x, predicted while the next field is taken", 0.65, True),
    ):
        area_mm2 = (CAMERA_PX * pixel_um / 1000) ** 2
        output_mp = (CAMERA_PX * pixel_um / 0.325) ** 2 / 1e6
        seconds = EXPOSURE_S + MOVE_S
        if predicted:
            seconds = max(seconds, output_mp * fast_s_per_mp)
        rows.append([name, f"{area_mm2:.2f}", f"{area_mm2 / seconds:.2f}"])
    return table(["objective", "mm2 per exposure", "mm2 per second"], rows)


def draw_pictures() -> None:
    """Draw a held-out field of every system, the channels in colour, and the widths of beads."""
    shown: dict[str, tuple[str, View]] = {
        **{name.split("-")[-1]: (name, view) for name, view in VIEWS.items()},
        "nuclei-by-bead-model": ("confocal-sted-beads", NUCLEI),
    }
    PICTURES.mkdir(exist_ok=True)
    for name, (model, view) in shown.items():
        panel = judge(cs.Model.load(model), view, SHOWN, SEED).report.panels[0]
        panel = replace(panel, name=f"{view.sample}, {model}")
        draw_fields([panel], PICTURES / f"{name}.png", overwrite=True)
    models = {name: cs.Model.load(f"widefield-20x-{name}") for name in CHANNELS}
    with tempfile.TemporaryDirectory() as folder:
        predict_together(models, Path(folder), SHOWN, SEED)
        shutil.copy(Path(folder) / "sharp.ome.png", PICTURES / "three-channels.png")
    plot_spots(judge(cs.Model.load("confocal-sted-beads"), BEADS, FULL, SEED).report.json)


def plot_spots(report: Figures) -> None:
    """Draw the widths of isolated spots and a close pair, as Figs. 4 and 3 of the paper do."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    pair = min(report["profiles"], key=lambda profile: profile["separation_nm"])
    for method, colour in SPOT_COLOURS.items():
        widths = [width for width in report["widths_nm"][method] if width is not None]
        left.hist(widths, bins=WIDTH_BINS, color=colour, alpha=0.6, label=METHODS[method])
        right.plot(pair["position_nm"], pair["values"][method], color=colour)
    left.set_xlabel("FWHM of isolated spots, nm")
    left.set_ylabel(f"of {len(widths)} spots")
    left.legend(frameon=False)
    right.set_xlabel(f"nm across two beads, {pair['separation_nm']:.0f} nm apart")
    right.set_ylabel("grey value")
    figure.savefig(PICTURES / "spots.png", dpi=110)


if __name__ == "__main__":
    main()
