"""Registered pairs -> OUT/registration.html, where one sees whether they are aligned.

Every pair is shown as an overlay before and after registration, source in magenta and target in
green: what agrees is white, what does not has coloured fringes.  Over it lie the displacements
that the registration left, measured on what it had not seen, and beside it a map of the residual.

The page is one file that asks for nothing: overlays are data URIs, styles and the script are
inside, and its content security policy forbids the rest.  Names come from the users' files; jinja2
escapes them.
"""

import base64
import io
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image as Pillow
from scipy import sparse

from crosscope.data.background import measure_background
from crosscope.data.files import writing

OVERLAY_BYTES = 20_000  # 200 of them, as base64, are 5.3 MB
GAMMA = 0.7  # dim structure shows, and noise not yet
WHITE_PERCENTILE = 99.8

STEPS = (0.25, 0.5, 0.75, 1.0, 2.0)  # of the limit: where the map's colour changes
COLOURS = ("#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838")  # cividis
DRAWN_PX = 360.0  # longer side of the drawings, in their own units: about a screen's pixels
BLOCKS_A_SIDE = 16  # more of them are neither legible nor small; the worst of several is drawn


@dataclass(frozen=True)
class Row:
    """A pair as the page shows it.

    Attributes
    ----------
    record : dict
        As in pairs.json; whatever is null or missing there is said to be not measured.
    before, after : bytes or None
        Overlays by `draw_overlay`; None where the pair was refused before one could be drawn.
    """

    record: dict[str, Any]
    before: bytes | None
    after: bytes | None


def draw_overlay(
    source: Num[np.ndarray, "y x"], target: Num[np.ndarray, "y x"], *, side_px: int = 360
) -> bytes:
    """Draw source in magenta over target in green: where both are bright, it is white.

    Each image is thinned by averaging over areas, then stretched from its own background (black)
    to its 99.8th percentile (full), with a gamma of 0.7. The overlay shows where things are, not
    how bright they are.

    Parameters
    ----------
    source, target : (y, x) array
        Grey values on one grid, any range. What is not finite is drawn as background.
    side_px : int
        Longer side of the overlay; smaller images keep their size.

    Returns
    -------
    bytes
        A JPEG of about 20 kB at most. Colour is not thinned out (4:4:4), because here the colour
        is the information.
    """
    assert source.shape == target.shape
    magenta, green = _stretched(source, side_px), _stretched(target, side_px)
    picture = Pillow.fromarray(np.stack([magenta, green, magenta], axis=-1))
    jpeg = b""
    for quality in (90, 80, 70, 60, 50, 40, 30, 20, 10):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, subsampling=0)
        jpeg = file.getvalue()
        if len(jpeg) <= OVERLAY_BYTES:
            break
    return jpeg


def write_page(rows: Sequence[Row], path: Path, *, max_residual_px: float) -> None:
    """Write the page of all pairs, complete or not at all.

    Parameters
    ----------
    rows : sequence of Row
        In the order of pairs.json.
    path : Path
    max_residual_px : float
        The limit that was asked for; a record's own `limit_px` is what held for its pair.

    Raises
    ------
    OutputError
        `path` exists or cannot be written.
    """
    entries = [_entry(row, max_residual_px) for row in rows]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("registration.html.jinja").render(
        entries=entries,
        summary=_summary([row.record for row in rows]),
        limit=_limits([row.record for row in rows], max_residual_px),
        colours=COLOURS,
    )
    with writing(path) as part:  # a file's name need not be text: what is not becomes "?"
        part.write_bytes(text.encode("utf-8", "replace"))


# --- the overlay ----------------------------------------------------------------------------------


def _stretched(pixels: Num[np.ndarray, "y x"], side_px: int) -> UInt8[np.ndarray, "v u"]:
    """Thin an image and stretch its contrast to 0..255; black where all pixels are equal."""
    grey = pixels.astype(np.float64)
    finite = np.isfinite(grey)
    if not finite.all():
        grey = np.where(finite, grey, np.percentile(grey[finite], 10) if finite.any() else 0.0)
    grey = _thinned(grey, side_px)
    background = measure_background(grey)
    low = background.level + background.noise
    high = float(np.percentile(grey, WHITE_PERCENTILE))
    if high <= low:  # a few points in the dark
        high = float(grey.max())
    if high - low <= 1e-9 * abs(high):  # nothing, or what rounding left of it
        return np.zeros(grey.shape, np.uint8)
    bright = np.clip((grey - low) / (high - low), 0, 1) ** GAMMA
    return np.rint(255 * bright).astype(np.uint8)


