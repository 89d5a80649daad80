"""Two images -> where the one lies in the other, roughly: a crop, turned, mirrored, magnified.

At each turn and magnification of a list, both images, thinned out, are correlated at all
displacements.  Each half of the target, a checkerboard, must find the same place by itself: halves
of unrelated images agree by chance only.  The lists grow as long as nothing is found: first what a
stage and a pixel size leave open, then the eight ways to hold a camera, then any magnification.

Padfield, D. IEEE Trans. Image Process. 21, 2706-2718 (2012), doi 10.1109/TIP.2011.2181402.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float, Num
from scipy import fft, ndimage

from crosscope.data.background import measure_background
from crosscope.data.grids import Grey, resample
from crosscope.data.transforms import Matrix, apply, compose, invert

SIDE_PX = 256
"""Images are thinned out to this for the search."""
ANGLES_DEG = (0.0, *(sign * 1.5 * k for k in range(1, 5) for sign in (1, -1)))
MAGNIFICATIONS = (1.0, 0.976, 1.024)
LEAST_OVERLAP = 0.25
"""Of the smaller field's area."""
MOST_MAGNIFICATION = 8.0
"""Between the pixels of source and target, where the pixel sizes are not known."""
BACKGROUND_PX = 10.0
"""What varies more slowly than this, in thinned pixels, is background."""


@dataclass(frozen=True, eq=False)
class Turn:
    """One of the eight ways to hold a camera: mirrored left to right or not, then turned."""

    mirrored: bool
    quarters: int

    def of(self, image: Num[np.ndarray, "y x"]) -> Num[np.ndarray, "_y _x"]:
        """Return the image so held."""
        return np.rot90(image[:, ::-1] if self.mirrored else image, self.quarters)

    def matrix(self, shape: tuple[int, ...]) -> Matrix:
        """Return where a pixel of the turned image is in the image of this shape."""
        y, x = (self.of(index) for index in np.indices(shape))
        corner = np.array([y[0, 0], x[0, 0]], dtype=np.float64)
        down = np.array([y[1, 0], x[1, 0]]) - corner
        right = np.array([y[0, 1], x[0, 1]]) - corner
        return np.column_stack([down, right, corner])


UPRIGHT = Turn(mirrored=False, quarters=0)
TURNS = (UPRIGHT, *(Turn(m, q) for m in (False, True) for q in range(4) if m or q))


@dataclass(frozen=True, eq=False)
class Place:
    """Where the target lies in the source.

    Attributes
    ----------
    turn : Turn
        To be done to the raw source first.
    zoom : (float, float)
        Target pixels in a pixel of the turned source, y and x.
    matrix : (2, 3) float
        From target px to px of the turned source on the target's pixel size; near to a shift.
    """

    turn: Turn
    zoom: tuple[float, float]
    matrix: Matrix


def find_places(source: Grey, target: Grey, zoom: tuple[float, float] | None) -> Iterator[Place]:
    """Yield where the target may lie in the source, the likeliest first, until one is taken.

    Parameters
    ----------
    source, target : (y, x) float
        Raw grey values.
    zoom : (float, float) or None
        Target pixels in a source pixel, y and x; None where it is not known.
    """
    if zoom is not None:
        yield from _found(_search(source, target, [UPRIGHT], [zoom]))
        yield from _found(_search(source, target, TURNS[1:], [zoom]))
        return
    # the same field in both?
    same = tuple(t / s for t, s in zip(target.shape, source.shape, strict=True))
    if math.isclose(*same, rel_tol=0.02):
        yield from _found(_search(source, target, [UPRIGHT], [(same[0], same[1])]))
    steps = math.ceil(math.log(MOST_MAGNIFICATION) / 0.07)
    ladder = [float(np.exp(0.07 * k)) for k in range(-steps, steps + 1)]
    for turns in ([UPRIGHT], TURNS[1:]):
        yield from _found(_search(source, target, turns, [(z, z) for z in ladder]))


def _found(place: Place | None) -> Iterator[Place]:
    if place is not None:
        yield place


def _search(
    source: Grey, target: Grey, turns: Sequence[Turn], zooms: Sequence[tuple[float, float]]
) -> Place | None:
    """Return the place of the highest correlation, or None where the halves disagree."""
    best: list[tuple[float, Place, Float[np.ndarray, "4 2"]] | None] = [None, None, None]
    corners = np.array([[y, x] for y in (0, target.shape[0]) for x in (0, target.shape[1])]) - 0.5
    thinning, plans = 1.0, []
    for zoom in zooms:
        side = max(*target.shape, *(n * z for n, z in zip(source.shape, zoom, strict=True)))
        # no finer than the coarser of both pixels
        thinning = max(1.0, side / SIDE_PX, *zoom)
        thin_target = _features(resample(target, (1 / thinning, 1 / thinning)))
        if min(thin_target.shape) < 12:
            continue
        for turn in turns:
            turned = turn.of(source)
            turned_zoom = zoom if turn.quarters % 2 == 0 else zoom[::-1]
            thin_source = resample(turned, (turned_zoom[0] / thinning, turned_zoom[1] / thinning))
            if min(thin_source.shape) < 12:
                continue
            plans.append((turn, turned_zoom, thinning))
            seen = _Correlator(thin_target, _features(thin_source))
            for magnification in MAGNIFICATIONS:
                for angle_deg in ANGLES_DEG:
                    for i, (height, matrix) in enumerate(seen.peaks(angle_deg, magnification)):
                        held = best[i]
                        if held is None or height > held[0]:
                            full = _thinned_back(matrix, thinning)
                            place = Place(turn, turned_zoom, full)
                            raw = compose(_nominal(place, source.shape), full)
                            best[i] = (height, place, apply(raw, corners))
    first, second, both = best
    if first is None or second is None or both is None:
        return None
    # as target px: unrelated halves hit this disc by chance in some 0.1 % of cases
    linear = compose(_nominal(both[1], source.shape), both[1].matrix)[:, :2]
    apart = (first[2] - second[2]) @ np.linalg.inv(linear).T
    radius_px = max(3.0 * thinning, min(target.shape) / 30)
    return both[1] if np.sqrt((apart**2).sum(axis=1).mean()) <= radius_px else None


