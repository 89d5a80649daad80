"""The fields of a tile scan -> one image.

1. The stage's positions, in pixels, say which tiles overlap. Stages count y upwards or downwards,
   x to either side, and may call the image's y x: of the 8 ways that one is taken by which the
   overlaps look alike.
2. Each overlap is measured: normalised cross-correlation, mean-subtracted, over all displacements
   that the stage may err by (Padfield 2012), a 2-D Gaussian fitted to its peak. The correlation is
   not whitened: whitened, it errs by 0.3 px on images that are blurred and noisy.
3. Positions p are those of the least squares

       sum over overlaps  w |p_b - p_a - d|^2  ->  least,    w = n r^2 / (1 - r^2),

   d the displacement measured in n pixels with the correlation r, Cauchy's weight against
   outliers; what could not be measured is d of the stage with a tiny weight (Preibisch 2009).
4. Each tile is resampled once to the image's grid, and overlaps are blended linearly.

Padfield, IEEE Trans. Image Process. 21, 2706-2718 (2012), doi 10.1109/TIP.2011.2181402.
Preibisch, Saalfeld, Tomancak, Bioinformatics 25, 1463-1465 (2009),
doi 10.1093/bioinformatics/btp184.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy import fft, ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from crosscope.data.background import measure_background
from crosscope.data.errors import ImageError
from crosscope.data.grids import Axis, Grey, resample_within
from crosscope.data.images import Image, require_finite

STAGE_ERROR = 0.05
"""How far a stage may err, as a share of the tile's longer side; at least `STAGE_ERROR_PX`."""
STAGE_ERROR_PX = 8
SIGNIFICANT, STRONG = 6.0, 0.45
"""How far a correlation must stand out of the spread of all others, and how high it must be, to be
believed where the two halves of the overlap don't show it each: one may be empty."""
LEAST_CORRELATION, LEAST_STRENGTH = 0.1, 10.0
"""The latter times the root of the pixels: 4 standard errors of noise that was smoothed by 1 px,
sqrt(2 pi) each."""
LEAST_SHARED = 0.02
"""Of a tile's area: smaller overlaps, of corners as a rule, match by chance and tell little."""
LEAST_OVERLAP = 0.3
"""Of the overlap that the stage says: what a displacement must leave of it."""
SMOOTHING_PX, BACKGROUND_PX = 1.0, 6.0
"""What is compared lies between these two, as Gaussian blurs."""
SEARCH_BACKGROUND_PX = 4.0
"""Instead of the latter in the first search: a border falsifies no more than this of an overlap."""
INCONSISTENT_PX = 1.5
"""An overlap that contradicts the others by more than this is not believed."""
CLEAR, LEAST_MATCHING = 1.25, 0.25
"""How much better than by any other orientation the overlaps must match by the one that is taken,
and the share of overlaps that must match at all: of unrelated images some 3 % do by chance."""
LEAST_PART = 0.5
"""Of each tile's area: what the cut to a rectangle must leave of it."""

