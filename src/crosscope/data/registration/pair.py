"""Raw pair -> registered pair: both images on the target's grid, the same field in both.

The target is found in the source (`search`), and the transform refined from coarse to fine: the
images are filtered by what they have in common (`features`), each block tells how far it is off
(`blocks`), and a transform as free as held-out blocks allow is fitted to them (`fields`); then
again, with the images filtered anew.  What is left is measured on held-out blocks (`residual`).
The source is resampled once, and both are cropped to the common field.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage

from crosscope.data.background import measure_background
from crosscope.data.errors import RegistrationError
from crosscope.data.grids import Grey, resample, resample_at, supported
from crosscope.data.landmarks import LandmarkFit, Landmarks, fit_landmarks
from crosscope.data.pairs import RawPair
from crosscope.data.registered import RegisteredPair, ResidualMap
from crosscope.data.registration.blocks import count_per_block, measure_blocks
from crosscope.data.registration.features import (
    apply_filter,
    compress,
    measure_filters,
    measure_finest_period_px,
    unit_of,
)
from crosscope.data.registration.fields import (
    AFFINE,
    KNOTS_PX,
    RIGID,
    TRANSLATION,
    choose,
    fit,
    hold_out,
    kinds_for,
    temper,
)
from crosscope.data.registration.residual import Residual, measure_residual
from crosscope.data.registration.search import TURNS, Place, find_places, nominal_matrix
from crosscope.data.transforms import Matrix, Transform, apply, compose, invert

MOST_RESIDUAL_PX = 0.2
LEAST_SHARE_OF_RESOLUTION = 0.05
"""No limit is stricter than this share of the finest period that the source shows."""
COARSEST_SIDE_PX = 320
LEAST_SIDE_PX = 32
"""Of the common field."""
ROUNDS, FILTERED_ROUNDS = 6, 3
"""On each level; the filters of the second serve the rest."""


def register(
    pair: RawPair,
    *,
    rigid: bool = False,
    max_residual_px: float | None = None,
    landmarks: Landmarks | None = None,
) -> RegisteredPair:
    """Register a raw pair to sub-pixel accuracy, and crop it to the common field.

    Parameters
    ----------
    pair : RawPair
        Axes "yx". One field may be a crop of the other, turned by up to 6 degrees, magnified by up
        to 3.5 %, mirrored or turned by quarters, and bent. Where a pixel size is not known the
        magnification is searched, from 1/8 to 8 target pixels in a source pixel.
    rigid : bool
        Allow a shift and a turn only, as for confocal and STED on one stage.
    max_residual_px : float, optional
        The largest residual, in target px; by default 0.2, but no less than 5 % of the finest
        period that the source shows above its noise.
    landmarks : Landmarks, optional
        Where to start from. Where the images cannot be matched from there, they alone decide, and
        the residual is theirs (leave one out).

    Returns
    -------
    RegisteredPair
        The source resampled once, by the cubic kernel of Keys, to the target's grid; `residual_px`
        measured on held-out blocks.

    Raises
    ------
    RegistrationError
        An image is constant or not finite; the fields overlap by less than 25 % of the smaller one
        or by less than 32 px; the images don't match; or the residual is above its limit.

    Notes
    -----
    How free the transform is - a shift, a turn with it, affine, bent - is chosen on held-out
    blocks. Structures that repeat (a grating) can lock in one period off. A bend finer than about
    64 px is not followed. Resampling leaves the noise of neighbouring source pixels correlated,
    and, half way between pixels in y and x, 36 % weaker.
    """
    registered = register_anyway(
        pair, rigid=rigid, max_residual_px=max_residual_px, landmarks=landmarks
    )
    if registered.reason is not None:
        raise RegistrationError(pair.name, registered.reason, _ABOVE)
    return registered


_ABOVE = "Look at its overlay, leave it out, or allow more by --max-residual-px or --all"


def register_anyway(
    pair: RawPair,
    *,
    rigid: bool = False,
    max_residual_px: float | None = None,
    landmarks: Landmarks | None = None,
) -> RegisteredPair:
    """Register a raw pair as `register` does; above the limit it carries a `reason` instead."""
    _require_usable(pair)
    raw_source, target = (i.pixels.astype(np.float64) for i in (pair.source, pair.target))
    fitted = None if landmarks is None else fit_landmarks(landmarks)
    places = (
        find_places(raw_source, target, _zoom(pair))
        if fitted is None
        else iter([_place_of(fitted.matrix, raw_source.shape)])
    )
    aligned = next(
        (a for place in places if (a := _align(raw_source, target, place, rigid=rigid))), None
    )
    if fitted is not None and (aligned is None or _led_astray(aligned, fitted, target.shape)):
        aligned = _by_landmarks(fitted, raw_source.shape)
    if aligned is None:
        reason = "source and target don't match at any displacement that leaves 25 % in common"
        remedy = (
            "Check that both show the same field and that it holds structure, or give landmarks"
        )
        if _zoom(pair) is None:
            remedy += "; and pass --source-pixel-size-nm and --target-pixel-size-nm"
        raise RegistrationError(pair.name, reason, remedy)
    return _registered(pair, raw_source, aligned, max_residual_px)


def register_like(pair: RawPair, like: RegisteredPair) -> RegisteredPair:
    """Register a raw pair by the transform of another channel of the same two images.

    The residual is that channel's: what the colours differ by is not measured.
    """
    _require_usable(pair)
    height, width = like.target.pixels.shape
    top, left = like.origin_yx_px
    field = slice(top, top + height), slice(left, left + width)
    source = _resampled(pair.source.pixels.astype(np.float64), like.transform, field)
    target = np.ascontiguousarray(pair.target.pixels[field])
    return replace(
        like,
        name=pair.name,
        source=pair.source.with_pixels(source, pixel_size_nm=like.source.pixel_size_nm),
        target=pair.target.with_pixels(target, pixel_size_nm=like.target.pixel_size_nm),
        correlation_before=None,
        correlation_after=_correlation(source, target),
        channel=pair.channel,
    )


# --- alignment ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Aligned:
    """A transform from raw target px to raw source px, and what it leaves."""

    transform: Transform
    residual: Residual
    cell_px: int
    place: Place


def _align(source: Grey, target: Grey, place: Place, *, rigid: bool) -> _Aligned | None:
    """Refine a place, from coarse to fine; None where the images turn out not to match."""
    nominal = resample(place.turn.of(source), place.zoom)
    finest = max(1, int(max(place.zoom) / 2))  # what is thinner than the source's pixels is empty
    thinnings = [finest]
    while max(target.shape) / thinnings[-1] > COARSEST_SIDE_PX:
        thinnings.append(2 * thinnings[-1])
    shifted = np.allclose(place.matrix[:, :2], np.eye(2))
    transform, kind = (
        Transform(place.matrix),
        TRANSLATION if shifted else RIGID if rigid else AFFINE,
    )
    filtered: _Filtered | None = None
    for thinning in thinnings[::-1]:
        level = _level(nominal, target, thinning)
        knots_px = KNOTS_PX * thinning
        side_px = min(level.target.shape)
        cell_px = 64 if side_px >= 320 else 32 if side_px >= 64 else 16
        for number in range(ROUNDS):
            frame = _frame(level, transform)
            if number < FILTERED_ROUNDS:
                filtered = _filter(level, frame)
            if filtered is None:
                return None
            # what bends is followed in smaller blocks, of fewer objects that may differ
            block_px = min(cell_px // 2, 16) if kind.name == "elastic" else cell_px // 2
            blocks = measure_blocks(
                filtered.source_spline,
                filtered.target,
                frame.positions,
                frame.inside,
                transform,
                thinning=thinning,
                block_px=block_px,
                cell_px=cell_px,
            )
            if not blocks.information.any():
                return None
            tempered = temper(blocks, kind, target.shape, knots_px=knots_px)
            if number == 1:
                kinds = kinds_for(blocks, rigid=rigid)
                errors = hold_out(tempered, kinds, target.shape, knots_px=knots_px)
                kind = choose(kinds, errors)
                tempered = temper(blocks, kind, target.shape, knots_px=knots_px)
            fitted = fit(tempered, kind, target.shape, knots_px=knots_px)
            transform = fitted.transform
    assert filtered is not None
    structure = count_per_block(_structure(target, thinning, frame.inside), block_px)
    residual = measure_residual(
        tempered, fitted, structure, target.shape, kinds=kinds, knots_px=knots_px
    )
    if residual is None:
        return None
    to_raw = compose(nominal_matrix(place.turn, place.zoom, source.shape), transform.matrix)
    return _Aligned(
        Transform(to_raw, transform.bend),
        residual,
        cell_px * thinning,
        place,
    )


@dataclass(frozen=True, eq=False)
class _Level:
    """Both images, thinned out, on the target's pixel size."""

    thinning: int
    source: Grey
    target: Grey