def _thinned_back(matrix: Matrix, thinning: float) -> Matrix:
    """Return a matrix between thinned images as one between the images."""
    thin = np.array(
        [[1 / thinning, 0, 0.5 / thinning - 0.5], [0, 1 / thinning, 0.5 / thinning - 0.5]]
    )
    return compose(invert(thin), compose(matrix, thin))


def _nominal(place: Place, shape: tuple[int, ...]) -> Matrix:
    return nominal_matrix(place.turn, place.zoom, shape)


def nominal_matrix(turn: Turn, zoom: tuple[float, float], shape: tuple[int, ...]) -> Matrix:
    """Return where a px of the turned source on the target's pixel size is in the raw source."""
    y, x = zoom
    shrink = np.array([[1 / y, 0, 0.5 / y - 0.5], [0, 1 / x, 0.5 / x - 0.5]])
    return compose(turn.matrix(shape), shrink)


def _features(image: Grey) -> Grey:
    """Return what is correlated: rooted, without slow background, of unit variance, clipped."""
    background = measure_background(image)
    signal = ndimage.gaussian_filter(image - background.level, 1.0)
    rooted = np.sqrt(np.maximum(signal + 6 * background.noise, 0.0))
    features = rooted - ndimage.gaussian_filter(rooted, BACKGROUND_PX)
    return np.asarray(np.clip(features / (features.std() or 1.0), -4.0, 4.0))


class _Correlator:
    """Correlates the halves of one target with one source, turned and magnified."""

    def __init__(self, target: Grey, source: Grey) -> None:
        self.source = source.astype(np.float32)
        self.side = [math.ceil(1.1 * n) for n in source.shape]  # room for it, magnified and turned
        self.size = [
            fft.next_fast_len(t + s - 1, real=True)
            for t, s in zip(target.shape, self.side, strict=True)
        ]
        cell = max(4, min(target.shape) // 8)
        y, x = (np.arange(n) // cell for n in target.shape)
        halves = (y[:, None] + x) % 2
        self.target_ffts = [self._spectrum(target * (halves == half)).conj() for half in (0, 1)]
        # how much overlaps hardly depends on the turn: it is counted once
        there = self._turned(np.ones(source.shape), np.eye(2))[0]
        ones = self._spectrum(np.ones(target.shape)).conj()
        count = fft.irfft2(ones * self._spectrum(there), self.size)
        self.norm = np.sqrt(np.maximum(count, 1.0))
        self.enough = count >= LEAST_OVERLAP * min(target.size, source.size)

    def peaks(self, angle_deg: float, magnification: float) -> list[tuple[float, Matrix]]:
        """Return, for half 0, half 1 and both, the significance of the peak and where it is.

        Correlations over few pixels are high by chance: they are ranked by their significance,
        the sum of products over the root of the pixels that overlap.
        """
        angle = math.radians(angle_deg)
        linear = magnification * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        turned, to_source = self._turned(self.source, linear)
        spectrum = self._spectrum(turned)
        products = [fft.irfft2(t * spectrum, self.size) for t in self.target_ffts]
        found = []
        for product in (*products, products[0] + products[1]):
            significance = np.where(self.enough, product / self.norm, -np.inf)
            peak = np.unravel_index(np.argmax(significance), significance.shape)
            shift = [
                p - n if p >= s else p for p, n, s in zip(peak, self.size, self.side, strict=True)
            ]
            shifted = np.column_stack([np.eye(2), np.array(shift, dtype=np.float64)])
            found.append((float(significance[peak]), compose(to_source, shifted)))
        return found

    def _turned(self, image: Grey, linear: Float[np.ndarray, "2 2"]) -> tuple[Grey, Matrix]:
        """Return an image turned about its middle, and where its pixels were."""
        middle, new_middle = ((np.array(side) - 1) / 2 for side in (image.shape, self.side))
        matrix = np.column_stack([linear, middle - linear @ new_middle])
        shape = tuple(self.side)
        turned = ndimage.affine_transform(image, linear, matrix[:, 2], output_shape=shape, order=1)
        return turned, matrix

    def _spectrum(self, image: Grey) -> Complex[np.ndarray, "ky kx"]:
        return fft.rfft2(image.astype(np.float32), self.size)
