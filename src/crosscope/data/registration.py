"""Raw pair -> registered pair: both images on the target's grid, the same field in both.

Where the two fields share their corner, pixel centre i of a grid of pixel size p lies at
(i + 1/2) p.  The source's content is displaced by d against the target's:

    source_px = (target_px + d + 1/2) p_target / p_source - 1/2

d is found in three steps, on features: smoothed, the sharper image blurred to the width of the
other, square root (so that noise is even and bright objects don't rule), slow background removed.

1. Normalised cross-correlation for all displacements, normalised by what overlaps (Padfield 2012),
   a 2-D Gaussian fitted to its peak.  Each half of the target, a checkerboard, must find the same
   peak by itself: halves of unrelated images agree by chance only.
2. Gauss-Newton to the stationary point of the correlation over the common field.
3. The same block by block, each block against the displacement found from the *other* half: what
   is left is the residual.  Each block is measured twice, on its two diagonals, whose noise is
   independent: the mean of their product is the mean square of the residual without the noise.

Then the source is resampled once, and both are cropped to the common field.

Keys, R. IEEE Trans. ASSP 29, 1153-1160 (1981), doi 10.1109/TASSP.1981.1163711 (the kernel).
Padfield, D. IEEE Trans. Image Process. 21, 2706-2718 (2012), doi 10.1109/TIP.2011.2181402.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import fft, ndimage

from crosscope.data.errors import PairError, RegistrationError
from crosscope.data.files import write_json, writing_folder
from crosscope.data.images import Image, read_image, write_image
from crosscope.data.pairs import MatchedFiles, RawPair, match_files, read_pair

Grey = Float[np.ndarray, "_y _x"]
"""One plane; two of them may differ in size."""

SMOOTHING = 1.0
"""Blur of both images before they are compared: steadies the interpolation between pixels.

This and the next two in pixels of the coarser of the two grids."""
BACKGROUND = 10.0
"""What varies more slowly than this is background."""
MATCHING_BLURS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
"""Blurs tried on either image until both are equally wide."""
COARSE_SIDE_PX = 512
"""Larger fields are thinned out to this for the first search."""
SIGNIFICANT = 1.64
"""Standard errors above 0 that chance reaches in 5 %."""
LEAST_OVERLAP = 0.25
"""Of the smaller field's area."""
LEAST_SIDE_PX = 32
"""Of the common field."""


