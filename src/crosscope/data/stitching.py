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

from crosscope.data.background import measure_background
from crosscope.data.errors import ImageError
from crosscope.data.grids import Axis, resample_within
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
    places = [_place(tiles[0].pixels.shape[-2:], yx_px) for yx_px in layout.yx_px.tolist()]
    boxes = np.array([place.box for place in places])
    rectangle = _inner_rectangle(boxes, [tile.name for tile in tiles], name)
    outline = np.stack([boxes[..., 0].min(axis=0), boxes[..., 1].max(axis=0)], axis=1)
    leading = tiles[0].pixels.shape[:-2]
    weight = np.zeros(np.ptp(rectangle, axis=1), dtype=np.float32)
    mosaic = np.zeros((*leading, *weight.shape), dtype=np.float32)
    for tile, place in zip(tiles, places, strict=True):
        inside = np.clip(place.box, rectangle[:, :1], rectangle[:, 1:])
        here, own = _window(inside - rectangle[:, :1]), _window(inside - place.box[:, :1])
        feather = np.multiply.outer(_feather(place.y), _feather(place.x))[own]
        weight[here] += feather
        for plane in np.ndindex(leading):
            moved = resample_within(tile.pixels[plane].astype(np.float64), place.y, place.x)
            mosaic[plane][here] += feather * moved[own].astype(np.float32)
    mosaic /= weight
    kept = weight.size / math.prod(np.ptp(outline, axis=1).tolist())
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
    _require_apart(stage_px, shape, tiles)
    pairs = _overlapping(stage_px, shape)
    _require_connected(pairs, tiles)
    matches = [_match(features[a], features[b], stage_px[b] - stage_px[a]) for a, b in pairs]
    weights = np.array([match.weight for match in matches])
    offsets = np.array([match.offset_px for match in matches])
    moves = offsets - np.diff(stage_px[pairs], axis=1)[:, 0]  # against the stage
    solved, weights = _solve_robustly(len(tiles), pairs, moves, weights)
    left = moves - (solved[pairs[:, 1]] - solved[pairs[:, 0]])
    trusted = weights > 0
    parts = _parts(len(tiles), pairs[trusted])[0]
    redundant = int(trusted.sum()) - (len(tiles) - parts)
    residual_px = None
    if redundant > 0:
        mean_square = float(np.average((left**2).sum(axis=1), weights=weights))
        residual_px = math.sqrt(mean_square * int(trusted.sum()) / redundant)
    yx_px = stage_px + solved
    moved_px = np.hypot(*(solved - solved.mean(axis=0)).T)
    checked = "" if residual_px is None else f", agreeing to {residual_px:.2f} px RMS"
    said = [
        found.said,
        f"{trusted.sum()} of {len(pairs)} overlaps held structure that both tiles show{checked}: "
        f"by them the tiles were moved by up to {moved_px.max():.1f} px from the stage's positions",
    ]
    if parts > 1:
        said.append("Tiles without such an overlap lie where the stage says, to a few px")
    return Layout(
        yx_px - yx_px.min(axis=0),
        found.stage_to_image,
        moved_px,
        len(pairs),
        int(trusted.sum()),
        residual_px,
        tuple(said),
    )


# --- one overlap ----------------------------------------------------------------------------------


def _features(tile: Image) -> Float32[np.ndarray, "y x"]:
    """Return what is compared: smoothed, and rooted so that noise is even."""
    leading = tuple(range(tile.pixels.ndim - 2))
    pixels = tile.pixels.mean(axis=leading, dtype=np.float64)
    background = measure_background(pixels)
    noise = background.noise / (2 * math.sqrt(math.pi) * SMOOTHING_PX)  # of the smoothed image
    smooth = ndimage.gaussian_filter(pixels - background.level, SMOOTHING_PX)
    # below 20 noises nearly a straight line
    return np.sqrt(np.maximum(smooth + 20 * noise, 0.0)).astype(np.float32)


def _sharp(features: Float[np.ndarray, "y x"], background_px: float) -> Float[np.ndarray, "y x"]:
    return features - ndimage.gaussian_filter(features, background_px)


@dataclass(frozen=True, eq=False)
class _Match:
    """What an overlap says of the displacement of one tile against another.

    `weight` is 0 where it says nothing, and the offset that of the stage.
    """

    offset_px: Float[np.ndarray, "2"]
    correlation: float
    weight: float


