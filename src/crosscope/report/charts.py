"""Report -> charts as SVG, to stand inside a page, or why there are none.

Text stays text.  Colours are Okabe and Ito's, told apart by every kind of colour vision, and each
METHOD has a line style of its own besides.  An `<svg>` has no ids but those it
uses itself, so that many stand on one page.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from crosscope.report.tables import TITLES, Cell, Column, NumberOrNone, at, cell_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (4.2, 3.2)  # on a phone a page is that wide: letters keep their size
Dashes = str | tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class Curve:
    """A line: its colour and dashes are those of `style`, None where a value is missing."""

    title: str
    style: str
    x: Sequence[NumberOrNone]
    y: Sequence[NumberOrNone]


STYLES: dict[str, tuple[str, Dashes]] = {
    "input": ("#56b4e9", (0.0, (5.0, 2.0))),
    "output": ("#d55e00", "-"),
    "target": ("#000000", (0.0, (1.5, 1.2))),
    "bicubic": ("#767676", "-."),
    "lucy_richardson": ("#009e73", (0.0, (6.0, 1.5, 1.5, 1.5))),
    "nnls": ("#cc79a7", (0.0, (3.0, 1.0))),
    "twin": ("#0072b2", (0.0, (8.0, 2.0))),
    "repeat": ("#e69f00", (0.0, (2.0, 3.0))),
    "validation": ("#0072b2", "-"),
    "adversarial": ("#d55e00", "-"),
    "mse": ("#0072b2", (0.0, (5.0, 2.0))),
    "merged": ("#0072b2", "-"),
    "merged_upper": ("#d55e00", (0.0, (5.0, 2.0))),
    "ssim": ("#009e73", (0.0, (1.5, 1.2))),
    "spectrum": ("#cc79a7", (0.0, (3.0, 1.0))),
}


@dataclass(frozen=True)
class Chart:
    """A chart and what it shows; or, where `svg` is None, why it is left out."""

    title: str
    svg: str | None
    words: str


@dataclass(frozen=True)
class Profile:
    """The grey values across two close structures, and how far apart each METHOD shows them."""

    field: str
    path: str
    separation_nm: NumberOrNone
    svg: str
    distances: dict[str, Cell]


def charts_of(report: Any) -> list[Chart]:
    """Draw all charts of a report but the profiles."""
    return [
        _widths(report),
        _spectra(report),
        _frc(report),
        *_training(report),
        _learning(report),
    ]


def profiles_of(report: Any) -> list[Profile]:
    """Draw the profiles of a report, as Fig. 3 of Wang et al. (10.1038/s41592-018-0239-0) does."""
    profiles = []
    for n, profile in enumerate(report.get("profiles") or []):
        path, values = f"profiles.{n}", profile["values"]
        curves = [
            Curve(TITLES[method], method, profile["position_nm"], values[method])
            for method in TITLES
            if method in values
        ]
        svg = draw_curves(curves, f"profile-{n}", x_label="Position, nm", y_label="Grey value")
        column = Column(f"{path}.peak_distance_nm", "Peak to peak, nm", 0)
        distances = {}
        for method in (m for m in TITLES if m in profile["peak_distance_nm"]):
            cell = cell_of(report, column, method)
            reason = (profile.get("reason") or {}).get(method) or cell.reason
            distances[method] = Cell(cell.number, [], reason if cell.number.value is None else "")
        profiles.append(Profile(profile["field"], path, profile["separation_nm"], svg, distances))
    return profiles


def claim_chart(report: Any) -> Chart:
    """Draw from which separation on two points come out as two."""
    title, claim = "Two points told apart", at(report, "certificate.claim")
    if not claim:
        why = at(report, "certificate.claim_reason") or report.get("certificate_reason")
        return Chart(title, None, why or "the report holds no certificate")
    x, allowed = claim["separations_nm"], claim["allowed"]
    claimed = claim["claimed_resolution_nm"]
    svg = draw_curves(
        [
            Curve("merged", "merged", x, claim["p_merged"]),
            Curve("upper bound", "merged_upper", x, claim["p_merged_upper"]),
        ],
        "claim",
        x_label="Separation of two points, nm",
        y_label="P(merged | two)",
        vertical={} if claimed is None else {f"claimed: {claimed:.0f} nm": claimed},
        horizontal={f"{100 * allowed:g} %": allowed},
    )
    words = (
        f"How often two points don't come out as two, in {claim['trials']} trials of each "
        f"separation, and its upper bound. {claim['sentence']}"
    )
    return Chart(title, svg, words)


def _widths(report: Any) -> Chart:
    title, widths = "Widths of isolated spots", report.get("widths_nm") or {}
    shown = {m: widths[m] for m in ("input", "output", "target") if _numbers(widths.get(m) or [])}
    if not shown:
        why = at(report, "summary.fwhm_nm.output.reason") or "no isolated spot was fitted"
        return Chart(title, None, why)
    words = "The same spots, fitted in each image; what lies beyond the axis is in its last bin."
    return Chart(title, draw_histogram(shown), words)


def _curves(table: Mapping[str, Any], values: str) -> list[Curve]:
    x, found = table["frequency_per_um"], table[values]
    return [Curve(TITLES[m], m, x, found[m]) for m in TITLES if _numbers(found.get(m) or [])]


def _spectra(report: Any) -> Chart:
    title, spectra = "Radial power spectra", report.get("spectra")
    curves = _curves(spectra, "power") if spectra else []
    if not curves:
        return Chart(title, None, "the report holds none")
    words = (
        "Where the output lies above the target, it has detail or noise that the target has not."
    )
    svg = draw_curves(
        curves,
        "spectra",
        x_label="Spatial frequency, 1/µm",
        y_label="Power, grey values²",
        log_y=True,
    )
    return Chart(title, svg, words)


def _frc(report: Any) -> Chart:
    title, table = "Fourier ring correlation", report.get("frc_curves")
    curves = _curves(table, "correlation") if table else []
    if not curves:
        reason = at(report, "summary.frc_nm.output.reason")
        return Chart(title, None, reason or "it needs two independent images of a field")
    svg = draw_curves(
        curves,
        "frc",
        x_label="Spatial frequency, 1/µm",
        y_label="Correlation",
        horizontal={"1/7": 1 / 7},
    )
    words = (
        "Of one field, the median by PSNR. The resolution is the inverse of the frequency where "
        "the curve falls below 1/7."
    )
    return Chart(title, svg, words)


def _training(report: Any) -> list[Chart]:
    training = report.get("training") or {}
    log = training.get("log") or []
    if not log:
        return [Chart("Training", None, "the model holds no log of it")]
    steps = [entry["step"] for entry in log]
    adversarial = [entry["step"] for entry in log if entry.get("phase") == "adversarial"]
    marks = {
        "adversarial from": min(adversarial, default=None),
        "kept at": training.get("kept_step"),
        "twin kept at": training.get("twin_step"),
    }
    charts = []
    for key, label in (("loss", "Validation loss"), ("psnr_db", "Validation PSNR, dB")):
        values = [at(entry, f"validation.{key}") for entry in log]
        found = _numbers(values)
        if not found:
            charts.append(Chart(label, None, "the training's log holds none"))
            continue
        svg = draw_curves(
            [Curve("Validation", "validation", steps, values)],
            f"training-{key}",
            x_label="Step",
            y_label=label,
            vertical=marks,
            log_y=key == "loss" and 0 < 20 * min(found) < max(found),
        )
        known = [f"{what} step {step}" for what, step in marks.items() if step is not None]
        words = f"{'; '.join(known)}.".capitalize() if known else "No step is marked."
        if key == "loss" and adversarial:
            words += " The adversarial phase weighs its terms anew: compare within a phase."
        charts.append(Chart(label.removesuffix(", dB"), svg, words))
    titles = {"adversarial": "Adversarial", "mse": "MSE", "ssim": "SSIM", "spectrum": "Spectrum"}
    shares = {k: [at(entry, f"shares.{k}") for entry in log] for k in titles}
    curves = [Curve(titles[k], k, steps, v) for k, v in shares.items() if _numbers(v)]
    if not curves:
        return [*charts, Chart("Shares of the loss", None, "the training's log holds none")]
    svg = draw_curves(curves, "shares", x_label="Step", y_label="Share of the loss", vertical=marks)
    return [*charts, Chart("Shares of the loss", svg, _words_on_shares(log))]


def _words_on_shares(log: Sequence[Mapping[str, Any]]) -> str:
    """Tell what pulled the generator, how the discriminator ended, and which alarms rang."""
    words = "What pulled the generator, step by step."
    accuracy, loss = (
        at(log[-1], f"losses.{name}") for name in ("discriminator_accuracy", "discriminator")
    )
    if all(isinstance(figure, int | float) for figure in (accuracy, loss)):
        words += (
            f" At the end {100 * float(accuracy):.0f} % of the discriminator's answers were right, "
            f"its loss was {loss:.4g}; one that guesses has 50 % and {2 * math.log(2):.4g}."
        )
    rang = [
        f"{alarm['name']} at step {entry['step']}"
        for entry in log
        for alarm in _mappings(entry.get("alarms"))
        if "name" in alarm
    ]
    if rang:
        words += f" Rolled back after alarms: {'; '.join(rang)}."
    elif any("alarms" in entry for entry in log):
        words += " No alarm rang."
    return words


def _mappings(listed: Any) -> list[Mapping[str, Any]]:
    return [it for it in listed if isinstance(it, Mapping)] if isinstance(listed, list) else []


def _learning(report: Any) -> Chart:
    title, points = "Learning curve", report.get("learning_curve") or []
    if not points:
        return Chart(title, None, "the training was not repeated with fewer pairs")
    pairs, psnr_db = ([point.get(key) for point in points] for key in ("pairs", "psnr_db"))
    if not _numbers(psnr_db):
        return Chart(title, None, "it holds no PSNR")
    svg = draw_curves(
        [Curve("Validation", "validation", pairs, psnr_db)],
        "learning",
        x_label="Pairs trained on",
        y_label="Validation PSNR, dB",
        log_x=True,
        dots=True,
    )
    words = (
        "Validation PSNR of trainings with fewer pairs, against the target, noise included. Where "
        "it still rises, more pairs help. Against a noisy target it flattens at the noise, and few "
        "steps hide what more pairs are worth."
    )
    return Chart(title, svg, words)


# --- drawing --------------------------------------------------------------------------------------


def draw_histogram(widths: Mapping[str, Sequence[NumberOrNone]]) -> str:
    """Draw the distributions of widths in nm, each as a share of its own number."""
    found = {method: np.array(_numbers(values)) for method, values in widths.items()}
    every = np.concatenate(list(found.values()))
    low, high = np.percentile(every, (0.5, 99.5))
    bins = np.linspace(low, max(high, low + 1), 33)
    figure, axes = _figure("FWHM of isolated spots, nm", "Share of the spots")
    for method, values in found.items():
        colour, dashes = STYLES[method]
        heights, _ = np.histogram(np.clip(values, bins[0], bins[-1]), bins)
        share = heights / max(values.size, 1)
        axes.stairs(share, bins, fill=True, color=colour, alpha=0.15)
        axes.stairs(share, bins, color=colour, linestyle=dashes, label=TITLES[method], lw=1.5)
    return _svg(figure, "widths")


def draw_curves(
    curves: Sequence[Curve],
    name: str,
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    vertical: Mapping[str, NumberOrNone] | None = None,
    horizontal: Mapping[str, NumberOrNone] | None = None,
    dots: bool = False,
) -> str:
    """Draw curves in one pair of axes.

    Parameters
    ----------
    curves : sequence of Curve
    name : str
        Of this chart, no other's on the page.
    x_label, y_label : str
        With units.
    log_x, log_y : bool
        Whether an axis is logarithmic; values that are not positive are then left out.
    vertical, horizontal : mapping, optional
        Where a thin line crosses the axes, by what it means.
    dots : bool
        Whether each value is marked.
    """
    from matplotlib.ticker import LogLocator

    figure, axes = _figure(x_label, y_label)
    for curve in curves:
        colour, dashes = STYLES[curve.style]
        x, y = (np.array([math.nan if v is None else v for v in s]) for s in (curve.x, curve.y))
        shown = ~((log_x & ~(x > 0)) | (log_y & ~(y > 0)))
        axes.plot(
            np.where(shown, x, math.nan),
            np.where(shown, y, math.nan),
            color=colour,
            linestyle=dashes,
            linewidth=1.5,
            label=curve.title,
            marker="o" if dots else None,
            markersize=4,
        )
    lines: list[tuple[Callable[..., Any], str, NumberOrNone]]
    lines = [(axes.axvline, *line) for line in (vertical or {}).items()]
    lines += [(axes.axhline, *line) for line in (horizontal or {}).items()]
    for (draw, title, where), dashes in zip(lines, (":", "--", "-."), strict=False):
        if where is not None:
            draw(where, color="#767676", linestyle=dashes, linewidth=1, label=title)
    if log_x:
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=6)
    if log_y:
        axes.set_yscale("log")
    for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        if log:
            low, high = sorted(axis.get_view_interval())
            few = not dots and high < 100 * low  # decades alone would be one label or two
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(LogLocator(subs=(2, 5) if few else "auto"))
            axis.set_minor_formatter("{x:g}" if few else "")
            axis.set_tick_params(which="minor", labelsize=9)
    if dots:
        ticks = sorted({x for curve in curves for x in _numbers(curve.x)})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    return _svg(figure, name)


def colour_map(name: str) -> UInt8[np.ndarray, "256 3"]:
    """Return the 256 colours of one of matplotlib's maps."""
    from matplotlib import colormaps

    return np.rint(255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)


