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
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from PIL import Image as Pillow

from crosscope.data.background import measure_background
from crosscope.data.files import write_html
from crosscope.data.registered import ResidualMap

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
    for quality in range(90, 0, -10):
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=quality, subsampling=0)
        if jpeg.tell() <= OVERLAY_BYTES:
            break
    return jpeg.getvalue()


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
    write_html(
        path,
        Path(__file__).with_name("registration.html.jinja"),
        filters={
            "base64": lambda jpeg: base64.b64encode(jpeg).decode("ascii"),
            "figure": _figure,
            "limit": lambda px: f"{px:.3g}",
            "median": statistics.median,
        },
        entries=entries,
        max_residual_px=max_residual_px,
        colours=COLOURS,
        steps=STEPS,
    )


# --- the overlay ----------------------------------------------------------------------------------


def _stretched(pixels: Num[np.ndarray, "y x"], side_px: int) -> UInt8[np.ndarray, "v u"]:
    """Thin an image and stretch its contrast to 0..255; black where all pixels are equal."""
    grey = pixels.astype(np.float64)
    finite = np.isfinite(grey)
    if not finite.all():
        grey = np.where(finite, grey, np.percentile(grey[finite], 10) if finite.any() else 0.0)
    grey = thin(grey, side_px)
    background = measure_background(grey)
    low = background.level + background.noise
    high = float(np.percentile(grey, WHITE_PERCENTILE))
    if high <= low:  # a few points in the dark
        high = float(grey.max())
    if high - low <= 1e-9 * abs(high):  # nothing, or what rounding left of it
        return np.zeros(grey.shape, np.uint8)
    bright = np.clip((grey - low) / (high - low), 0, 1) ** GAMMA
    return np.rint(255 * bright).astype(np.uint8)


def thin(grey: Float[np.ndarray, "y x"], side_px: int) -> Float[np.ndarray, "v u"]:
    """Average over areas, fractions of pixels counted, to at most `side_px` on the longer side."""
    shrink = side_px / max(grey.shape)
    if shrink >= 1:
        return grey
    for old_px in grey.shape:  # the first axis, turned to the back; then the other one
        edges = np.linspace(0, old_px, max(1, round(old_px * shrink)) + 1)
        whole = np.minimum(edges.astype(int), old_px - 1)
        sums = np.vstack([np.zeros(grey.shape[1]), grey.cumsum(axis=0)])
        up_to_edges = sums[whole] + (edges - whole)[:, None] * grey[whole]
        grey = (np.diff(up_to_edges, axis=0) / edges[1]).T
    return grey


# --- numbers in words -----------------------------------------------------------------------------


def _figure(value: float | None, *, decimals: int = 3, sign: bool = False) -> str:
    """Write a number with `decimals` below 1, and at most two below 10, one below 100."""
    if value is None:
        return "not measured"
    size = abs(value)
    decimals = min(decimals, 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0)
    return f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")


def _facts(record: dict[str, Any]) -> dict[str, str | None]:
    """Return the numbers of a pair with their units, by what they are; None: not measured."""

    def write(key: str, in_words: Callable[[Any], str]) -> str | None:
        value = record.get(key)
        return None if value is None else in_words(value)

    def shift(yx_px: Sequence[float]) -> str:
        y, x = (_figure(by, decimals=2, sign=True) for by in yx_px)
        return f"y {y} px, x {x} px"

    before, after = record.get("correlation_before"), record.get("correlation_after")
    correlation = f"{_figure(before)} before, {_figure(after)} after"
    elastic = write("elastic_px", lambda px: f"{_figure(px, decimals=2)} px")
    unbent = write("shift_px", lambda _: "none")  # registered, by a map without a bend
    return {
        "Correlation": None if before is None and after is None else correlation,
        "Shift": write("shift_px", shift),
        "Rotation": write("rotation_deg", lambda degrees: f"{_figure(degrees)}°"),
        "Scale": write("scale", lambda scale: f"{scale:.4f}"),
        "Mirrored": write("mirrored", lambda mirrored: "yes" if mirrored else "no"),
        "Largest elastic displacement": elastic or unbent,
        "Field": write("shape_px", lambda yx: f"{yx[0]} × {yx[1]} px (y × x)"),
    }