@dataclass(frozen=True, eq=False)
class Transform:
    """Where a point of the raw target image lies in the raw source image.

    source_yx_px = matrix @ (target_y_px, target_x_px, 1), pixel centres at whole numbers.
    """

    matrix: Float[np.ndarray, "2 3"]

    def to_source(self, points_yx_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map points of the raw target image (px) to the raw source image (px)."""
        return np.asarray(points_yx_px @ self.matrix[:, :2].T + self.matrix[:, 2])


@dataclass(frozen=True, eq=False)
class RegisteredPair:
    """Source and target on one grid, the target's.

    Attributes
    ----------
    name : str
    source, target : Image
        Axes "yx", equal shapes, equal pixel sizes: the target's. The source was resampled once
        (float32); the target was only cropped.
    transform : Transform
        From raw target pixels to raw source pixels.
    origin_yx_px : (int, int)
        The raw target pixel that became pixel (0, 0) of both images.
    source_pixel_size_nm : (float, float)
        Of the raw source, y and x: what a model trained on this pair expects of new images.
    residual_px : float or None
        RMS, in target pixels, of what the registration left inside structures; None where the
        images were aligned elsewhere and nobody measured.
    correlation_before, correlation_after : float or None
        Pearson correlation of the two images over their common field, -1 to 1.
    source_sha256, target_sha256 : str or None
        Of the raw files.
    """

    name: str
    source: Image
    target: Image
    transform: Transform
    origin_yx_px: tuple[int, int]
    source_pixel_size_nm: tuple[float, float]
    residual_px: float | None
    correlation_before: float | None
    correlation_after: float | None
    source_sha256: str | None = None
    target_sha256: str | None = None

    def to_source(self, points_yx_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map points of the raw target image (px) to the raw source image (px, before any crop)."""
        return self.transform.to_source(points_yx_px)

    @property
    def shift_px(self) -> tuple[float, float]:
        """How far the source's content lies down and right of the target's, in target px."""
        (scale_y, _, y), (_, scale_x, x) = self.transform.matrix.tolist()
        return (y + 0.5) / scale_y - 0.5, (x + 0.5) / scale_x - 0.5


@dataclass(frozen=True)
class RefusedPair:
    """A pair that could not be registered, and why."""

    name: str
    reason: str
    source_sha256: str | None = None
    target_sha256: str | None = None


def register(pair: RawPair) -> RegisteredPair:
    """Register a raw pair by a sub-pixel translation, and crop it to the common field.

    Parameters
    ----------
    pair : RawPair
        Axes "yx", pixel sizes known; the two fields share their upper left corner but for the
        displacement that is sought, and may differ in size.

    Returns
    -------
    RegisteredPair
        The source resampled once, by the cubic kernel of Keys, to the target's grid.

    Raises
    ------
    RegistrationError
        A pixel size is missing; an image is constant or not finite; the fields overlap by less
        than 25 % of the smaller one or by less than 32 px; or the images don't match.

    Notes
    -----
    Only a translation is mended: of a turn, another scale or a bent field the translation part is
    found, and the rest is stated as `residual_px`. Structures that repeat (a grating) can lock in
    one period off. Resampling leaves the noise of neighbouring source pixels correlated, and half
    way between two pixels 36 % weaker along that axis.
    """
    scale = _source_px_per_target_px(pair)
    raw_source = pair.source.pixels.astype(np.float64)
    source = _on_target_grid(raw_source, scale)
    target = pair.target.pixels.astype(np.float64)
    _require_size(pair.name, target.shape, source.shape)
    unit_px = max(1.0, *(1 / s for s in scale))  # target px in a pixel of the coarser grid
    coarse = _coarse_shift(_features(target, unit_px), _features(source, unit_px))
    if coarse is None:
        reason = "source and target don't match at any displacement that leaves 25 % in common"
        remedy = (
            "Check that both show the same field, that it holds structure, and how it is turned"
        )
        raise RegistrationError(pair.name, reason, remedy)
    target_blur, source_blur = _matching_blurs(target, source, coarse, unit_px)
    target_features = _features(target, unit_px, blur=target_blur)
    source_features = _features(source, unit_px, blur=source_blur)
    shift, residual_px = _refined_shift(target_features, source_features, coarse)

    y, x = (
        _Axis(pair.target.pixels.shape[i], raw_source.shape[i], scale[i], shift[i]) for i in (0, 1)
    )
    _require_size(pair.name, target.shape, (y.stop - y.start, x.stop - x.start))
    field = slice(y.start, y.stop), slice(x.start, x.stop)
    registered = _resampled(raw_source, y, x).astype(np.float32)
    cropped = np.ascontiguousarray(pair.target.pixels[field])
    common = tuple(map(min, target.shape, source.shape))
    before = slice(common[0]), slice(common[1])
    size_nm = pair.target.pixel_size_nm
    return RegisteredPair(
        pair.name,
        pair.source.with_pixels(registered, pixel_size_nm=size_nm),
        pair.target.with_pixels(cropped),
        Transform(np.array([[y.scale, 0.0, y.offset], [0.0, x.scale, x.offset]])),
        (y.start, x.start),
        _known_size_nm(pair.source, pair.name),
        residual_px,
        _correlation(source[before], target[before]),
        _correlation(registered, cropped),
        pair.source.sha256,
        pair.target.sha256,
    )


def register_all(pairs: Iterable[RawPair]) -> Iterator[RegisteredPair | RefusedPair]:
    """Register pair by pair; one that cannot be registered is handed on with its reason."""
    for pair in pairs:
        try:
            yield register(pair)
        except RegistrationError as error:
            yield RefusedPair(pair.name, error.reason, pair.source.sha256, pair.target.sha256)


def crop_like(image: Image, pair: RegisteredPair) -> Image:
    """Crop an image on the raw target's grid, such as its noise-free truth, to a pair's field.

    Raises
    ------
    RegistrationError
        The image does not reach as far as the pair's field.
    """
    (top, left), (height, width) = pair.origin_yx_px, pair.target.pixels.shape
    if image.pixels.shape[-2] < top + height or image.pixels.shape[-1] < left + width:
        there = " x ".join(map(str, image.pixels.shape[-2:]))
        reason = f"is {there} px, but the field of {pair.name} reaches to {top + height} x "
        remedy = "Give the image that belongs to the raw target"
        raise RegistrationError(image.name, reason + f"{left + width} px", remedy)
    return image.with_pixels(image.pixels[..., top : top + height, left : left + width])


# --- resampling -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """One axis of a resampling: how target pixels lie on the source's pixels.

    source_px = scale * target_px + offset
    """

    target_px: int
    source_px: int
    scale: float
    shift_px: float

    @property
    def offset(self) -> float:
        return (self.shift_px + 0.5) * self.scale - 0.5

    @property
    def stretch(self) -> float:
        """The kernel covers at least one target pixel, so that thinning out does not alias."""
        return max(1.0, self.scale)

    @property
    def start(self) -> int:
        """The first target pixel whose kernel lies within the source."""
        first = (2 * self.stretch - 1 - self.offset) / self.scale
        return max(0, math.ceil(first))

    @property
    def stop(self) -> int:
        """One past the last target pixel whose kernel lies within the source."""
        last = (self.source_px - 2 * self.stretch - self.offset) / self.scale
        return min(self.target_px, math.floor(last) + 1)


def _resampled(pixels: Grey, y: _Axis, x: _Axis) -> Grey:
    """Resample by the cubic kernel of Keys (a = -1/2) to the target pixels start..stop.

    It keeps a constant, and every parabola, as they are. Measured beside linear interpolation and
    cubic splines in the tests: linear blurs, and the spline rings on for many pixels around a hot
    one where this one has a single side lobe of 7 %.
    """
    for axis in (y, x):
        positions = axis.scale * np.arange(axis.start, axis.stop) + axis.offset
        first = np.ceil(positions - 2 * axis.stretch).astype(int)
        taps = first[:, None] + np.arange(math.floor(4 * axis.stretch) + 1)
        weights = _keys((taps - positions[:, None]) / axis.stretch)
        weights /= weights.sum(axis=1, keepdims=True)
        taps = np.clip(taps, 0, axis.source_px - 1)
        resampled = sum(w[:, None] * pixels[t] for w, t in zip(weights.T, taps.T, strict=True))
        pixels = np.asarray(resampled).T  # the second turn brings y to the front again
    return np.ascontiguousarray(pixels)


def _keys(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _on_target_grid(source: Grey, scale: tuple[float, float]) -> Grey:
    """Resample the whole source to pixels of the target's size, edges repeated."""
    padding = [math.ceil(2 * max(1.0, s)) + 1 for s in scale]
    padded = np.pad(source, [(p, p) for p in padding], mode="edge")
    y, x = (
        _Axis(int(n / s + 1e-6), n + 2 * p, s, p / s)
        for n, s, p in zip(source.shape, scale, padding, strict=True)
    )
    return _resampled(padded, y, x)


# --- displacement ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Background:
    """The grey level where there is nothing, and the standard deviation of its noise."""

    level: float
    noise: float


def measure_background(pixels: Num[np.ndarray, "y x"]) -> Background:
    """Measure level and white noise of an image's dark parts.

    The level is the 10th percentile of the image blurred by 2 px; the noise comes from the mean
    of Immerkaer's Laplacian, which structures wider than a pixel hardly touch, over the darker
    half of the pixels (median instead of mean). Noise that is correlated, as after resampling, is
    underestimated.

    Immerkaer, J. Comput. Vis. Image Underst. 64, 300-302 (1996), doi 10.1006/cviu.1996.0060.
    """
    blurred = ndimage.gaussian_filter(pixels.astype(np.float64), 2.0)
    second = np.array([1.0, -2.0, 1.0])
    laplacian = ndimage.convolve1d(pixels.astype(np.float64), second, axis=0)
    laplacian = ndimage.convolve1d(laplacian, second, axis=1) / 6
    dark = blurred <= np.median(blurred)
    noise = np.median(np.abs(laplacian[dark])) / 0.6745  # of a normal distribution
    return Background(float(np.percentile(blurred, 10)), float(noise))


def _features(pixels: Grey, unit_px: float, *, blur: float = 0.0) -> Grey:
    """Return what is compared: blurred, rooted, without slow background, of unit variance."""
    background = measure_background(pixels)
    sigma_px = unit_px * math.hypot(SMOOTHING, blur)
    noise = background.noise / (2 * math.sqrt(math.pi) * sigma_px)  # of the blurred image
    signal = ndimage.gaussian_filter(pixels - background.level, sigma_px)
    # 20 noises: below them the root is nearly a straight line, and noise stays what it is
    rooted = np.sqrt(np.maximum(signal + 20 * noise, 0.0))
    features = rooted - ndimage.gaussian_filter(rooted, unit_px * BACKGROUND)
    return np.asarray(features / (features.std() or 1.0), dtype=np.float64)


def _coarse_shift(target: Grey, source: Grey) -> Float[np.ndarray, "2"] | None:
    """Return the displacement of the highest correlation, or None where the halves disagree.

    Correlations over few pixels are high by chance: they are ranked by their significance,
    correlation times the root of the pixels that overlap.
    """
    step = math.ceil(max(*target.shape, *source.shape) / COARSE_SIDE_PX)
    thin_target, thin_source = target[::step, ::step], source[::step, ::step]
    halves = _checkerboard(thin_target.shape, 2 * _cell_px(target.shape) // step)
    first, second, both = _significance_maps(thin_target, thin_source, halves)
    peaks = [step * _peak(significance, thin_source.shape) for significance in (first, second)]
    # unrelated halves agree with the probability of hitting this disc by chance: some 0.1 %
    radius_px = max(2.0, min(target.shape) / 40)
    if np.hypot(*(peaks[0] - peaks[1])) > radius_px:
        return None
    return np.asarray(step * _peak(both, thin_source.shape))


def _significance_maps(
    target: Grey, source: Grey, halves: Int[np.ndarray, "y x"]
) -> Float[np.ndarray, "3 dy dx"]:
    """Correlate target half 0, half 1 and both with the source at all displacements (Padfield).

    Displacements are counted from 0 and wrap around; without enough overlap they are -inf.
    """
    size = [
        fft.next_fast_len(t + s - 1, real=True)
        for t, s in zip(target.shape, source.shape, strict=True)
    ]
    source_ffts = [fft.rfft2(s, size) for s in (source, source**2, np.ones_like(source))]
    sums = []
    for half in (0, 1):
        mask = (halves == half).astype(np.float64)
        factors = ((target * mask, 0), (mask, 1), (target**2 * mask, 2), (mask, 2))
        sums.append(
            [fft.irfft2(np.conj(fft.rfft2(t, size)) * source_ffts[s], size) for t, s in factors]
        )
    maps = np.array([*sums, np.add(sums[0], sums[1])])  # half or both, sum, dy, dx
    product, source_power, target_power, count = np.moveaxis(maps, 1, 0)
    # where hardly anything overlaps with structure, the quotient would be noise
    floor = 1e-3 * maps[:, 1:3].max(axis=(2, 3))
    power = np.maximum(source_power, floor[:, 0, None, None])
    power *= np.maximum(target_power, floor[:, 1, None, None])
    significance = product * np.sqrt(np.maximum(count, 0.0) / np.maximum(power, 1e-300))
    enough = count[2] >= LEAST_OVERLAP * min(target.size, source.size)
    return np.where(enough, significance, -np.inf)


def _peak(significance: Grey, source_shape: tuple[int, ...]) -> Float[np.ndarray, "2"]:
    """Return the displacement of the peak: of the 2-D Gaussian through its 3 x 3 pixels."""
    peak = np.unravel_index(np.argmax(significance), significance.shape)
    around = np.ix_(
        *((p + np.arange(-1, 2)) % n for p, n in zip(peak, significance.shape, strict=True))
    )
    height = significance[around]
    displacement = np.array(
        [
            p - n if p >= s else p
            for p, n, s in zip(peak, significance.shape, source_shape, strict=True)
        ],
        dtype=np.float64,
    )
    if not height.min() > 0:  # no Gaussian has such flanks; the whole pixel stands
        return displacement
    # the logarithm of a Gaussian is a paraboloid: a least-squares fit of one through 9 points
    height = np.log(height)
    slope = [(height[2] - height[0]).sum() / 6, (height[:, 2] - height[:, 0]).sum() / 6]
    mixed = (height[0, 0] - height[0, 2] - height[2, 0] + height[2, 2]) / 4
    bend = [(height[2] - 2 * height[1] + height[0]).sum() / 3]
    bend += [(height[:, 2] - 2 * height[:, 1] + height[:, 0]).sum() / 3]
    curvature = np.array([[bend[0], mixed], [mixed, bend[1]]])
    if not np.linalg.eigvalsh(curvature).max() < 0:
        return displacement
    return np.asarray(displacement - np.clip(np.linalg.solve(curvature, slope), -1, 1))


def _matching_blurs(
    target: Grey, source: Grey, shift: Float[np.ndarray, "2"], unit_px: float
) -> tuple[float, float]:
    """Return the blurs of target and source, one of them 0, that make them most alike."""
    dy, dx = np.round(shift).astype(int)
    top, left = max(0, -dy), max(0, -dx)
    height = min(target.shape[0] - top, source.shape[0] - top - dy, COARSE_SIDE_PX)
    width = min(target.shape[1] - left, source.shape[1] - left - dx, COARSE_SIDE_PX)
    target = target[top : top + height, left : left + width]
    source = source[top + dy : top + dy + height, left + dx : left + dx + width]
    sharp_target, sharp_source = _features(target, unit_px), _features(source, unit_px)
    likeness = {(0.0, 0.0): float((sharp_target * sharp_source).mean())}
    for blur in MATCHING_BLURS:
        blurred_target = _features(target, unit_px, blur=blur)
        blurred_source = _features(source, unit_px, blur=blur)
        likeness[blur, 0.0] = float((blurred_target * sharp_source).mean())
        likeness[0.0, blur] = float((sharp_target * blurred_source).mean())
    return max(likeness, key=lambda blurs: likeness[blurs])


def _refined_shift(
    target: Grey, source: Grey, coarse: Float[np.ndarray, "2"]
) -> tuple[Float[np.ndarray, "2"], float]:
    """Return the displacement, and the RMS of what it leaves (target px).

    The mean square of what is left is the variance of the displacement, from the difference of
    the two halves, plus what the blocks hold in common on both of their diagonals: this only
    where it is significant (5 %), for its noise would otherwise be taken for a residual.
    """
    cell_px = _cell_px(target.shape)
    block_y, block_x = (np.arange(n) // (2 * cell_px) for n in target.shape)
    columns = int(block_x[-1]) + 1
    block = block_y[:, None] * columns + block_x
    half = _checkerboard(target.shape, 2 * cell_px)
    half_of_block = np.indices((int(block_y[-1]) + 1, columns)).sum(axis=0).ravel() % 2
    diagonal = 2 * block + _checkerboard(target.shape, cell_px)

    source = ndimage.spline_filter(source, order=3)
    shift = _displacements(target, source, np.zeros_like(half), coarse[None]).shift_px[0]
    in_half = _displacements(target, source, half, np.tile(shift, (2, 1))).shift_px
    variance = float(((in_half[0] - in_half[1]) ** 2).sum()) / 4

    local = _displacements(target, source, diagonal, np.tile(shift, (2 * half_of_block.size, 1)))
    weight = local.information.reshape(-1, 2).min(axis=1)
    weight = np.where(weight > 0.1 * (weight**2).sum() / weight.sum(), weight, 0.0)
    left = local.shift_px.reshape(-1, 2, 2) - in_half[1 - half_of_block][:, None]
    square = left.prod(axis=1).sum(axis=1)
    mean = float((weight * square).sum() / weight.sum())
    error = math.sqrt((weight**2 * (square - mean) ** 2).sum()) / weight.sum()
    return shift, math.sqrt(variance + (mean if mean > SIGNIFICANT * error else 0.0))


@dataclass(frozen=True, eq=False)
class _Displacements:
    """Of n regions: the displacement, and how firmly the structure there holds it."""

    shift_px: Float[np.ndarray, "n 2"]
    information: Float[np.ndarray, " n"]


def _displacements(
    target: Grey,
    source_spline: Grey,
    regions: Int[np.ndarray, "y x"],
    start: Float[np.ndarray, "n 2"],
) -> _Displacements:
    """Find the displacement of every region by Gauss-Newton, from its start (px).

    In each region the displaced source is regressed on the target and its two derivatives,

        source(x + d) = g (target - e . grad target),   d += e,

    until the derivatives have no part in it. The noise of the two images is independent, so that
    it does not draw d to anywhere.
    """
    count = len(start)
    height, width = target.shape
    y, x = np.arange(height)[:, None], np.arange(width)
    source_y, source_x = y + start[:, 0].mean(), x + start[:, 1].mean()
    margin = min(max(min(target.shape) // 16, 4), 12)  # filters have mirrored the image there
    inside = (np.minimum(y, source_y) >= margin) & (np.minimum(x, source_x) >= margin)
    inside &= np.maximum(y - height, source_y - source_spline.shape[0]) < -margin
    inside &= np.maximum(x - width, source_x - source_spline.shape[1]) < -margin
    region, places = regions[inside], np.array(np.nonzero(inside), dtype=np.float64)
    regressors = [image[inside] for image in (target, *np.gradient(target))]

    def per_region(values: Float[np.ndarray, " px"]) -> Float[np.ndarray, " n"]:
        return np.bincount(region, values, minlength=count)

    normal = np.array([[per_region(a * b) for a in regressors] for b in regressors])
    normal = np.moveaxis(normal, -1, 0)  # n 3 3
    normal += 1e-9 * max(normal.max(), 1e-9) * np.eye(3)  # regions without structure stay put
    shift = start
    for _ in range(8):
        moved = ndimage.map_coordinates(
            source_spline, places + shift[region].T, order=3, mode="nearest", prefilter=False
        )
        right = np.array([per_region(moved * regressor) for regressor in regressors])
        gain, *slopes = np.linalg.solve(normal, right.T[..., None])[..., 0].T
        # where the images are hardly alike, steps stay small
        step = -np.array(slopes).T / np.maximum(gain, 0.1)[:, None]
        shift = shift + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-3:
            break
    cofactors = np.linalg.inv(np.linalg.inv(normal)[:, 1:, 1:])
    return _Displacements(shift, np.linalg.eigvalsh(cofactors)[:, 0])


def _checkerboard(shape: tuple[int, ...], cell_px: int) -> Int[np.ndarray, "y x"]:
    """Return 0 and 1 in turns, cell by cell."""
    y, x = (np.arange(n) // cell_px for n in shape)
    return (y[:, None] + x) % 2


def _cell_px(shape: tuple[int, ...]) -> int:
    """Return the side of a quarter block: 32 px, less in fields that have no room for 4 blocks."""
    return min(32, min(shape) // 8)


def _correlation(a: Num[np.ndarray, "y x"], b: Num[np.ndarray, "y x"]) -> float | None:
    """Return Pearson's correlation, or None where an image is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


# --- refusals -------------------------------------------------------------------------------------


def _source_px_per_target_px(pair: RawPair) -> tuple[float, float]:
    """Return y and x, after checking that both images can be used."""
    for image in (pair.source, pair.target):
        if not np.isfinite(image.pixels).all():
            remedy = "Crop the pixels that are NaN or infinite away"
            raise RegistrationError(pair.name, f"{image.name} has pixels without a value", remedy)
        if image.pixels.size == 0 or np.ptp(image.pixels) == 0:
            reason = f"{image.name} is constant: all its pixels are equal"
            raise RegistrationError(pair.name, reason, "Leave this pair out")
    source_nm, target_nm = (_known_size_nm(i, pair.name) for i in (pair.source, pair.target))
    return target_nm[0] / source_nm[0], target_nm[1] / source_nm[1]


def _known_size_nm(image: Image, name: str) -> tuple[float, float]:
    if image.pixel_size_nm is None:
        reason = f"the pixel size of {image.name} is not known"
        raise RegistrationError(name, reason, "Pass it by --pixel-size-nm")
    return image.pixel_size_nm


def _require_size(name: str, target: tuple[int, ...], common: tuple[int, ...]) -> None:
    if min(*target, *common) >= LEAST_SIDE_PX:
        return
    height, width = map(min, target, common)
    reason = f"the common field is {max(height, 0)} x {max(width, 0)} px of the target"
    remedy = f"Give images that share at least {LEAST_SIDE_PX} x {LEAST_SIDE_PX} px"
    raise RegistrationError(name, reason, remedy)


# --- folders --------------------------------------------------------------------------------------


def write_registered(
    pairs: Iterable[RegisteredPair | RefusedPair], out: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write OUT/source/NAME.tif, OUT/target/NAME.tif and OUT/pairs.json, complete or not at all.

    Parameters
    ----------
    pairs : iterable
        Taken one by one, so that a generator such as `register_all` need never hold them all.
    out : Path
    overwrite : bool
        Replace the folder that is there.

    Returns
    -------
    dict
        What was written to pairs.json: `{"pairs": [...]}`, in the order of `pairs`; refused ones
        are listed with their reason.

    Raises
    ------
    OutputError
        `out` exists or cannot be written, or two pairs have the same name.
    """
    records = []
    with writing_folder(out, overwrite=overwrite) as part:
        for folder in ("source", "target"):
            (part / folder).mkdir()
        for pair in pairs:
            records.append(_record(pair))
            if isinstance(pair, RegisteredPair):
                write_image(pair.source, part / "source" / _file_name(pair.name))
                write_image(pair.target, part / "target" / _file_name(pair.name))
        write_json(part / "pairs.json", {"pairs": records})
    return {"pairs": records}


def read_registered(folder: Path) -> list[RegisteredPair]:
    """Read the accepted pairs of a folder that `write_registered` wrote, or one made elsewhere.

    Parameters
    ----------
    folder : Path
        With source/, target/ and pairs.json. Without pairs.json the images are taken as aligned:
        equal names, shapes and pixel sizes; their residual and correlations are None.

    Returns
    -------
    list of RegisteredPair

    Raises
    ------
    PairError
        The folder is none of both, or its images don't fit each other.
    ImageError
        An image cannot be read.
    """
    if not (folder / "source").is_dir() or not (folder / "target").is_dir():
        reason = "is not a folder of registered pairs: it has no folders source and target"
        raise PairError(folder, reason, "Make one by crosscope register SOURCE TARGET OUT")
    listing = folder / "pairs.json"
    if not listing.exists():
        return [
            _aligned_elsewhere(read_pair(files), files)
            for files in match_files(folder / "source", folder / "target")
        ]
    try:
        records = json.loads(listing.read_text(encoding="utf-8"))["pairs"]
        return [_read_pair_of(folder, record) for record in records if record["accepted"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"is not a list of registered pairs ({type(error).__name__}: {error})"
        raise PairError(listing, reason, "Make it again by crosscope register") from error


def _record(pair: RegisteredPair | RefusedPair) -> dict[str, Any]:
    """Return a pair as pairs.json has it; what was not measured is null."""
    if isinstance(pair, RefusedPair):
        numbers = ("residual_px", "residual_nm", "shift_px", "rotation_deg", "scale")
        return {
            "name": pair.name,
            "accepted": False,
            "reason": pair.reason,
            **dict.fromkeys((*numbers, "correlation_before", "correlation_after")),
            "source_sha256": pair.source_sha256,
            "target_sha256": pair.target_sha256,
        }
    target_nm = _known_size_nm(pair.target, pair.name)
    matrix = pair.transform.matrix
    turn = matrix[:, :2] * np.divide.outer(pair.source_pixel_size_nm, target_nm)  # nm to nm
    residual = pair.residual_px
    return {
        "name": pair.name,
        "accepted": True,
        "reason": None,
        "residual_px": residual,
        "residual_nm": None if residual is None else residual * math.sqrt(math.prod(target_nm)),
        "shift_px": list(pair.shift_px),
        "rotation_deg": math.degrees(math.atan2(turn[1, 0], turn[0, 0])),
        "scale": math.sqrt(abs(float(np.linalg.det(turn)))),
        "correlation_before": pair.correlation_before,
        "correlation_after": pair.correlation_after,
        "source_sha256": pair.source_sha256,
        "target_sha256": pair.target_sha256,
        "transform": matrix.tolist(),
        "origin_yx_px": list(pair.origin_yx_px),
        "source_pixel_size_nm": list(pair.source_pixel_size_nm),
        "file": _file_name(pair.name),
    }


def _file_name(name: str) -> str:
    return f"{name}.tif"


def _read_pair_of(folder: Path, record: dict[str, Any]) -> RegisteredPair:
    file = Path(record["file"]).name  # never outside the folder
    source, target = read_image(folder / "source" / file), read_image(folder / "target" / file)
    _require_one_grid(source, target, folder / "source" / file)
    matrix = np.array(record["transform"], dtype=np.float64).reshape(2, 3)
    top, left = record["origin_yx_px"]
    source_nm = record["source_pixel_size_nm"]
    return RegisteredPair(
        record["name"],
        source,
        target,
        Transform(matrix),
        (int(top), int(left)),
        (float(source_nm[0]), float(source_nm[1])),
        record["residual_px"],
        record["correlation_before"],
        record["correlation_after"],
        record["source_sha256"],
        record["target_sha256"],
    )


def _aligned_elsewhere(pair: RawPair, files: MatchedFiles) -> RegisteredPair:
    if files.matched_by == "order":
        reason = f"has no partner of its name beside {files.target.name}"
        raise PairError(files.source, reason, "Name both images alike or run crosscope register")
    _require_one_grid(pair.source, pair.target, files.source)
    return RegisteredPair(
        pair.name,
        pair.source,
        pair.target,
        Transform(np.eye(2, 3)),
        (0, 0),
        _known_size_nm(pair.source, pair.name),
        residual_px=None,
        correlation_before=None,
        correlation_after=None,
        source_sha256=pair.source.sha256,
        target_sha256=pair.target.sha256,
    )


def _require_one_grid(source: Image, target: Image, where: Path) -> None:
    """Raise PairError unless both are planes of equal shape and equal, known pixel size."""
    remedy = "Bring both to one grid by crosscope register"
    if source.axes != "yx" or target.axes != "yx" or source.pixels.shape != target.pixels.shape:
        shapes = [f"{' '.join(i.axes)} {i.pixels.shape}" for i in (source, target)]
        raise PairError(where, f"is {shapes[0]}, but its target {shapes[1]}", remedy)
    sizes = source.pixel_size_nm, target.pixel_size_nm
    if sizes[0] is None or sizes[1] is None or not np.allclose(sizes[0], sizes[1], rtol=1e-3):
        reason = f"has pixels of {sizes[0]} nm (y, x), its target of {sizes[1]} nm"
        raise PairError(where, reason, remedy)
