"""Report -> verdict and tables: every number with its place in the report, and how it reads.

What is null in the report is a dash here, and carries the reason that stands beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NumberOrNone = float | int | None
"""As JSON has a number."""

TITLES = {
    "input": "Input",
    "output": "Output",
    "target": "Target",
    "bicubic": "Bicubic",
    "lucy_richardson": "Lucy-Richardson",
    "nnls": "NNLS",
    "twin": "Twin",
    "repeat": "Repeat",
}
MEANINGS = {
    "input": "what the network was given",
    "output": "what the network made of it",
    "target": "the same field under the better microscope",
    "bicubic": "the input, interpolated",
    "lucy_richardson": "the input, deconvolved; the iterations that are best on the other fields",
    "nnls": "the input, deconvolved by non-negative least squares",
    "twin": "the network as it was before its adversarial training",
    "repeat": "a second exposure of the target: what two good images differ by",
}


def finite(value: Any) -> Any:
    """Return what JSON can hold: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        return finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Column:
    """A figure: where it is in the report, before and after the METHOD, and how it is written."""

    path: str
    title: str
    decimals: int | None
    key: str = "median"
    percent: bool = False


def _agreement(part: str) -> list[Column]:
    return [
        Column(f"{part}.psnr_db", "PSNR, dB", 1),
        Column(f"{part}.psnr_plain_db", "PSNR unfitted, dB", 1),
        Column(f"{part}.ssim", "SSIM", 4),
        Column(f"{part}.ms_ssim", "MS-SSIM", 3),
        Column(f"{part}.nrmse", "NRMSE", 4),
        Column(f"{part}.pearson", "Pearson correlation", 3),
    ]


TABLES = {
    "Resolution": [
        Column("summary.fwhm_nm", "FWHM of isolated spots, nm", 0),
        Column("summary.fwhm_nm", "their spread (SD), nm", 0, "sd"),
        Column("summary.resolved_nm", "pairs seen as two from, nm", 0),
        Column("summary.frc_nm", "FRC, nm", 0),
        Column("summary.frc_three_sigma_nm", "FRC at 3 sigma, nm", 0),
        Column("summary.local_frc_nm", "local FRC, nm", 0),
        Column("summary.frc_single_nm", "single-image FRC, nm", 0),
        Column("summary.decorrelation_nm", "decorrelation analysis, nm", 0),
    ],
    "Agreement with the reference, whole fields": _agreement("summary"),
    "Agreement where the sample is": _agreement("summary.sample"),
    "Agreement in the background": _agreement("summary.background"),
    "Spots and artefacts": [
        Column("summary.spots", "F1 score of the spots", 3, "f1"),
        Column("summary.spots", "missed, %", 1, "missed", percent=True),
        Column("summary.spots", "invented, %", 1, "invented", percent=True),
        Column("summary.spots", "split, %", 1, "split", percent=True),
        Column("summary.spots", "merged, %", 1, "merged", percent=True),
        Column("summary.squirrel_rsp", "SQUIRREL RSP", 3),
        Column("summary.squirrel_rse", "SQUIRREL RSE, grey values", None),
    ],
}


DIAL = (
    Column("dial", "PSNR, dB", 1, "psnr_db"),
    Column("dial", "SSIM", 4, "ssim"),
    Column("dial", "FWHM of isolated spots, nm", 0, "fwhm_nm"),
    Column("dial", "F1 score of the spots", 3, "f1"),
    Column("dial", "missed, %", 1, "missed", percent=True),
    Column("dial", "invented, %", 1, "invented", percent=True),
)


@dataclass(frozen=True)
class Number:
    """A number of the report: where it is, and how it reads."""

    path: str
    value: NumberOrNone
    text: str


@dataclass(frozen=True)
class Cell:
    """A number, its interval where it has one, and why something is missing."""

    number: Number
    interval: list[Number]
    reason: str
    count: Number | None = None  # of fields, where it is not all of them


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: dict[str, list[Cell]]

    @property
    def reasons(self) -> list[str]:
        """Of all cells, each once: the table's footnotes."""
        cells = (cell for row in self.rows.values() for cell in row)
        return list(dict.fromkeys(cell.reason for cell in cells if cell.reason))