def _level(source: Grey, target: Grey, thinning: int) -> _Level:
    zoom = (1 / thinning, 1 / thinning)
    return _Level(thinning, resample(source, zoom), resample(target, zoom))


@dataclass(frozen=True, eq=False)
class _Filtered:
    """Both images of a level, filtered by what they have in common."""

    source_spline: Grey
    target: Grey


@dataclass(frozen=True, eq=False)
class _Frame:
    """Where in a level's source its target pixels are, and which of them count."""

    positions: Float[np.ndarray, "2 y x"]
    inside: Bool[np.ndarray, "y x"]


def _frame(level: _Level, transform: Transform) -> _Frame:
    rows, columns = (level.thinning * (np.arange(n) + 0.5) - 0.5 for n in level.target.shape)
    positions = (transform.on_grid(rows, columns) + 0.5) / level.thinning - 0.5
    margin = min(max(min(level.target.shape) // 16, 4), 12)  # filters have mirrored the image there
    inside = np.zeros(level.target.shape, dtype=bool)
    inside[margin:-margin, margin:-margin] = True
    for position, length in zip(positions, level.source.shape, strict=True):
        inside &= (position >= margin) & (position < length - margin)
    return _Frame(positions, inside)


def _filter(level: _Level, frame: _Frame) -> _Filtered | None:
    """Filter both images by what they have in common; None where that is nothing."""
    moved = ndimage.map_coordinates(level.source, frame.positions, order=3, mode="nearest")
    filters = measure_filters(moved, level.target, frame.inside)
    if not filters.coherence.any():
        return None
    source = apply_filter(level.source, filters.frequency, filters.source)
    target = apply_filter(level.target, filters.frequency, filters.target)
    unit = unit_of(source)
    return _Filtered(ndimage.spline_filter(compress(source, unit), order=3), compress(target, unit))


def _structure(
    target: Grey, thinning: int, inside: Bool[np.ndarray, "y x"]
) -> Bool[np.ndarray, "y x"]:
    """Return which pixels of a level lie inside structures."""
    blurred = ndimage.gaussian_filter(resample(target, (1 / thinning, 1 / thinning)), 1.0)
    background = measure_background(blurred)
    rise = blurred - background.level
    return inside & (rise > max(0.1 * np.percentile(rise, 99.5), 3 * background.noise))


# --- landmarks ------------------------------------------------------------------------------------


def _place_of(matrix: Matrix, source_shape: tuple[int, ...]) -> Place:
    """Return the place that a matrix from raw target to raw source px says."""
    best = None
    for turn in TURNS:
        linear = invert(turn.matrix(source_shape))[:, :2] @ matrix[:, :2]
        scale = math.sqrt(abs(float(np.linalg.det(linear))))
        off = float(np.abs(linear / scale - np.eye(2)).sum())
        if best is None or off < best[0]:
            best = off, turn, (1 / scale, 1 / scale)
    assert best is not None
    _, turn, zoom = best
    nominal = nominal_matrix(turn, zoom, source_shape)
    return Place(turn, zoom, compose(invert(nominal), matrix))


def _led_astray(aligned: _Aligned, landmarks: LandmarkFit, shape: tuple[int, ...]) -> bool:
    """Tell whether the images led farther away from the landmarks than those can be wrong."""
    corners = np.array([[y, x] for y in (0, shape[0]) for x in (0, shape[1])], dtype=np.float64)
    away = aligned.transform.to_source(corners) - apply(landmarks.matrix, corners)
    scale = math.sqrt(abs(float(np.linalg.det(landmarks.matrix[:, :2]))))
    allowed_px = max(5.0, 5 * (landmarks.residual_px or 0.0))
    return bool(np.hypot(*away.T).max() / scale > allowed_px)


def _by_landmarks(landmarks: LandmarkFit, source_shape: tuple[int, ...]) -> _Aligned:
    nothing = np.zeros((0, 2))
    residual_px = math.inf if landmarks.residual_px is None else landmarks.residual_px
    residual = Residual(residual_px, 0.0, nothing, nothing[:, 0], nothing)
    place = _place_of(landmarks.matrix, source_shape)
    return _Aligned(Transform(landmarks.matrix), residual, 64, place)


# --- the registered pair --------------------------------------------------------------------------


def _registered(
    pair: RawPair, raw_source: Grey, aligned: _Aligned, max_residual_px: float | None
) -> RegisteredPair:
    """Resample the source, and crop both to the common field."""
    transform, shape = aligned.transform, pair.target.pixels.shape
    field = _largest_field(_supported(raw_source.shape, transform, shape))
    _require_size(pair.name, tuple(part.stop - part.start for part in field))
    source = _resampled(raw_source, transform, field)
    target = np.ascontiguousarray(pair.target.pixels[field])
    before = before_registration(pair, aligned.place.zoom)
    px_per_px = _px_per_px(transform)
    limit_px = max_residual_px
    if limit_px is None:
        finest_px = measure_finest_period_px(raw_source) / px_per_px
        limit_px = max(MOST_RESIDUAL_PX, LEAST_SHARE_OF_RESOLUTION * finest_px)
    residual_px, reason = aligned.residual.rms_px, None
    if not residual_px <= limit_px:
        reason = f"what is left, {residual_px:.2f} px, is above the limit of {limit_px:.2f} px"
    source_nm, target_nm = _sizes_nm(pair, px_per_px)
    assumed = pair.source.assumed
    if _zoom(pair) is None:
        found = f"{1 / px_per_px:.3f} target pixels in a source pixel"
        assumed += (f"A pixel size is missing: the magnification was searched, {found}",)
    origin = field[0].start, field[1].start
    return RegisteredPair(
        pair.name,
        pair.source.with_pixels(source, pixel_size_nm=target_nm, assumed=assumed),
        pair.target.with_pixels(target, pixel_size_nm=target_nm),
        transform,
        origin,
        source_nm,
        residual_px,
        _correlation(*before),
        _correlation(source, target),
        pair.source.sha256,
        pair.target.sha256,
        residual_error_px=aligned.residual.error_px,
        limit_px=round(limit_px, 4),
        residual_map=_map_of(aligned, origin, shape),
        channel=pair.channel,
        reason=reason,
    )


def before_registration(
    pair: RawPair, zoom: tuple[float, float]
) -> tuple[Num[np.ndarray, "y x"], Num[np.ndarray, "y x"]]:
    """Return source and target on the target's pixel size, corner on corner, cropped to both."""
    source = resample(pair.source.pixels, zoom)
    height, width = map(min, source.shape, pair.target.pixels.shape)
    return source[:height, :width], pair.target.pixels[:height, :width]


def _bands(field: tuple[slice, slice]) -> Iterator[slice]:
    """Yield bands of rows, so that a large field never needs all its positions at once."""
    for start in range(field[0].start, field[0].stop, 256):
        yield slice(start, min(start + 256, field[0].stop))


def _resampled(raw: Grey, transform: Transform, field: tuple[slice, slice]) -> Grey:
    columns = np.arange(field[1].start, field[1].stop, dtype=float)
    stretch = max(1.0, _px_per_px(transform))
    bands = (
        transform.on_grid(np.arange(b.start, b.stop, dtype=float), columns) for b in _bands(field)
    )
    return np.concatenate(
        [resample_at(raw, band, stretch=stretch).astype(np.float32) for band in bands]
    )


def _supported(
    raw_shape: tuple[int, ...], transform: Transform, shape: tuple[int, ...]
) -> Bool[np.ndarray, "y x"]:
    stretch, columns = max(1.0, _px_per_px(transform)), np.arange(shape[1], dtype=float)
    whole = slice(0, shape[0]), slice(0, shape[1])
    bands = (
        transform.on_grid(np.arange(b.start, b.stop, dtype=float), columns) for b in _bands(whole)
    )
    return np.concatenate([supported(band, raw_shape, stretch=stretch) for band in bands])


def _px_per_px(transform: Transform) -> float:
    """Return how many source pixels a target pixel is wide."""
    return math.sqrt(abs(float(np.linalg.det(transform.matrix[:, :2]))))


def _largest_field(valid: Bool[np.ndarray, "y x"]) -> tuple[slice, slice]:
    """Return a large upright rectangle of valid pixels: the worst side is trimmed, in turn."""
    top, left, bottom, right = 0, 0, *valid.shape
    while top < bottom and left < right:
        sides = [
            valid[top, left:right],
            valid[bottom - 1, left:right],
            valid[top:bottom, left],
            valid[top:bottom, right - 1],
        ]
        shares = [side.mean() for side in sides]
        worst = int(np.argmin(shares))
        if shares[worst] == 1:
            break
        top += worst == 0
        bottom -= worst == 1
        left += worst == 2
        right -= worst == 3
    return slice(top, bottom), slice(left, right)


def _map_of(aligned: _Aligned, origin: tuple[int, int], shape: tuple[int, ...]) -> ResidualMap:
    residual, cell_px = aligned.residual, aligned.cell_px
    rows, columns = (math.ceil(n / cell_px) for n in shape)
    expected, measured = np.full((rows, columns), np.nan), np.full((rows, columns, 2), np.nan)
    i, j = (residual.cells_yx_px / cell_px).astype(int).T
    expected[i, j], measured[i, j] = residual.expected_px, residual.measured_yx_px
    return ResidualMap(cell_px, (-float(origin[0]), -float(origin[1])), expected, measured)


def _sizes_nm(
    pair: RawPair, px_per_px: float
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return the pixel sizes of source and target; where one is not known, by the other."""
    source_nm, target_nm = pair.source.pixel_size_nm, pair.target.pixel_size_nm
    if source_nm is None and target_nm is not None:
        source_nm = target_nm[0] / px_per_px, target_nm[1] / px_per_px
    if target_nm is None and source_nm is not None:
        target_nm = source_nm[0] * px_per_px, source_nm[1] * px_per_px
    return source_nm, target_nm


def _zoom(pair: RawPair) -> tuple[float, float] | None:
    source_nm, target_nm = pair.source.pixel_size_nm, pair.target.pixel_size_nm
    if source_nm is None or target_nm is None:
        return None
    return source_nm[0] / target_nm[0], source_nm[1] / target_nm[1]


def _correlation(a: Num[np.ndarray, "y x"], b: Num[np.ndarray, "y x"]) -> float | None:
    """Return Pearson's correlation, or None where an image is constant."""
    if a.size == 0 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


# --- refusals -------------------------------------------------------------------------------------


def _require_usable(pair: RawPair) -> None:
    for image in (pair.source, pair.target):
        if not np.isfinite(image.pixels).all():
            remedy = "Crop the pixels that are NaN or infinite away"
            raise RegistrationError(pair.name, f"{image.name} has pixels without a value", remedy)
        if image.pixels.size == 0 or np.ptp(image.pixels) == 0:
            reason = f"{image.name} is constant: all its pixels are equal"
            raise RegistrationError(pair.name, reason, "Leave this pair out")
        _require_size(pair.name, image.pixels.shape)


def _require_size(name: str, common: tuple[int, ...]) -> None:
    if min(common) >= LEAST_SIDE_PX:
        return
    reason = f"the common field is {common[0]} x {common[1]} px"
    remedy = f"Give images that share at least {LEAST_SIDE_PX} x {LEAST_SIDE_PX} px"
    raise RegistrationError(name, reason, remedy)