@dataclass(frozen=True)
class _Entry:
    """What the template shows of a pair."""

    name: str
    accepted: bool
    record: dict[str, Any]
    before: bytes | None
    after: bytes | None
    limit_px: float
    facts: dict[str, str | None]
    local: "_Local | None"


def _entry(row: Row, max_residual_px: float) -> _Entry:
    record = row.record
    limit_px = float(record.get("limit_px") or max_residual_px)
    local = _local(record, limit_px)
    return _Entry(
        name=record["name"],
        accepted=record["accepted"],
        record=record,
        before=row.before,
        after=row.after,
        limit_px=limit_px,
        facts=_facts(record) | {"Local residual": local.words if local else None},
        local=local,
    )


# --- the map of local residuals -------------------------------------------------------------------


@dataclass(frozen=True)
class _Local:
    """The drawings of a pair's local residuals, as SVG paths.

    Attributes
    ----------
    width, height : float
        Of the drawing, in its own units.
    from_blocks : str
        The SVG transform to them from units of blocks, in which `tints` and `above` are.
    block_px, pooled, columns : int
        Side of a drawn block in target pixels; how many measured blocks that is a side.
    tints : list of (colour, path)
    above : str
        The blocks above the limit.
    arrows : str
        Of the displacements, `magnified` times.
    key : str
        An arrow as long as the limit, which is `key_units`.
    words : str
    values : str
        JSON: [residual, dy, dx] of each block, row by row, in thousandths of a pixel or null.
    """

    width: float
    height: float
    from_blocks: str
    block_px: int
    pooled: int
    columns: int
    tints: list[tuple[str, str]]
    above: str
    arrows: str
    magnified: str
    key: str
    key_units: float
    words: str
    values: str


def _local(record: dict[str, Any], limit_px: float) -> _Local | None:
    """Draw the map of local residuals, or return None where there is none."""
    if not record.get("local"):
        return None
    measured = ResidualMap.from_json({"corner_yx_px": (0, 0)} | record["local"])
    pooled = math.ceil(max(measured.expected_px.shape) / BLOCKS_A_SIDE)
    drawn = _worst_of(measured, pooled)
    residuals, arrows, block_px = drawn.expected_px, drawn.measured_yx_px, drawn.cell_px
    shape_px = record.get("shape_px") or [n * block_px for n in residuals.shape]
    per_px = DRAWN_PX / max(shape_px)
    visible_px = min(float(block_px), max(shape_px) / 12)
    magnified = _magnification(arrows, limit_px, visible_px=visible_px)
    key_units = limit_px * magnified * per_px
    y, x = (
        per_px * _middles(n, block_px, corner_px, side_px)
        for n, corner_px, side_px in zip(residuals.shape, drawn.corner_yx_px, shape_px, strict=True)
    )
    top, left = (per_px * corner_px for corner_px in drawn.corner_yx_px)
    unit = per_px * block_px
    return _Local(
        width=round(shape_px[1] * per_px, 2),
        height=round(shape_px[0] * per_px, 2),
        from_blocks=f"matrix({unit:.4f} 0 0 {unit:.4f} {left:.3f} {top:.3f})",
        block_px=block_px,
        pooled=pooled,
        columns=residuals.shape[1],
        tints=_tints(residuals, limit_px),
        above=_squares(residuals > limit_px),
        arrows="".join(
            _arrow(x[j], y[i], *(magnified * per_px * arrows[i, j, ::-1]))
            for i, j in np.argwhere(~np.isnan(arrows).any(axis=2))
        ),
        magnified=f"{magnified:g}",
        key=_arrow(8.0, 10.0, key_units, 0.0),
        key_units=round(key_units, 2),
        words=_words(measured, limit_px),
        values=json.dumps(
            [
                [None if math.isnan(px) else round(1000 * px) for px in block]
                for block in np.dstack([residuals, arrows]).reshape(-1, 3).tolist()
            ],
            separators=(",", ":"),
        ),
    )