def at(report: Any, path: str) -> Any:
    """Return what is at "fields.3.psnr_db"; None where there is nothing."""
    for key in path.split("."):
        if isinstance(report, list):
            report = report[int(key)]
        else:
            report = report.get(key) if isinstance(report, Mapping) else None
    return report


def methods_of(report: Any) -> list[str]:
    """Return the METHODs that the report has numbers of, in the order they are shown."""
    found = [at(report, column.path) for columns in TABLES.values() for column in columns]
    found.append(report.get("widths_nm"))
    return [method for method in TITLES if any(method in (figures or {}) for figures in found)]


def number_at(report: Any, path: str, decimals: int | None = 1, *, percent: bool = False) -> Number:
    value = at(report, path)
    if value is None:
        return Number(path, None, "–")
    form = ".3g" if decimals is None else f".{decimals}f"
    text = f"{100 * value if percent else value:{form}}".replace("-", "−")
    return Number(path, value, text)


def cell_of(report: Any, column: Column, method: str) -> Cell:
    path = f"{column.path}.{method}"
    found = at(report, path)
    figures = found if isinstance(found, Mapping) else {}
    path += f".{column.key}" if figures else ""
    number = number_at(report, path, column.decimals, percent=column.percent)
    bounds: list[Number] = []
    if column.key == "median" and None not in (figures.get("low"), figures.get("high")):
        ends = (f"{column.path}.{method}.{end}" for end in ("low", "high"))
        bounds = [number_at(report, end, column.decimals) for end in ends]
    reason = str(figures.get("reason") or "")
    if number.value is None and not reason:
        beside = column.path.removesuffix("_nm") + "_reason"
        known = at(report, f"{beside}.{method}")
        reason = str(known or "not measured for this method")
    elif column.key != "median" and number.value is not None:
        reason = ""  # it is the median's
    count = number_at(report, f"{column.path}.{method}.n", 0) if bounds else None
    if count and count.value in (None, len(report["fields"])):
        count = None
    return Cell(number, bounds, reason, count)


def table_of(report: Any, title: str, methods: Sequence[str]) -> Table:
    columns = [c for c in TABLES[title] if _holds(report, c)]
    having = [m for m in methods if any(m in at(report, column.path) for column in columns)]
    rows = {m: [cell_of(report, column, m) for column in columns] for m in having}
    return Table(title, [column.title for column in columns], rows)


def _holds(report: Any, column: Column) -> bool:
    """Return whether the report knows this figure at all, be it only why it is missing."""
    found = at(report, column.path) or {}
    return any(
        not isinstance(f, Mapping) or column.key in f or "reason" in f for f in found.values()
    )


def dial_table(report: Any) -> Table:
    """Return what is traded between the adversarial network and its twin; a row each fidelity."""
    stops = report.get("dial") or []
    rows = {
        f"{stop['fidelity']:g}": [cell_of(report, column, str(n)) for column in DIAL]
        for n, stop in enumerate(stops)
    }
    return Table("The dial", [column.title for column in DIAL], rows)


TRUST = (
    Column("fields", "Chi-square", 2, "trust.chi_square"),
    Column("fields", "Beyond 5 SD, %", 2, "trust.beyond_share", percent=True),
    Column("fields", "Distance from training", 2, "trust.distance"),
)
INSIDE = Column("fields", "Target inside the interval, %", 1, "inside_interval", percent=True)
FORETOLD = (
    Column("summary.trust.spots", "Number", 0, "n"),
    Column("summary.trust.spots", "Under a doubt above 3 SD, %", 1, "above_3_sd", percent=True),
    Column("summary.trust.spots", "Above 5 SD, %", 1, "above_5_sd", percent=True),
)


def trust_table(report: Any) -> Table:
    """Return what quality control measured without the reference; a row each field."""
    fields = report["fields"]
    columns = [*TRUST, *([INSIDE] if any("inside_interval" in field for field in fields) else [])]
    rows: dict[str, list[Cell]] = {}
    for n, field in enumerate(fields):
        row = []
        for column in columns:
            path = f"fields.{n}.{column.key}"
            number = number_at(report, path, column.decimals, percent=column.percent)
            why = field.get("trust_reason") or "; ".join(at(field, "trust.reasons") or [])
            row.append(Cell(number, [], why if number.value is None else ""))
        rows[str(n)] = row
    return Table("Trust", [column.title for column in columns], rows)


