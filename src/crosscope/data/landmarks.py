"""A table of points seen in both images -> the linear map between them.

    source_yx_px = matrix @ (target_y_px, target_x_px, 1),  pixel centres at whole numbers.

In least squares over the source's coordinates: from 4 points on an affine map; from 3 points,
which an affine map would fit whatever they are, a similarity (turn, one scale, shift, mirrored or
not).  Written in complex numbers, source = a target + b, or source = a conj(target) + b where it is
mirrored, a similarity is a straight line; it is the one of Umeyama, IEEE Trans. Pattern Anal. Mach.
Intell. 13, 376-380 (1991), doi 10.1109/34.88573.
"""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Complex, Float

from crosscope.data.errors import PairError

COLUMNS = ("source_y_px", "source_x_px", "target_y_px", "target_x_px")
"""Of the table's header; a fifth column, "pair", is optional."""
LEAST_POINTS = 3
LEAST_WIDTH = 0.02
"""The points' spread across their longest direction, as a share of that along it."""

_BIGWARP_ORDER = (3, 2, 5, 4)  # name, active, moving x, moving y, fixed x, fixed y
_SAVE_AGAIN = "Save it as CSV, UTF-8, from a spreadsheet or from BigWarp"


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points that were found in both images.

    Attributes
    ----------
    source_yx_px, target_yx_px : (n, 2) float
        In raw pixels, pixel centres at whole numbers; row i of both is the same point.
    name : str
        For messages: the file's name, and the pair's.
    """

    source_yx_px: Float[np.ndarray, "n 2"]
    target_yx_px: Float[np.ndarray, "n 2"]
    name: str = "landmarks"


@dataclass(frozen=True, eq=False)
class LandmarkFit:
    """The map that landmarks define.

    Attributes
    ----------
    matrix : (2, 3) float
        source_yx_px = matrix @ (target_y_px, target_x_px, 1).
    residual_px : float or None
        RMS, in target pixels, of how far each landmark lies from where the others put it (leave
        one out); None where without one of them the others define no map.
    """

    matrix: Float[np.ndarray, "2 3"]
    residual_px: float | None


def read_landmarks(path: Path | str) -> dict[str | None, Landmarks]:
    """Read landmarks from a table, by pair.

    Parameters
    ----------
    path : Path or str
        Text in UTF-8, separated by comma, semicolon or tab (with the last two, decimal commas are
        understood). Either with a header that names `source_y_px`, `source_x_px`, `target_y_px`,
        `target_x_px` and, optionally, `pair`; other columns are ignored. Or as BigWarp exports
        them, without header: name, active, moving x, moving y, fixed x, fixed y, where moving is
        the source and fixed the target; rows that are not active are passed over.

    Returns
    -------
    dict
        By the pair's name; None is the key of points that hold for all pairs (no column `pair`, or
        nothing in it).

    Raises
    ------
    PairError
        The file is missing, is no such table, holds something that is no finite number, or less
        than 3 points for a pair; with the number of the line.

    Notes
    -----
    BigWarp writes pixels only for images without a pixel size; else it writes lengths, which
    nothing in the file shows. Remove the pixel sizes (Image > Properties) before landmarks are
    set. Its first pixel's centre is 0, as here.
    """
    path = Path(path)
    rows = _rows(path)
    if not rows:
        raise PairError(path, "is empty", _SAVE_AGAIN)
    header = [cell.strip().lower() for cell in rows[0].cells]
    if set(COLUMNS) <= set(header):
        points = _with_header(path, rows[1:], header)
    elif _is_bigwarp(rows[0].cells):
        points = _of_bigwarp(path, rows)
    else:
        lacking = ", ".join(name for name in COLUMNS if name not in header)
        reason = f"line {rows[0].line}: the header has no column {lacking}"
        remedy = f"Begin the table with {','.join(COLUMNS)}, or export it from BigWarp"
        raise PairError(path, reason, remedy)
    by_pair: dict[str | None, list[list[float]]] = {}
    for pair, numbers in points:
        by_pair.setdefault(pair, []).append(numbers)
    if not by_pair:
        raise PairError(path, "has no points", f"Give at least {LEAST_POINTS}")
    landmarks = {}
    for pair, listed in by_pair.items():
        name = path.name if pair is None else f"{path.name}, pair {pair}"
        values = np.array(listed)
        landmarks[pair] = Landmarks(values[:, :2], values[:, 2:], name)
        if len(listed) < LEAST_POINTS:
            whose = "" if pair is None else f" for the pair {pair}"
            reason = f"has {len(listed)} points{whose}"
            raise PairError(path, reason, f"Give at least {LEAST_POINTS}, better 6 or more")
    return landmarks


def fit_landmarks(landmarks: Landmarks) -> LandmarkFit:
    """Fit the linear map from target to source: an affine one, or a similarity to 3 points.

    Parameters
    ----------
    landmarks : Landmarks
        At least 3 that don't lie on one line, better 6 and more, spread over the whole field.

    Returns
    -------
    LandmarkFit

    Raises
    ------
    PairError
        Less than 3 points, or the points of an image lie at one place or on one line.

    Notes
    -----
    All points weigh the same: a single wrong one spoils the map, and shows in `residual_px`. A
    similarity is one of pixels: where they are not square, or not of the same shape in both
    images, give 4 points. Left to itself one of 4 points is told by 3 that an affine map always
    fits: the residual then is a coarse measure, about twice the error of a click.
    """
    source, target = landmarks.source_yx_px, landmarks.target_yx_px
    if len(source) < LEAST_POINTS:
        reason = f"{len(source)} points don't define a map"
        raise PairError(landmarks.name, reason, f"Give at least {LEAST_POINTS}")
    for points, where in ((source, "source"), (target, "target")):
        _require_spread(points, where, landmarks.name)
    if len(source) == LEAST_POINTS:
        return _fit_similarity(source, target)
    return _fit_affine(source, target)


def _fit_affine(source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]) -> LandmarkFit:
    middle = target.mean(axis=0)
    design = np.column_stack([target - middle, np.ones(len(target))])
    solution = np.linalg.lstsq(design, source, rcond=None)[0]
    linear = solution[:2].T
    influence = np.einsum("ni,in->n", design, np.linalg.pinv(design))
    left = _left_out(source - design @ solution, influence)
    if left is not None:
        left = np.linalg.solve(linear, left.T).T  # to target px
    return LandmarkFit(np.column_stack([linear, solution[2] - linear @ middle]), _rms(left))


def _fit_similarity(
    source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]
) -> LandmarkFit:
    """Fit the better of the similarity and the mirrored one."""
    own = source @ (1, 1j)
    ownly = own - own.mean()
    fits = []
    for mirrored in (False, True):
        other = (target * (1, -1 if mirrored else 1)) @ (1, 1j)
        centred = other - other.mean()
        power = float((np.abs(centred) ** 2).sum())
        gain = complex(np.vdot(centred, ownly) / power)
        left = ownly - gain * centred
        fits.append((float((np.abs(left) ** 2).sum()), mirrored, gain, centred, left, power))
    _, mirrored, gain, centred, left, power = min(fits, key=lambda fit: fit[0])
    turn = np.array([[gain.real, -gain.imag], [gain.imag, gain.real]])
    linear = turn * (1, -1 if mirrored else 1)
    influence = 1 / len(own) + np.abs(centred) ** 2 / power
    away = _left_out(_pairs(left) / abs(gain), influence)
    shift = source.mean(axis=0) - linear @ target.mean(axis=0)
    return LandmarkFit(np.column_stack([linear, shift]), _rms(away))


def _pairs(numbers: Complex[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    return np.column_stack([numbers.real, numbers.imag])


def _left_out(
    left: Float[np.ndarray, "n 2"], influence: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 2"] | None:
    """Return what a linear fit without each point leaves there: its residual / (1 - influence)."""
    if influence.max() > 1 - 1e-6:  # without that point there would be no map
        return None
    return left / (1 - influence[:, None])


def _rms(left: Float[np.ndarray, "n 2"] | None) -> float | None:
    return None if left is None else math.sqrt(float((left**2).sum(axis=1).mean()))


def _require_spread(points: Float[np.ndarray, "n 2"], where: str, name: str) -> None:
    along, across = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[:2]
    if across > LEAST_WIDTH * along:
        return
    place = "at one place" if along == 0 else "on one line, or nearly so"
    reason = f"the {len(points)} points of the {where} lie {place}"
    raise PairError(name, reason, "Set points over the whole field, in two directions")


# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    line: int
    cells: list[str]
    decimal_comma: bool


def _rows(path: Path) -> list[_Row]:
    """Return the rows that are not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PairError(path, "does not exist", "Check the name") from error
    except UnicodeDecodeError as error:
        raise PairError(path, "is not text in UTF-8", _SAVE_AGAIN) from error
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise PairError(path, reason, "Name a CSV file that may be read") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(";\t,", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [
            _Row(reader.line_num, cells, separator != ",")
            for cells in reader
            if any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        reason = f"line {reader.line_num} is not CSV ({error})"
        raise PairError(path, reason, _SAVE_AGAIN) from error


def _with_header(
    path: Path, rows: list[_Row], header: list[str]
) -> Iterator[tuple[str | None, list[float]]]:
    places = [header.index(name) for name in COLUMNS]
    pair_place = header.index("pair") if "pair" in header else None
    for row in rows:
        if len(row.cells) < len(header):
            reason = f"line {row.line} has {len(row.cells)} cells, the header {len(header)}"
            raise PairError(path, reason, "Complete the line or delete it")
        pair = None if pair_place is None else row.cells[pair_place].strip() or None
        yield pair, [_number(path, row, i, header[i]) for i in places]


def _is_bigwarp(cells: list[str]) -> bool:
    return len(cells) >= 6 and cells[1].strip().lower() in ("true", "false")


def _of_bigwarp(path: Path, rows: list[_Row]) -> Iterator[tuple[str | None, list[float]]]:
    names = ("", "", "moving x", "moving y", "fixed x", "fixed y")
    for row in rows:
        if not _is_bigwarp(row.cells) or len(row.cells) > 6:
            reason = f"line {row.line} has {len(row.cells)} cells, not the 6 of a 2-D landmark of "
            remedy = "Export the landmarks of two planes, not of stacks, from BigWarp"
            raise PairError(path, f"{reason}BigWarp", remedy)
        if row.cells[1].strip().lower() == "true":
            yield None, [_number(path, row, i, names[i]) for i in _BIGWARP_ORDER]


def _number(path: Path, row: _Row, place: int, column: str) -> float:
    cell = row.cells[place].strip()
    try:
        number = float(cell.replace(",", ".") if row.decimal_comma else cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        reason = f"line {row.line}: {cell!r} is not a number of pixels ({column})"
        raise PairError(path, reason, "Give a finite number, or delete the line")
    return number