def _thinned(grey: Float[np.ndarray, "y x"], side_px: int) -> Float[np.ndarray, "v u"]:
    """Average over areas, fractions of pixels counted, to at most `side_px` on the longer side."""
    shrink = min(1.0, side_px / max(grey.shape))
    if shrink == 1.0:
        return grey
    rows, columns = (_areas(n, max(1, round(n * shrink))) for n in grey.shape)
    return np.asarray((columns @ (rows @ grey).T).T)


def _areas(old_px: int, new_px: int) -> Any:
    """Return the sparse matrix (new, old): the share of each old pixel in a new one's mean."""
    width = old_px / new_px
    edges = np.linspace(0, old_px, new_px + 1)
    taps = np.floor(edges[:-1]).astype(int)[:, None] + np.arange(math.ceil(width) + 1)
    covered = np.minimum(taps + 1, edges[1:, None]) - np.maximum(taps, edges[:-1, None])
    weights = np.clip(covered, 0, None) / width
    taps = np.minimum(taps, old_px - 1)  # beyond the end nothing is covered
    row = np.repeat(np.arange(new_px), taps.shape[1])
    return sparse.csr_array((weights.ravel(), (row, taps.ravel())), shape=(new_px, old_px))


# --- numbers in words -----------------------------------------------------------------------------

NOT_MEASURED = "not measured"
Measured = float | int | None
"""As JSON has a number."""