def _match(
    first: Float[np.ndarray, "y x"],
    second: Float[np.ndarray, "y x"],
    offset_px: Float[np.ndarray, "2"],
) -> _Match:
    """Measure where the second tile's first pixel lies on the first tile, near `offset_px`."""
    side = max(first.shape)
    reach = max(round(STAGE_ERROR * side), min(STAGE_ERROR_PX, side // 4))
    expected = np.round(offset_px).astype(int)
    bounds = [
        (_strip(n, e, reach), _strip(n, -e, reach))
        for n, e in zip(first.shape, expected.tolist(), strict=True)
    ]
    own, other = (_window(np.array([axis[i] for axis in bounds])) for i in (0, 1))
    start = expected - [axis[0][0] - axis[1][0] for axis in bounds] - reach
    overlap = math.prod(n - abs(e) for n, e in zip(first.shape, expected.tolist(), strict=True))
    ours, theirs = (_sharp(strip, SEARCH_BACKGROUND_PX) for strip in (first[own], second[other]))
    whole = _correlate(ours, theirs, start, reach, LEAST_OVERLAP * overlap)
    y, x = peak = whole.peak
    height = float(whole.correlation[y, x])
    sound = height > max(LEAST_CORRELATION, LEAST_STRENGTH / math.sqrt(max(whole.count[y, x], 1)))
    sound &= min(peak) > 0 and max(peak) < 2 * reach
    if sound and not (whole.noises > SIGNIFICANT and height > STRONG):
        # two halves are not high at the same place by chance
        axis = int(np.argmax(ours.shape))
        for i, part in enumerate(np.array_split(ours, 2, axis=axis)):
            ahead = i * (ours.shape[axis] - part.shape[axis])
            begin = start - ahead * (np.arange(2) == axis)
            half = _correlate(part, theirs, begin, reach, LEAST_OVERLAP * overlap / 2)
            sound &= math.dist(half.peak, peak) <= max(2.0, reach / 6)
    if not sound:
        return _Match(offset_px, max(height, 0.0), 0.0)
    return _refine(first, second, expected - reach + peak)


def _refine(
    first: Float[np.ndarray, "y x"], second: Float[np.ndarray, "y x"], near: Int[np.ndarray, "2"]
) -> _Match:
    """Measure a displacement that is known to 2 px, on what is then common to both tiles.

    Filters mirror the image at the tiles' borders, which is where tiles overlap: cut alike, both
    are mirrored alike.
    """
    lengths = zip(first.shape, near.tolist(), strict=True)
    sides = [(_strip(n, d, 0), _strip(n, -d, 0)) for n, d in lengths]
    own, other = (_window(np.array([axis[i] for axis in sides])) for i in (0, 1))
    ours, theirs = _sharp(first[own], BACKGROUND_PX), _sharp(second[other], BACKGROUND_PX)
    found = _correlate(ours, theirs, np.array([-3, -3]), 3, 0.5 * ours.size)
    y, x = found.peak
    height = float(found.correlation[y, x])
    if not (0 < y < 6 and 0 < x < 6 and height > LEAST_CORRELATION):
        return _Match(near.astype(np.float64), max(height, 0.0), 0.0)
    away = _vertex(found.correlation[y - 1 : y + 2, x - 1 : x + 2])
    weight = found.count[y, x] * height**2 / (1 - min(height, 0.999) ** 2)
    return _Match(near - 3 + (y, x) + away, height, float(weight))


@dataclass(frozen=True, eq=False)
class _Correlated:
    """Pearson's correlation for all displacements in reach, and the pixels that overlap in each.

    `peak` is the place of the highest, `noises` how far its significance, correlation times the
    root of the pixels, stands out of all others.
    """

    correlation: Float[np.ndarray, "k k"]
    count: Float[np.ndarray, "k k"]
    peak: tuple[int, int]
    noises: float


def _correlate(
    first: Float[np.ndarray, "_y _x"],
    second: Float[np.ndarray, "_v _u"],
    start: Int[np.ndarray, "2"],
    reach: int,
    least: float,
) -> _Correlated:
    correlation, count = _correlations(first, second, start, 2 * reach + 1)
    valid = count >= least
    if not valid.any():
        return _Correlated(correlation, count, (0, 0), 0.0)
    significance = np.where(valid, correlation * np.sqrt(count), 0.0)
    spread = np.median(np.abs(significance[valid])) / 0.6745  # of a normal distribution
    highest = np.unravel_index(np.argmax(significance), significance.shape)
    # the pixels' number grows to one side and pulls a wide peak along: the correlation decides
    near = tuple(slice(max(0, int(i) - 2), int(i) + 3) for i in highest)
    local = np.where(valid, correlation, -1.0)[near]
    y, x = np.unravel_index(np.argmax(local), local.shape)
    peak = int(y) + near[0].start, int(x) + near[1].start
    return _Correlated(correlation, count, peak, float(significance.max() / max(spread, 1e-300)))


def _strip(length: int, offset: int, reach: int) -> tuple[int, int]:
    """Return from where to where a tile may be overlapped by one that lies at `offset`."""
    return max(0, offset - reach), min(length, length + offset + reach)


def _correlations(
    first: Float[np.ndarray, "_y _x"],
    second: Float[np.ndarray, "_v _u"],
    start: Int[np.ndarray, "2"],
    count: int,
) -> tuple[Float[np.ndarray, "count count"], Float[np.ndarray, "count count"]]:
    """Return Pearson's correlation of what overlaps, and how many pixels that are.

    For `second` at start, start + 1, ... on `first` (Padfield 2012).
    """
    size = [
        fft.next_fast_len(a + b - 1, real=True)
        for a, b in zip(first.shape, second.shape, strict=True)
    ]
    places = np.ix_(*((s + np.arange(count)) % n for s, n in zip(start, size, strict=True)))
    a, b = (
        [fft.rfft2(values, size) for values in (image, image**2, np.ones_like(image))]
        for image in (first.astype(np.float64), second.astype(np.float64))
    )

    def total(i: int, k: int) -> Float[np.ndarray, "count count"]:
        return fft.irfft2(a[i] * np.conj(b[k]), size)[places]

    pixels = np.round(total(2, 2))
    for s, axis in zip(start, (0, 1), strict=True):  # beyond the padding it would wrap around
        along = s + np.arange(count)
        outside = (along <= -second.shape[axis]) | (along >= first.shape[axis])
        pixels[outside if axis == 0 else (slice(None), outside)] = 0
    n = np.maximum(pixels, 1)
    sum_a, sum_b = total(0, 2), total(2, 0)
    power_a, power_b = total(1, 2) - sum_a**2 / n, total(2, 1) - sum_b**2 / n
    # where hardly anything overlaps with structure, the quotient would be noise
    power = np.maximum(power_a, 1e-3 * power_a.max()) * np.maximum(power_b, 1e-3 * power_b.max())
    covariance = total(0, 0) - sum_a * sum_b / n
    return covariance / np.sqrt(np.maximum(power, 1e-300)), pixels


def _vertex(height: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "2"]:
    """Return where a 2-D Gaussian through 3 x 3 values has its peak, from the middle one (px)."""
    if not height.min() > 0:  # no Gaussian has such flanks: the whole pixel stands
        return np.zeros(2)
    # the logarithm of a Gaussian is a paraboloid: a least-squares fit of one through 9 points
    height = np.log(height)
    slope = [(height[2] - height[0]).sum() / 6, (height[:, 2] - height[:, 0]).sum() / 6]
    mixed = (height[0, 0] - height[0, 2] - height[2, 0] + height[2, 2]) / 4
    bend = [(height[2] - 2 * height[1] + height[0]).sum() / 3]
    bend += [(height[:, 2] - 2 * height[:, 1] + height[:, 0]).sum() / 3]
    curvature = np.array([[bend[0], mixed], [mixed, bend[1]]])
    if not np.linalg.eigvalsh(curvature).max() < 0:
        return np.zeros(2)
    return np.asarray(-np.clip(np.linalg.solve(curvature, slope), -1, 1))


# --- the stage ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Orientation:
    stage_to_image: Int[np.ndarray, "2 2"]
    said: str


def _orientations() -> list[Int[np.ndarray, "2 2"]]:
    """Return the 8 ways in which stage axes lie to image axes, as they are first."""
    straight = np.eye(2, dtype=np.int64)
    signs = [np.array(s) for s in itertools.product((1, -1), repeat=2)]
    return [axes * sign for axes in (straight, straight[::-1]) for sign in signs]


def _find_orientation(
    tiles: Sequence[Image], features: Sequence[Float[np.ndarray, "y x"]]
) -> _Orientation:
    """Return the orientation by which the overlaps look alike, measured on thinned-out tiles."""
    step = math.ceil(max(features[0].shape) / 512)
    thin = [_thinned(image, step) for image in features]
    scores, shares, layouts = [], [], []
    for way in _orientations():
        stage_px = _stage_px(tiles, way) / step
        pairs = _overlapping(stage_px, thin[0].shape)
        drawn = np.random.default_rng(0).permutation(len(pairs))[:_ORIENTATION_PAIRS]
        found = [_match(thin[a], thin[b], stage_px[b] - stage_px[a]) for a, b in pairs[drawn]]
        scores.append(sum(math.sqrt(match.weight) for match in found) / max(1, len(found)))
        shares.append(sum(match.weight > 0 for match in found) / max(1, len(found)))
        layouts.append(stage_px)
    best = int(np.argmax(scores))
    way = _orientations()[best]
    # a single row of tiles lies the same, whichever way the stage's other axis counts
    away = [np.abs(layout - layouts[best]).max() for layout in layouts]
    differs = np.array(away) > 2 * STAGE_ERROR * max(thin[0].shape)
    rival = max(np.array(scores)[differs], default=0.0)
    if scores[best] <= CLEAR * rival or shares[best] < LEAST_MATCHING:
        reason = (
            "the overlaps don't show how the stage's axes lie: by the best orientation "
            f"{shares[best]:.0%} match, by {scores[best]:.1f} against {rival:.1f} by another"
        )
        remedy = "Pass the stage_to_image that was found on another scan of this microscope, and "
        raise ImageError(tiles[0].name, reason, f"{remedy}check positions and pixel size")
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


def _thinned(image: Float[np.ndarray, "y x"], step: int) -> Float[np.ndarray, "_y _x"]:
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
    pairs = []
    for a in range(len(stage_px) - 1):
        shared = np.array(shape) - np.abs(stage_px[a + 1 :] - stage_px[a])
        shares = np.maximum(shared, 0).prod(axis=1) / math.prod(shape)
        others = a + 1 + np.flatnonzero(shares >= LEAST_SHARED)
        pairs += [(a, int(b)) for b in others]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


# --- all overlaps ---------------------------------------------------------------------------------


def _solve_robustly(
    count: int,
    pairs: Int[np.ndarray, "pairs 2"],
    moves: Float[np.ndarray, "pairs 2"],
    weights: Float[np.ndarray, " pairs"],
) -> tuple[Float[np.ndarray, "count 2"], Float[np.ndarray, " pairs"]]:
    """Return how far each tile is to be moved, and the weights, those of outliers now 0.

    Cauchy's weight grows stricter from round to round: an outlier that pulls its tiles along does
    not make the sound overlaps beside it look like outliers.
    """
    weights = weights / (np.median(weights[weights > 0]) if weights.any() else 1.0)
    now = weights
    for scale_px in (8.0, 4.0, 2.0, 1.0, *[INCONSISTENT_PX / 3] * 4):
        left = _left(_solve(count, pairs, moves, now), pairs, moves)
        now = weights / (1 + (left / scale_px) ** 2)
    left = _left(_solve(count, pairs, moves, now), pairs, moves)
    weights = np.where(left < INCONSISTENT_PX, weights, 0.0)
    return _solve(count, pairs, moves, weights), weights


def _left(
    solved: Float[np.ndarray, "count 2"],
    pairs: Int[np.ndarray, "pairs 2"],
    moves: Float[np.ndarray, "pairs 2"],
) -> Float[np.ndarray, " pairs"]:
    return np.hypot(*(moves - (solved[pairs[:, 1]] - solved[pairs[:, 0]])).T)


def _solve(
    count: int,
    pairs: Int[np.ndarray, "pairs 2"],
    moves: Float[np.ndarray, "pairs 2"],
    weights: Float[np.ndarray, " pairs"],
) -> Float[np.ndarray, "count 2"]:
    """Solve the least squares; every overlap also wants, a little, no move: what the stage says."""
    first, second = pairs.T
    normal = np.zeros((count, count))
    both = weights + _STAGE_WEIGHT
    np.add.at(normal, (first, first), both)
    np.add.at(normal, (second, second), both)
    np.add.at(normal, (first, second), -both)
    np.add.at(normal, (second, first), -both)
    right = np.zeros((count, 2))
    np.add.at(right, second, weights[:, None] * moves)
    np.add.at(right, first, -weights[:, None] * moves)
    # all tiles could be moved alike: their mean stays
    return np.linalg.solve(normal + normal.trace() / count**2, right)


def _parts(count: int, pairs: Int[np.ndarray, "pairs 2"]) -> tuple[int, Int[np.ndarray, " count"]]:
    """Return how many groups the pairs connect, and of which group each tile is."""
    links = sparse.coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(count, count))
    parts, group = csgraph.connected_components(links, directed=False)
    return int(parts), group.astype(np.int64)


# --- placing --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Place:
    """How a tile is resampled, and the pixels it then covers: from and to, of y and of x."""

    y: Axis
    x: Axis
    box: Int[np.ndarray, "2 2"]


def _place(shape: tuple[int, ...], yx_px: list[float]) -> _Place:
    first = [round(p) for p in yx_px]
    y, x = (Axis(n, n, 1.0, f - p) for n, f, p in zip(shape, first, yx_px, strict=True))
    box = [[f + axis.start, f + axis.stop] for f, axis in zip(first, (y, x), strict=True)]
    return _Place(y, x, np.array(box))


def _feather(axis: Axis) -> Float32[np.ndarray, " n"]:
    """Return weights that rise linearly from either border: in an overlap they blend linearly."""
    length = axis.stop - axis.start
    inwards = np.arange(1, length + 1, dtype=np.float32)
    return np.minimum(inwards, inwards[::-1]) / np.float32(length)


def _window(bounds: Int[np.ndarray, "2 2"]) -> tuple[slice, slice]:
    (top, bottom), (left, right) = bounds.tolist()
    return slice(top, bottom), slice(left, right)


def _inner_rectangle(
    boxes: Int[np.ndarray, "n 2 2"], names: list[str], name: str
) -> Int[np.ndarray, "2 2"]:
    """Return the largest rectangle that the boxes cover wholly, on the grid of their borders."""
    y, x = (np.unique(boxes[:, axis]) for axis in (0, 1))
    covered = np.zeros((len(y) - 1, len(x) - 1), dtype=bool)
    for (top, bottom), (left, right) in boxes:
        rows, columns = np.searchsorted(y, (top, bottom)), np.searchsorted(x, (left, right))
        covered[rows[0] : rows[1], columns[0] : columns[1]] = True
    _require_no_hole(covered, y, x, boxes, names, name)
    best, rectangle = 0, np.zeros((2, 2), dtype=np.int64)
    for top in range(len(y) - 1):
        run = covered[top].copy()
        for bottom in range(top, len(y) - 1):
            run &= covered[bottom]
            if not run.any():
                break
            # where runs of covered columns begin and end
            left, right = np.flatnonzero(np.diff(run, prepend=False, append=False)).reshape(-1, 2).T
            widths = x[right] - x[left]
            widest = int(np.argmax(widths))
            area = int(widths[widest] * (y[bottom + 1] - y[top]))
            if area > best:
                best = area
                bounds = [y[top], y[bottom + 1]], [x[left[widest]], x[right[widest]]]
                rectangle = np.array(bounds)
    inside = np.clip(boxes, rectangle[:, :1], rectangle[:, 1:])
    share = np.ptp(inside, axis=2).prod(axis=1) / np.ptp(boxes, axis=2).prod(axis=1)
    lost = [names[i] for i in np.flatnonzero(share < LEAST_PART)]
    if lost:
        reason = f"the tiles form no rectangle: cut to the largest, {_listed(lost)} would be lost"
        raise ImageError(name, reason, "Give the tiles of a rectangular field")
    return rectangle


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
        if tile.position_yx_nm is None:
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
    stage_px: Float[np.ndarray, "n 2"], shape: tuple[int, ...], tiles: Sequence[Image]
) -> None:
    for a, place in enumerate(stage_px[:-1]):
        near = (np.abs(stage_px[a + 1 :] - place) < STAGE_ERROR * np.array(shape)).all(axis=1)
        if near.any():
            other = tiles[a + 1 + int(np.argmax(near))].name
            reason = f"lies at the same place of the stage as {other}"
            raise ImageError(tiles[a].name, reason, "Take one of them away, or mend its position")


def _require_connected(pairs: Int[np.ndarray, "pairs 2"], tiles: Sequence[Image]) -> None:
    parts, group = _parts(len(tiles), pairs)
    if parts == 1:
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
    open_cells, count = ndimage.label(np.pad(~covered, 1, constant_values=True))
    holes = [n for n in range(1, count + 1) if n != open_cells[0, 0]]
    if not holes:
        return
    rows, columns = np.nonzero(open_cells[1:-1, 1:-1] == holes[0])
    low = np.array([y[rows.min()], x[columns.min()]])
    high = np.array([y[rows.max() + 1], x[columns.max() + 1]])
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