def _numbers(values: Sequence[NumberOrNone]) -> list[float]:
    return [float(value) for value in values if value is not None]


def _figure(x_label: str, y_label: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, facecolor="none")
    axes = figure.add_axes((0.2, 0.15, 0.755, 0.78), facecolor="none")
    axes.set_xlabel(x_label, fontsize=10)
    axes.set_ylabel(y_label, fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(color="#e4e4e8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: "Figure", name: str) -> str:
    from matplotlib import rc_context

    if titles := figure.axes[0].get_legend_handles_labels()[1]:
        columns = 3 if len(titles) > 2 else 2
        spacing = {"labelspacing": 0.3, "columnspacing": 1, "handletextpad": 0.5}
        look = {"fontsize": 9, "frameon": False, "handlelength": 2.6, "borderaxespad": 0.1}
        figure.legend(loc="upper left", ncols=columns, **look, **spacing)
        height = 0.81 - 0.055 * math.ceil(len(titles) / columns)  # the legend is above the axes
        figure.axes[0].set_position((0.2, 0.15, 0.755, height))
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = re.sub(r"<(metadata|style).*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| font-family: [^;"]*;?', "", text)  # the page's own font
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    return re.sub(r"^<svg( (width|height|version)=\"[^\"]*\")*", "<svg", text)