def _figure(value: Measured, unit: str = "", *, decimals: int = 3, sign: bool = False) -> str:
    """Write a number with `decimals` below 1, and at most two below 10, one below 100."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    size = abs(value)
    decimals = min(decimals, 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0)
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", "−") + unit


@dataclass(frozen=True)
class _Summary:
    pairs: int
    accepted: int
    measured: int
    median: str
    worst: str


def _limits(records: Sequence[dict[str, Any]], max_residual_px: float) -> str:
    """Return the limit that held, or the range of those that did."""
    limits = [float(record.get("limit_px") or max_residual_px) for record in records]
    low, high = min(limits, default=max_residual_px), max(limits, default=max_residual_px)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _summary(records: Sequence[dict[str, Any]]) -> _Summary:
    """Return how many pairs were accepted, and the residuals of these."""
    accepted = [record for record in records if record["accepted"]]
    residuals = [r["residual_px"] for r in accepted if r.get("residual_px") is not None]
    return _Summary(
        len(records),
        len(accepted),
        len(residuals),
        _figure(statistics.median(residuals) if residuals else None, " px"),
        _figure(max(residuals, default=None), " px"),
    )


def _residual(record: dict[str, Any], limit_px: float) -> str:
    """Return "0.043 ± 0.008 px = 14.3 nm, limit 0.2 px", less what is unknown."""
    value, error, nm = (record.get(f"residual_{key}") for key in ("px", "error_px", "nm"))
    text = _figure(value)
    if value is not None:
        text += "" if error is None else f" ± {_figure(error)}"
        text += " px" + ("" if nm is None else f" = {_figure(nm, decimals=1)} nm")
    return f"{text}, limit {limit_px:g} px"


def _facts(record: dict[str, Any]) -> dict[str, str | None]:
    """Return the numbers of a pair with their units, by what they are; None: not measured."""
    shift, shape = record.get("shift_px"), record.get("shape_px")
    scale, mirrored = record.get("scale"), record.get("mirrored")
    turn, elastic = record.get("rotation_deg"), record.get("elastic_px")
    correlations = record.get("correlation_before"), record.get("correlation_after")
    before, after = map(_figure, correlations)
    return {
        "Correlation": None if correlations == (None, None) else f"{before} before, {after} after",
        "Shift": None
        if shift is None
        else ", ".join(
            f"{axis} {_figure(by, ' px', decimals=2, sign=True)}"
            for axis, by in zip("yx", shift, strict=True)
        ),
        "Rotation": None if turn is None else _figure(turn, "°"),
        "Scale": None if scale is None else f"{scale:.4f}",
        "Mirrored": None if mirrored is None else "yes" if mirrored else "no",
        "Largest elastic displacement": None
        if elastic is None
        else _figure(elastic, " px", decimals=2),
        "Field": None if shape is None else f"{shape[0]} × {shape[1]} px (y × x)",
    }


@dataclass(frozen=True)
class _Entry:
    """What the template shows of a pair."""

    name: str
    accepted: bool
    reason: str
    record: dict[str, Any]
    cells: dict[str, tuple[Measured, str]]
    residual: str
    limit: str
    facts: dict[str, str]
    unknown: str
    assumed: list[str]
    before: str | None
    after: str | None
    local: "_Local | None"


def _entry(row: Row, max_residual_px: float) -> _Entry:
    record = row.record
    limit_px = float(record.get("limit_px") or max_residual_px)
    facts = _facts(record)
    local = _local(record, limit_px)
    facts["Local residual"] = None if local is None else local.words
    columns = ("residual_px", "residual_nm", "correlation_before", "correlation_after")
    return _Entry(
        name=str(record["name"]),
        accepted=bool(record["accepted"]),
        reason=record.get("reason") or "no reason was recorded",
        record=record,
        cells={key: (record.get(key), _cell(record.get(key), key)) for key in columns}
        | {"limit_px": (limit_px, f"{limit_px:g}")},
        residual=_residual(record, limit_px),
        limit=f"{limit_px:g}",
        facts={what: value for what, value in facts.items() if value is not None},
        unknown=", ".join(what.lower() for what, value in facts.items() if value is None),
        assumed=record.get("assumed") or [],
        before=_data_uri(row.before),
        after=_data_uri(row.after),
        local=local,
    )


def _cell(value: Measured, key: str) -> str:
    return "–" if value is None else _figure(value, decimals=1 if key.endswith("nm") else 3)


def _data_uri(jpeg: bytes | None) -> str | None:
    if jpeg is None:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


# --- the map of local residuals -------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """One block of the field: its residual and the displacement left there, where measured."""

    residual_px: float | None
    arrow_yx_px: tuple[float, float] | None

    @property
    def badness(self) -> tuple[float, float]:
        arrow = self.arrow_yx_px
        length = -1.0 if arrow is None else math.hypot(*arrow)
        return (-1.0 if self.residual_px is None else self.residual_px, length)


@dataclass(frozen=True)
class _Local:
    """The drawings of a pair's local residuals, as SVG paths.

    Attributes
    ----------
    width, height : float
        Of the drawing, in its own units; blocks are drawn in units of blocks, scaled by `unit`.
    unit : float
    corner : str
        "x y" of the first block's corner.
    block_px, pooled, columns : int
        Side of a drawn block in target pixels; how many measured blocks that is a side.
    tints : list of (colour, path)
    above : str
        The blocks above the limit.
    arrows : str
        Of the displacements, `magnified` times.
    magnified : str
    key : str
        An arrow as long as the limit; `key_units` long.
    key_units : float
    edges : list of str
        Upper ends of the colours but the last, in px.
    words : str
    values : str
        JSON: [residual, dy, dx] of each block, row by row, in thousandths of a pixel, or null.
    """

    width: float
    height: float
    unit: float
    corner: str
    block_px: int
    pooled: int
    columns: int
    tints: list[tuple[str, str]]
    above: str
    arrows: str
    magnified: str
    key: str
    key_units: float
    edges: list[str]
    words: str
    values: str


def _local(record: dict[str, Any], limit_px: float) -> _Local | None:
    """Draw the map of local residuals, or return None where there is none."""
    local = record.get("local")
    if not local or not local["residual_px"] or not local["residual_px"][0]:
        return None
    measured = _blocks(local)
    pooled = math.ceil(max(len(measured), len(measured[0])) / BLOCKS_A_SIDE)
    blocks = _worst_of(measured, pooled)
    block_px = local["block_px"] * pooled
    corner_px = local.get("corner_yx_px") or (0.0, 0.0)
    shape_px = record.get("shape_px") or (len(blocks) * block_px, len(blocks[0]) * block_px)
    per_px = DRAWN_PX / max(shape_px)
    visible_px = min(float(block_px), max(shape_px) / 12)
    magnified = _magnification(blocks, limit_px, visible_px=visible_px)
    key_units = limit_px * magnified * per_px
    return _Local(
        width=round(shape_px[1] * per_px, 2),
        height=round(shape_px[0] * per_px, 2),
        unit=round(block_px * per_px, 4),
        corner=" ".join(f"{round(c * per_px, 3):g}" for c in corner_px[::-1]),
        block_px=block_px,
        pooled=pooled,
        columns=len(blocks[0]),
        tints=_tints(blocks, limit_px),
        above=_above(blocks, limit_px),
        arrows="".join(
            _arrow(per_px * x, per_px * y, *(magnified * per_px * d for d in arrow[::-1]))
            for y, row in zip(
                _middles(len(blocks), block_px, corner_px[0], shape_px[0]), blocks, strict=True
            )
            for x, block in zip(
                _middles(len(row), block_px, corner_px[1], shape_px[1]), row, strict=True
            )
            if (arrow := block.arrow_yx_px) is not None
        ),
        magnified=f"{magnified:g}",
        key=_arrow(8.0, 10.0, key_units, 0.0),
        key_units=round(key_units, 2),
        edges=[f"{step * limit_px:.3g}" for step in STEPS],
        words=_words(measured, local["block_px"], limit_px),
        values=json.dumps(
            [_value(block) for row in blocks for block in row], separators=(",", ":")
        ),
    )


def _blocks(local: dict[str, Any]) -> list[list[_Block]]:
    residuals = local["residual_px"]
    arrows = local.get("arrow_yx_px") or [[None] * len(row) for row in residuals]
    return [
        [
            _Block(
                None if residual is None else float(residual),
                None if arrow is None or None in arrow else (float(arrow[0]), float(arrow[1])),
            )
            for residual, arrow in zip(*row, strict=True)
        ]
        for row in zip(residuals, arrows, strict=True)
    ]


def _worst_of(blocks: list[list[_Block]], side: int) -> list[list[_Block]]:
    """Return of every `side` x `side` blocks the one with the largest residual."""
    return [
        [
            max(
                (block for row in blocks[i : i + side] for block in row[j : j + side]),
                key=lambda block: block.badness,
            )
            for j in range(0, len(blocks[0]), side)
        ]
        for i in range(0, len(blocks), side)
    ]


def _magnification(blocks: list[list[_Block]], limit_px: float, *, visible_px: float) -> float:
    """Return a round magnification that draws the limit `visible_px` long at most.

    Where an arrow would be longer than three of these, all are drawn shorter, but the limit no
    shorter than a quarter: the frame cuts the arrows.
    """
    arrows = [block.arrow_yx_px for row in blocks for block in row]
    largest = max((math.hypot(*arrow) for arrow in arrows if arrow is not None), default=0.0)
    exact = visible_px / min(max(limit_px, largest / 3), 4 * limit_px)
    power = 10.0 ** math.floor(math.log10(exact))
    return max(step * power for step in (1, 2, 5) if step * power <= exact * (1 + 1e-9))


def _arrow(x: float, y: float, dx: float, dy: float) -> str:
    """Return the path of an arrow from (x, y) by (dx, dy); its head shrinks with it."""
    length = math.hypot(dx, dy)
    head = min(6.0, 0.6 * length) / max(length, 1e-9)
    back_x, back_y, aside_x, aside_y = -head * dx, -head * dy, -0.6 * head * dy, 0.6 * head * dx
    left, right = (back_x + aside_x, back_y + aside_y), (back_x - aside_x, back_y - aside_y)
    return (
        f"M{x:.0f} {y:.0f}l{_step(dx, dy)}"
        f"m{_step(*left)}l{_step(-left[0], -left[1])}l{_step(*right)}"
    )


def _step(dx: float, dy: float) -> str:
    """Write a step of a path, as short as it can be: "4-.5"."""
    x, y = (re.sub(r"^(-?)0\.", r"\1.", f"{d:.1f}".removesuffix(".0")) for d in (dx, dy))
    return f"{x}{y}" if y.startswith("-") else f"{x} {y}"


def _middles(blocks: int, block_px: int, corner_px: float, side_px: int) -> list[float]:
    """Return the middle of what the field has of each block along an axis, in px."""
    edges = [min(max(corner_px + i * block_px, 0), side_px) for i in range(blocks + 1)]
    return [(start + stop) / 2 for start, stop in pairwise(edges)]


def _above(blocks: list[list[_Block]], limit_px: float) -> str:
    return "".join(
        f"M{j} {i}h1v1h-1z"
        for i, row in enumerate(blocks)
        for j, block in enumerate(row)
        if block.residual_px is not None and block.residual_px > limit_px
    )


def _tints(blocks: list[list[_Block]], limit_px: float) -> list[tuple[str, str]]:
    """Return the blocks of each colour, neighbours in a row joined."""
    edges = [step * limit_px for step in STEPS]
    paths = [""] * len(COLOURS)
    for i, row in enumerate(blocks):
        residuals = [block.residual_px for block in row]
        steps = [None if r is None else int(np.searchsorted(edges, r)) for r in residuals]
        start = 0
        for j in range(1, len(steps) + 1):
            if j < len(steps) and steps[j] == steps[start]:
                continue
            if (step := steps[start]) is not None:
                paths[step] += f"M{start} {i}h{j - start}v1h-{j - start}z"
            start = j
    return [(colour, path) for colour, path in zip(COLOURS, paths, strict=True) if path]


def _value(block: _Block) -> list[int | None] | None:
    if block.residual_px is None and block.arrow_yx_px is None:
        return None
    dy, dx = block.arrow_yx_px or (None, None)
    return [None if v is None else round(1000 * v) for v in (block.residual_px, dy, dx)]


def _words(blocks: list[list[_Block]], block_px: int, limit_px: float) -> str:
    """Return the map in one sentence, of all blocks that were measured."""
    every = [block.residual_px for row in blocks for block in row]
    known = [residual for residual in every if residual is not None]
    if not known:
        return f"none of {len(every)} blocks of {block_px} px was measured"
    above = sum(residual > limit_px for residual in known)
    return (
        f"{_figure(statistics.median(known))} px median, {_figure(max(known))} px worst; "
        f"{above} of {len(known)} blocks of {block_px} px above the limit"
        + (f", {len(every) - len(known)} not measured" if len(known) < len(every) else "")
    )