_STAGE_WEIGHT = 1e-4  # of a stage's displacement against a measured one: (0.1 px / 10 px)^2
_ORIENTATION_PAIRS = 24  # measured for each of the 8 orientations
_ORIENTATIONS = [
    np.eye(2, dtype=np.int64)[::order] * signs
    for order, *signs in itertools.product((1, -1), repeat=3)
]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tiles of a scan lie.

    Attributes
    ----------
    yx_px : (n, 2) float
        The centre of each tile's first pixel, on one grid; the smallest y and x are 0.
    stage_to_image : (2, 2) int
        image_yx = stage_to_image @ stage_yx, up to the pixel size: 0, 1 and -1.
    moved_px : (n,) float
        How far each tile lies from where the stage says, the mean of all tiles in common.
    overlaps, measured : int
        Pairs of tiles that overlap, and those of them whose displacement could be measured.
    residual_px : float or None
        Weighted RMS by which the measured displacements contradict each other; None where they
        form no loop.
    assumed : tuple of str
        What had to be assumed, and what was found, one sentence each.
    """

    yx_px: Float[np.ndarray, "n 2"]
    stage_to_image: Int[np.ndarray, "2 2"]
    moved_px: Float[np.ndarray, " n"]
    overlaps: int
    measured: int
    residual_px: float | None
    assumed: tuple[str, ...]


def stitch(
    tiles: Sequence[Image], *, name: str, stage_to_image: Int[np.ndarray, "2 2"] | None = None
) -> Image:
    """Put the fields of a tile scan together.

    Parameters
    ----------
    tiles : sequence of Image
        Of equal axes, shape and pixel size, each with its position; they overlap by 5 % or more,
        better 10 %. Planes of c, t and z are put together alike.
    name : str
        Of the image that comes out.
    stage_to_image : (2, 2) int, optional
        How the stage's axes lie, where the overlaps cannot tell; see `Layout`.

    Returns
    -------
    Image
        float32, in the tiles' grey values; `assumed` says how the tiles were placed and what of
        them was cut away. Without position: the tiles' no longer hold.

    Raises
    ------
    ImageError
        As for `locate_tiles`; or there is a hole between the tiles, which nothing could fill; or
        they form no rectangle, so that cutting to one would lose more than half of a tile.

    Notes
    -----
    The outline is cut to the largest rectangle without gaps. One or two border pixels of each
    tile are lost to the resampling, by the cubic kernel of Keys; it leaves the noise of
    neighbouring pixels correlated and up to 36 % weaker, by a different amount in each tile, and
    blending makes it up to 29 % weaker still where two tiles overlap. Illumination is not touched:
    correct it before (`correct_flat`), or its steps stay. What moved between two exposures is seen
    twice.
    """
    layout = locate_tiles(tiles, stage_to_image=stage_to_image)
    shape, leading = tiles[0].pixels.shape[-2:], tiles[0].pixels.shape[:-2]
    corners = np.rint(layout.yx_px).astype(np.int64)
    axes = [
        [Axis(n, n, 1.0, shift) for n, shift in zip(shape, shifts, strict=True)]
        for shifts in (corners - layout.yx_px).tolist()
    ]
    covered = np.array([[(axis.start, axis.stop) for axis in pair] for pair in axes])
    boxes = covered + corners[..., None]  # tile y/x from/to
    rectangle = _inner_rectangle(boxes, [tile.name for tile in tiles], name)
    weight = np.zeros(np.ptp(rectangle, axis=1), dtype=np.float32)
    mosaic = np.zeros((*leading, *weight.shape), dtype=np.float32)
    for tile, (y, x), box in zip(tiles, axes, boxes, strict=True):
        inside = np.clip(box, rectangle[:, :1], rectangle[:, 1:])
        here, own = _window(inside - rectangle[:, :1]), _window(inside - box[:, :1])
        feather = np.outer(_feather(y), _feather(x))[own]
        weight[here] += feather
        for plane in np.ndindex(leading):
            moved = resample_within(tile.pixels[plane].astype(np.float64), y, x)
            mosaic[plane][here] += feather * moved[own].astype(np.float32)
    mosaic /= weight
    kept = weight.size / (boxes[..., 1].max(axis=0) - boxes[..., 0].min(axis=0)).prod()
    said = (
        f"{len(tiles)} tiles were resampled once (cubic) and their overlaps blended linearly",
        f"The ragged outline was cut away: {kept:.1%} of the rectangle around it is kept",
    )
    known = dict.fromkeys(sentence for tile in tiles for sentence in tile.assumed)
    return tiles[0].with_pixels(
        mosaic,
        name=name,
        sha256=None,
        assumed=(*known, *layout.assumed, *said),
        position_yx_nm=None,
    )


def locate_tiles(
    tiles: Sequence[Image], *, stage_to_image: Int[np.ndarray, "2 2"] | None = None
) -> Layout:
    """Find where the tiles of a scan lie, from the stage's positions and from their overlaps.

    Parameters
    ----------
    tiles : sequence of Image
        At least two, of equal axes, shape and pixel size, each with its position.
    stage_to_image : (2, 2) int, optional
        How the stage's axes lie, instead of what the overlaps show; see `Layout`.

    Returns
    -------
    Layout

    Raises
    ------
    ImageError
        The tiles are not alike, lack a position or a pixel size, are not finite, are two at one
        place, or some touch no other by the stage's positions; or the overlaps don't show how the
        stage's axes lie.

    Notes
    -----
    Looked at is the mean of all planes of c, t and z. A stage may err by 5 % of the tile's side,
    a slightly turned camera included. Of simulated scans with 10 % overlap, half the tiles came
    back within 0.1 px at 20 photons and 0.04 px at 200. Overlaps without structure, or without the
    same in both tiles, are placed as the stage says; an illumination that falls by half towards the
    corners costs 0.1 px; structures that repeat can lock in one period off.
    """
    _require_tiles(tiles)
    shape = tiles[0].pixels.shape[-2:]
    features = [_features(tile) for tile in tiles]
    if stage_to_image is None:
        found = _find_orientation(tiles, features)
    else:
        found = _Orientation(stage_to_image, f"As was said: {_directions(stage_to_image)}")
    stage_px = _stage_px(tiles, found.stage_to_image)
    pairs = _overlapping(stage_px, shape)
    edges = _edges(len(tiles), pairs)
    expected_px = edges @ stage_px
    _require_apart(pairs, expected_px, tiles)
    _require_connected(edges, tiles)
    matches = [
        _match(features[a], features[b], offset_px)
        for (a, b), offset_px in zip(pairs, expected_px, strict=True)
    ]
    moves = np.array([match.offset_px for match in matches]) - expected_px
    weights = _believed(edges, moves, np.array([match.weight for match in matches]))
    solved = _solve(edges, moves, weights)
    trusted = weights > 0
    measured, parts = int(trusted.sum()), _parts(edges[trusted]).max() + 1
    redundant = measured - (len(tiles) - parts)
    residual_px = None
    if redundant > 0:
        square = ((moves - edges @ solved) ** 2).sum(axis=1)
        residual_px = math.sqrt(np.average(square, weights=weights) * measured / redundant)
    yx_px = stage_px + solved
    moved_px = np.hypot(*solved.T)
    checked = "" if residual_px is None else f", agreeing to {residual_px:.2f} px RMS"
    said = [
        found.said,
        f"{measured} of {len(pairs)} overlaps held structure that both tiles show{checked}: "
        f"by them the tiles were moved by up to {moved_px.max():.1f} px from the stage's positions",
    ]
    if parts > 1:
        said.append("Tiles without such an overlap lie where the stage says, to a few px")
    return Layout(
        yx_px - yx_px.min(axis=0),
        found.stage_to_image,
        moved_px,
        len(pairs),
        measured,
        residual_px,
        tuple(said),
    )


# --- one overlap ----------------------------------------------------------------------------------


def _features(tile: Image) -> Float32[np.ndarray, "y x"]:
    """Return what is compared: smoothed, and rooted so that noise is even."""
    planes = tile.pixels.reshape(-1, *tile.pixels.shape[-2:])
    pixels = planes.mean(axis=0, dtype=np.float64)
    background = measure_background(pixels)
    noise = background.noise / (2 * math.sqrt(math.pi) * SMOOTHING_PX)  # of the smoothed image
    smooth = ndimage.gaussian_filter(pixels - background.level, SMOOTHING_PX)
    # below 20 noises nearly a straight line
    return np.sqrt(np.maximum(smooth + 20 * noise, 0.0)).astype(np.float32)


def _sharp(features: Grey, background_px: float) -> Grey:
    return features - ndimage.gaussian_filter(features, background_px)


@dataclass(frozen=True, eq=False)
class _Match:
    """What an overlap says of the displacement of one tile against another.

    `weight` is 0 where it says nothing, whatever the offset.
    """

    offset_px: Float[np.ndarray, "2"]
    weight: float


def _match(first: Grey, second: Grey, offset_px: Float[np.ndarray, "2"]) -> _Match:
    """Measure where the second tile's first pixel lies on the first tile, near `offset_px`."""
    side = max(first.shape)
    reach = max(round(STAGE_ERROR * side), min(STAGE_ERROR_PX, side // 4))
    expected = np.round(offset_px).astype(int)
    own, other = _facing(first.shape, expected, reach)
    start = expected - reach - [a.start - b.start for a, b in zip(own, other, strict=True)]
    least = LEAST_OVERLAP * int((first.shape - np.abs(expected)).prod())
    ours, theirs = (_sharp(strip, SEARCH_BACKGROUND_PX) for strip in (first[own], second[other]))
    whole = _correlate(ours, theirs, start, reach, least)
    sound = whole.height > LEAST_CORRELATION
    sound &= whole.height * math.sqrt(whole.count) > LEAST_STRENGTH
    sound &= min(whole.peak) > 0 and max(whole.peak) < 2 * reach
    if sound and not whole.clear:
        # two halves are not high at the same place by chance
        axis = int(np.argmax(ours.shape))
        for i, part in enumerate(np.array_split(ours, 2, axis=axis)):
            ahead = i * (ours.shape[axis] - part.shape[axis])
            begin = start - ahead * (np.arange(2) == axis)
            half = _correlate(part, theirs, begin, reach, least / 2)
            sound &= math.dist(half.peak, whole.peak) <= max(2.0, reach / 6)
    if not sound:
        return _Match(offset_px, 0.0)
    return _refine(first, second, expected - reach + whole.peak)


def _refine(first: Grey, second: Grey, near: Int[np.ndarray, "2"]) -> _Match:
    """Measure a displacement that is known to 2 px, on what is then common to both tiles.

    Filters mirror the image at the tiles' borders, which is where tiles overlap: cut alike, both
    are mirrored alike.
    """
    own, other = _facing(first.shape, near, 0)
    ours, theirs = _sharp(first[own], BACKGROUND_PX), _sharp(second[other], BACKGROUND_PX)
    found = _correlate(ours, theirs, np.array([-3, -3]), 3, 0.5 * ours.size)
    y, x = found.peak
    if not (0 < y < 6 and 0 < x < 6 and found.height > LEAST_CORRELATION):
        return _Match(near.astype(np.float64), 0.0)
    away = _vertex(found.correlation[y - 1 : y + 2, x - 1 : x + 2])
    weight = found.count * found.height**2 / (1 - min(found.height, 0.999) ** 2)
    return _Match(near - 3 + (y, x) + away, weight)


def _facing(
    shape: tuple[int, ...], offset: Int[np.ndarray, "2"], reach: int
) -> list[tuple[slice, ...]]:
    """Return what of two tiles may overlap, the second lying at `offset` give or take `reach`."""
    return [
        tuple(
            slice(max(0, o - reach), min(n, n + o + reach))
            for n, o in zip(shape, seen.tolist(), strict=True)
        )
        for seen in (offset, -offset)
    ]


@dataclass(frozen=True, eq=False)
class _Correlated:
    """Pearson's correlation for all displacements in reach, and its peak.

    `height` is the correlation there, of `count` pixels; `clear` is a peak that cannot be chance,
    by its height and by its significance, correlation times the root of the pixels.
    """

    correlation: Float[np.ndarray, "k k"]
    peak: tuple[int, int]
    height: float
    count: float
    clear: bool


def _correlate(
    first: Grey, second: Grey, start: Int[np.ndarray, "2"], reach: int, least: float
) -> _Correlated:
    """Correlate at start, start + 1, ..., start + 2 reach where `least` pixels overlap."""
    places = start[:, None] + np.arange(2 * reach + 1)
    shared = [
        np.maximum(np.minimum(a, at + b) - np.maximum(at, 0), 0)
        for a, b, at in zip(first.shape, second.shape, places, strict=True)
    ]
    count = np.outer(*shared).astype(np.float64)
    correlation = _pearson(first, second, places, count)
    valid = count >= least
    significance = np.where(valid, correlation * np.sqrt(count), 0.0)
    spread = np.median(np.abs(significance[valid])) / 0.6745  # of a normal distribution
    y, x = np.unravel_index(np.argmax(significance), significance.shape)
    # the pixels' number grows to one side and pulls a wide peak along: the correlation decides
    near = np.zeros_like(valid)
    near[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    local = np.where(near & valid, correlation, -1.0)
    y, x = np.unravel_index(np.argmax(local), local.shape)
    height = float(correlation[y, x])
    clear = bool(significance.max() > SIGNIFICANT * spread and height > STRONG)
    return _Correlated(correlation, (int(y), int(x)), height, float(count[y, x]), clear)


def _pearson(
    first: Grey, second: Grey, places: Int[np.ndarray, "2 k"], count: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, "k k"]:
    """Return the correlation of the `count` pixels that overlap, by FFT (Padfield 2012)."""
    size = [
        fft.next_fast_len(a + b - 1, real=True)
        for a, b in zip(first.shape, second.shape, strict=True)
    ]
    at = np.ix_(*(places % np.array(size)[:, None]))
    a, b = (
        [fft.rfft2(values, size) for values in (image, image**2, np.ones_like(image))]
        for image in (first.astype(np.float64), second.astype(np.float64))
    )

    def total(i: int, k: int) -> Float[np.ndarray, "k k"]:
        return fft.irfft2(a[i] * np.conj(b[k]), size)[at]

    n = np.maximum(count, 1)
    sum_a, sum_b = total(0, 2), total(2, 0)
    power_a, power_b = total(1, 2) - sum_a**2 / n, total(2, 1) - sum_b**2 / n
    # where hardly anything overlaps with structure, the quotient would be noise
    power = np.maximum(power_a, 1e-3 * power_a.max()) * np.maximum(power_b, 1e-3 * power_b.max())
    covariance = total(0, 0) - sum_a * sum_b / n
    return covariance / np.sqrt(np.maximum(power, 1e-300))


def _vertex(height: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "2"]:
    """Return where a 2-D Gaussian through 3 x 3 values has its peak, from the middle one (px)."""
    if not height.min() > 0:  # no Gaussian has such flanks: the whole pixel stands
        return np.zeros(2)
    # the logarithm of a Gaussian is a paraboloid, fitted by least squares
    y, x = (np.indices((3, 3)) - 1).reshape(2, 9)
    terms = np.stack([y**0, y, x, y**2 / 2, x**2 / 2, y * x], axis=1)
    _, *slope, y_y, x_x, y_x = np.linalg.lstsq(terms, np.log(height).ravel())[0]
    curvature = np.array([[y_y, y_x], [y_x, x_x]])
    if not np.linalg.eigvalsh(curvature).max() < 0:
        return np.zeros(2)
    return np.asarray(-np.clip(np.linalg.solve(curvature, slope), -1, 1))


# --- the stage ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Orientation:
    stage_to_image: Int[np.ndarray, "2 2"]
    said: str


def _find_orientation(tiles: Sequence[Image], features: Sequence[Grey]) -> _Orientation:
    """Return the orientation by which the overlaps look alike, measured on thinned-out tiles."""
    step = math.ceil(max(features[0].shape) / 512)
    thin = [_thinned(image, step) for image in features]
    layouts = [_stage_px(tiles, way) / step for way in _ORIENTATIONS]
    overlaps = [_overlapping(stage_px, thin[0].shape) for stage_px in layouts]
    if not any(map(len, overlaps)):  # no orientation could mend that
        _require_connected(_edges(len(tiles), overlaps[0]), tiles)
    strengths = []
    for stage_px, pairs in zip(layouts, overlaps, strict=True):
        drawn = np.random.default_rng(0).permutation(pairs)[:_ORIENTATION_PAIRS]
        found = [_match(thin[a], thin[b], stage_px[b] - stage_px[a]) for a, b in drawn]
        strengths.append(np.sqrt([match.weight for match in found] or [0.0]))
    scores = np.array([strength.mean() for strength in strengths])
    best = int(np.argmax(scores))
    share = (strengths[best] > 0).mean()
    # a single row of tiles lies the same, whichever way the stage's other axis counts
    away = np.abs(np.array(layouts) - layouts[best]).max(axis=(1, 2))
    rival = max(scores[away > 2 * STAGE_ERROR * max(thin[0].shape)], default=0.0)
    if scores[best] <= CLEAR * rival or share < LEAST_MATCHING:
        reason = (
            "the overlaps don't show how the stage's axes lie: by the best orientation "
            f"{share:.0%} match, by {scores[best]:.1f} against {rival:.1f} by another"
        )
        remedy = "Pass the stage_to_image that was found on another scan of this microscope, and "
        raise ImageError(tiles[0].name, reason, f"{remedy}check positions and pixel size")
    way = _ORIENTATIONS[best]
    equal = f"{_directions(way)} (they match by {scores[best]:.0f}, the next best by {rival:.0f})"
    return _Orientation(way, f"Found from the overlaps: {equal}")


def _directions(way: Int[np.ndarray, "2 2"]) -> str:
    (y_y, y_x), (x_y, x_x) = way.tolist()
    down = "downwards" if y_y + y_x > 0 else "upwards"
    right = "to the right" if x_y + x_x > 0 else "to the left"
    return (
        f"in the image, the stage's {'y' if y_y else 'x'} grows {down} and its "
        f"{'x' if x_x else 'y'} {right}"
    )


def _thinned(image: Grey, step: int) -> Grey:
    """Return the means of blocks of step x step pixels."""
    height, width = (n // step for n in image.shape)
    blocks = image[: height * step, : width * step].reshape(height, step, width, step)
    return blocks.mean(axis=(1, 3))


def _stage_px(tiles: Sequence[Image], way: Int[np.ndarray, "2 2"]) -> Float[np.ndarray, "n 2"]:
    """Return where the tiles lie by the stage."""
    stage_nm = np.array([tile.position_yx_nm for tile in tiles], dtype=np.float64)
    stage_nm -= stage_nm[0]
    return stage_nm @ way.T / np.array(tiles[0].pixel_size_nm)


def _overlapping(
    stage_px: Float[np.ndarray, "n 2"], shape: tuple[int, ...]
) -> Int[np.ndarray, "pairs 2"]:
    """Return which tiles overlap by the stage, in order."""
    places = stage_px / shape
    touching = sorted(KDTree(places).query_pairs(1.0, p=np.inf))
    pairs = np.array(touching, dtype=np.int64).reshape(-1, 2)
    shares = (1 - np.abs(places[pairs[:, 1]] - places[pairs[:, 0]])).prod(axis=1)
    return pairs[shares >= LEAST_SHARED]


# --- all overlaps ---------------------------------------------------------------------------------


def _edges(count: int, pairs: Int[np.ndarray, "pairs 2"]) -> sparse.csr_array:
    """Return the matrix (pairs, count) that takes tiles' positions to pairs' displacements."""
    tile = sparse.eye_array(count, format="csr")
    return tile[pairs[:, 1]] - tile[pairs[:, 0]]


def _parts(edges: sparse.csr_array) -> Int[np.ndarray, " count"]:
    """Return of which group each tile is, as the edges connect them."""
    return csgraph.connected_components(edges.T @ edges, directed=False)[1]


def _believed(
    edges: sparse.csr_array,
    moves: Float[np.ndarray, "pairs 2"],
    weights: Float[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    """Return the weights, relative to the median, those of outliers now 0.

    Cauchy's weight grows stricter from round to round: an outlier that pulls its tiles along does
    not make the sound overlaps beside it look like outliers.
    """
    weights = weights / (np.median(weights[weights > 0]) if weights.any() else 1.0)
    now = weights
    for scale_px in (8.0, 4.0, 2.0, 1.0, *[INCONSISTENT_PX / 3] * 4, math.inf):
        left_px = np.hypot(*(moves - edges @ _solve(edges, moves, now)).T)
        now = weights / (1 + (left_px / scale_px) ** 2)
    return np.where(left_px < INCONSISTENT_PX, weights, 0.0)


def _solve(
    edges: sparse.csr_array,
    moves: Float[np.ndarray, "pairs 2"],
    weights: Float[np.ndarray, " pairs"],
) -> Float[np.ndarray, "count 2"]:
    """Solve the least squares; every overlap also wants, a little, no move: what the stage says."""
    normal = (edges.T * (weights + _STAGE_WEIGHT) @ edges).toarray()
    right = edges.T @ (weights[:, None] * moves)
    # all tiles could be moved alike: their mean stays
    return np.linalg.solve(normal + normal.trace() / len(normal) ** 2, right)


# --- placing --------------------------------------------------------------------------------------


def _feather(axis: Axis) -> Float32[np.ndarray, " n"]:
    """Return weights that rise linearly from either border: in an overlap they blend linearly."""
    length = axis.stop - axis.start
    inwards = np.arange(1, length + 1, dtype=np.float32)
    return np.minimum(inwards, inwards[::-1]) / length


def _window(bounds: Int[np.ndarray, "2 2"]) -> tuple[slice, ...]:
    return tuple(slice(*ends) for ends in bounds.tolist())


def _inner_rectangle(
    boxes: Int[np.ndarray, "n 2 2"], names: list[str], name: str
) -> Int[np.ndarray, "2 2"]:
    """Return the largest rectangle that the boxes cover wholly, on the grid of their borders."""
    y, rows = np.unique(boxes[:, 0], return_inverse=True)
    x, columns = np.unique(boxes[:, 1], return_inverse=True)
    covered = np.zeros((len(y) - 1, len(x) - 1), dtype=bool)
    for cells in np.stack([rows, columns], axis=1):
        covered[_window(cells)] = True
    _require_no_hole(covered, y, x, boxes, names, name)
    rectangle = _largest(covered, y.tolist(), x.tolist())
    inside = np.clip(boxes, rectangle[:, :1], rectangle[:, 1:])
    share = np.ptp(inside, axis=2).prod(axis=1) / np.ptp(boxes, axis=2).prod(axis=1)
    lost = [names[i] for i in np.flatnonzero(share < LEAST_PART)]
    if lost:
        reason = f"the tiles form no rectangle: cut to the largest, {_listed(lost)} would be lost"
        raise ImageError(name, reason, "Give the tiles of a rectangular field")
    return rectangle


def _largest(
    covered: Bool[np.ndarray, "v u"], y: list[int], x: list[int]
) -> Int[np.ndarray, "2 2"]:
    """Return the largest rectangle of covered cells, whose borders are at y and x."""
    best, rectangle = 0, [[0, 0], [0, 0]]
    tops = np.full(len(x), y[0])  # from where on each column is covered, down to the row's bottom
    for row, bottom in zip(np.pad(covered, [(0, 0), (0, 1)]), y[1:], strict=True):
        tops[~row] = bottom
        growing: list[tuple[int, int]] = []  # left and top, each taller than the one before
        for right, top in zip(x, tops.tolist(), strict=True):
            left = right
            while growing and growing[-1][1] < top:  # cannot grow any further to the right
                left, above = growing.pop()
                if (bottom - above) * (right - left) > best:
                    best = (bottom - above) * (right - left)
                    rectangle = [[above, bottom], [left, right]]
            growing.append((left, top))
    return np.array(rectangle)


# --- refusals -------------------------------------------------------------------------------------


def _require_tiles(tiles: Sequence[Image]) -> None:
    if len(tiles) < 2:
        where = tiles[0].name if tiles else "tiles"
        reason = f"{len(tiles)} images are no tile scan"
        raise ImageError(where, reason, "Give all fields of the scan")
    first = tiles[0]
    for tile in tiles:
        if tile.pixel_size_nm is None:
            raise ImageError(tile.name, "its pixel size is not known", "Give it with the image")
        if tile.position_yx_nm is None or not np.isfinite(tile.position_yx_nm).all():
            remedy = "Export the tiles as OME-TIFF with PositionX and PositionY in µm"
            raise ImageError(tile.name, "its stage position is not known", remedy)
        require_finite(tile)
        alike = tile.axes == first.axes and tile.pixels.shape == first.pixels.shape
        if not alike or tile.channels != first.channels:
            reason = f"is {_kind(tile)}, but {first.name} is {_kind(first)}"
            raise ImageError(tile.name, reason, "Give tiles of one scan, all alike")
        if not np.allclose(tile.pixel_size_nm, first.pixel_size_nm or 0, rtol=1e-3):
            sizes = f"{tile.pixel_size_nm} nm (y, x), but {first.name} of {first.pixel_size_nm} nm"
            raise ImageError(tile.name, f"has pixels of {sizes}", "Give tiles of one scan")


def _require_apart(
    pairs: Int[np.ndarray, "pairs 2"],
    expected_px: Float[np.ndarray, "pairs 2"],
    tiles: Sequence[Image],
) -> None:
    limit_px = STAGE_ERROR * np.array(tiles[0].pixels.shape[-2:])
    for a, b in pairs[(np.abs(expected_px) < limit_px).all(axis=1)]:
        reason = f"lies at the same place of the stage as {tiles[b].name}"
        raise ImageError(tiles[a].name, reason, "Take one of them away, or mend its position")


def _require_connected(edges: sparse.csr_array, tiles: Sequence[Image]) -> None:
    group = _parts(edges)
    if not group.any():
        return
    smallest = int(np.argmin(np.bincount(group)))
    alone = [tile.name for tile, g in zip(tiles, group, strict=True) if g == smallest]
    others = f"none of the other {len(tiles) - len(alone)} tiles"
    reason = f"{_listed(alone)} overlap with {others} by {LEAST_SHARED:.0%} of the area"
    remedy = "Check positions and pixel size, give the tiles between, or stitch the parts apart"
    raise ImageError(alone[0], reason, remedy)


def _require_no_hole(
    covered: Bool[np.ndarray, "v u"],
    y: Int[np.ndarray, " _y"],
    x: Int[np.ndarray, " _x"],
    boxes: Int[np.ndarray, "n 2 2"],
    names: list[str],
    name: str,
) -> None:
    holes, count = ndimage.label(ndimage.binary_fill_holes(covered) & ~covered)
    if not count:
        return
    rows, columns = ndimage.find_objects(holes)[0]
    low = np.array([y[rows.start], x[columns.start]])
    high = np.array([y[rows.stop], x[columns.stop]])
    touching = ((boxes[..., 0] <= high) & (boxes[..., 1] >= low)).all(axis=1)
    around = [names[i] for i in np.flatnonzero(touching)]
    size = " x ".join(map(str, (high - low).tolist()))
    reason = f"there is a hole of {size} px between {_listed(around)}"
    raise ImageError(name, reason, "Give the tile that is missing, or stitch the parts apart")


def _kind(tile: Image) -> str:
    lengths = " ".join(f"{a}={n}" for a, n in zip(tile.axes, tile.pixels.shape, strict=True))
    names = ", ".join(channel.name for channel in tile.channels)
    return f"{lengths} ({names})" if names else lengths


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