def foretold_table(report: Any) -> Table:
    """Return how many spots lie under a doubt, by what the reference makes of them."""
    spots = at(report, "summary.trust.spots") or {}
    rows = {kind: [cell_of(report, column, kind) for column in FORETOLD] for kind in spots}
    return Table("What the doubts foretell", [column.title for column in FORETOLD], rows)


FIELD_FIGURES = {
    "psnr_db": ("PSNR, dB", 1),
    "ssim": ("SSIM", 4),
    "ms_ssim": ("MS-SSIM", 3),
    "nrmse": ("NRMSE", 4),
    "pearson": ("Pearson", 3),
    "squirrel_rsp": ("SQUIRREL RSP", 3),
}


def field_table(report: Any, methods: Sequence[str]) -> Table:
    """Return the fields' numbers: PSNR of every METHOD, the others of the output."""
    fields = report["fields"]
    columns = [
        (figure, method)
        for figure in FIELD_FIGURES
        for method in (methods if figure == "psnr_db" else ["output"])
        if any(at(field, f"{figure}.{method}") is not None for field in fields)
    ]
    rows: dict[str, list[Cell]] = {}
    for n, field in enumerate(fields):
        row = []
        for figure, method in columns:
            number = number_at(report, f"fields.{n}.{figure}.{method}", FIELD_FIGURES[figure][1])
            why = at(field, f"reasons.{figure}.{method}") if _by_figure(field) else None
            why = why or "; ".join(spoken_reasons(field)) or "no reason was recorded"
            row.append(Cell(number, [], why if number.value is None else ""))
        rows[str(n)] = row
    titles = [f"{TITLES[method]}: {FIELD_FIGURES[figure][0]}" for figure, method in columns]
    return Table("Every field", titles, rows)


def spoken_reasons(field: Any) -> list[str]:
    """Return the sentences that say why a field lacks numbers, but those of single figures."""
    several = [] if _by_figure(field) else list(field.get("reasons") or [])
    return several + ([field["reason"]] if field.get("reason") else [])


def _by_figure(field: Any) -> bool:
    return isinstance(field.get("reasons"), Mapping)


def verdict(report: Any) -> str:
    """Return in one sentence what the output reached: width, PSNR over the controls, artefacts."""
    parts = []
    widths = {m: number_at(report, f"summary.fwhm_nm.{m}.median", 0) for m in TITLES}
    known = [m for m in ("output", "target", "input") if widths[m].value is not None]
    if known and known[0] == "output":
        first, *others = (f"{widths[m].text}\xa0nm{{}} in the {m}" for m in known)
        texts = [first.format(" wide"), *(text.format("") for text in others)]
        parts.append(f"isolated spots are {_listed(texts)}")
    parts += _gain(report)
    spots = at(report, "summary.spots.output") or {}
    shares = [
        f"{100 * spots[k]:.1f}\xa0% of {whose} spots are {k}"
        for k, whose in (("invented", "the output's"), ("missed", "the reference's"))
        if spots.get(k) is not None
    ]
    parts += [_listed(shares)] if shares else []
    count = len(report["fields"])
    on = f"On {count} field{'s' if count != 1 else ''}"
    if not parts:
        return f"{on} nothing could be measured; the footnotes of the tables say why."
    return f"{on}, {'; '.join(parts)}."


def _gain(report: Any) -> list[str]:
    """Return how far the output's PSNR is from the best deconvolution's, or else the input's."""
    medians = {m: at(report, f"summary.psnr_db.{m}.median") for m in TITLES}
    controls = [m for m in ("lucy_richardson", "nnls") if medians[m] is not None]
    controls = controls or [m for m in ("bicubic", "input") if medians[m] is not None][:1]
    if medians["output"] is None or not controls:
        return []
    best = max(controls, key=lambda method: medians[method])
    gain = medians["output"] - medians[best]
    where = "above" if gain >= 0 else "below"
    what = f"the best deconvolution ({TITLES[best]})"
    what = f"the {TITLES[best].lower()} image" if best in ("bicubic", "input") else what
    return [f"the output's PSNR is {abs(gain):.1f}\xa0dB {where} that of {what}"]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