def _worst_of(blocks: ResidualMap, side: int) -> ResidualMap:
    """Return of every `side` x `side` blocks the one with the largest residual."""
    values = np.dstack([blocks.expected_px, blocks.measured_yx_px])  # i j (residual, dy, dx)

    def worst(i: int, j: int) -> Float[np.ndarray, " 3"]:
        several = values[i : i + side, j : j + side].reshape(-1, 3)
        return several[np.nan_to_num(several[:, 0], nan=-1.0).argmax()]

    rows, columns = (range(0, n, side) for n in blocks.expected_px.shape)
    pooled = np.array([[worst(i, j) for j in columns] for i in rows])
    return replace(
        blocks,
        cell_px=blocks.cell_px * side,
        expected_px=pooled[..., 0],
        measured_yx_px=pooled[..., 1:],
    )


def _magnification(
    arrows_px: Float[np.ndarray, "i j 2"], limit_px: float, *, visible_px: float
) -> float:
    """Return a round magnification that draws the limit `visible_px` long at most.

    Where an arrow would be longer than three of these, all are drawn shorter, but the limit no
    shorter than a quarter: the frame cuts the arrows.
    """
    largest = float(np.nan_to_num(np.hypot(arrows_px[..., 0], arrows_px[..., 1])).max())
    exact = visible_px / min(max(limit_px, largest / 3), 4 * limit_px)
    power = 10.0 ** math.floor(math.log10(exact))
    return max(step * power for step in (1, 2, 5) if step * power <= exact * (1 + 1e-9))


def _arrow(x: float, y: float, dx: float, dy: float) -> str:
    """Return the path of an arrow from (x, y) by (dx, dy); its head shrinks with it."""
    shaft = complex(dx, dy)
    head = shaft * min(0.6, 6.0 / max(abs(shaft), 1.0))
    left, right = head * complex(-1, 0.6), head * complex(-1, -0.6)
    return f"M{x:.0f} {y:.0f}l{_step(shaft)}m{_step(left)}l{_step(-left)}l{_step(right)}"


def _step(by: complex) -> str:
    return f"{by.real:.1f} {by.imag:.1f}"


def _middles(
    blocks: int, block_px: int, corner_px: float, side_px: int
) -> Float[np.ndarray, " blocks"]:
    """Return the middle of what the field has of each block along an axis, in px."""
    edges = np.clip(corner_px + block_px * np.arange(blocks + 1), 0, side_px)
    return (edges[:-1] + edges[1:]) / 2


def _tints(residuals_px: Float[np.ndarray, "i j"], limit_px: float) -> list[tuple[str, str]]:
    """Return each colour that occurs, and its blocks; none where the residual is NaN."""
    steps = np.searchsorted(np.multiply(STEPS, limit_px), residuals_px)
    steps[np.isnan(residuals_px)] = -1
    return [(c, _squares(steps == k)) for k, c in enumerate(COLOURS) if (steps == k).any()]


def _squares(blocks: Bool[np.ndarray, "i j"]) -> str:
    return "".join(f"M{j} {i}h1v1h-1z" for i, j in np.argwhere(blocks))


def _words(blocks: ResidualMap, limit_px: float) -> str:
    """Return the map in one sentence, of all blocks that were measured."""
    every = blocks.expected_px
    known = every[~np.isnan(every)]
    if not known.size:
        return f"none of {every.size} blocks of {blocks.cell_px} px was measured"
    return (
        f"{_figure(float(np.median(known)))} px median, {_figure(known.max())} px worst; "
        f"{(known > limit_px).sum()} of {known.size} blocks of {blocks.cell_px} px above the limit"
        + (f", {every.size - known.size} not measured" if known.size < every.size else "")
    )
