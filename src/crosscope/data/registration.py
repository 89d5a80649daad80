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

Padfield, D. IEEE Trans. Image Process. 21, 2706-2718 (2012), doi 10.1109/TIP.2011.2181402.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import fft, ndimage

from crosscope.data.background import measure_background
from crosscope.data.errors import CrosscopeError, ImageError, RegistrationError
from crosscope.data.files import require_free, sha256
from crosscope.data.grids import Axis, Grey, resample, resample_within
from crosscope.data.pairs import RawPair, match_files, read_pair
from crosscope.data.registered import (
    RefusedPair,
    RegisteredPair,
    Transform,
    known_size_nm,
    write_registered,
)

SMOOTHING_PX = 1.0
"""Blur of both images before they are compared: steadies the interpolation between pixels."""
BACKGROUND = 10.0
"""What varies more slowly than this is background; in pixels of the coarser grid."""
MATCHING_BLURS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
"""Tried on either image until both are equally wide; in pixels of the coarser grid."""
COARSE_SIDE_PX = 512
"""Larger fields are thinned out to this for the first search."""
SIGNIFICANT = 1.64
"""Standard errors above 0 that chance reaches in 5 %."""
LEAST_OVERLAP = 0.25
"""Of the smaller field's area."""
LEAST_SIDE_PX = 32
"""Of the common field."""


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
    one period off. Resampling leaves the noise of neighbouring source pixels correlated, and, half
    way between pixels in y and x, 36 % weaker.
    """
    scale = _source_px_per_target_px(pair)
    raw_source = pair.source.pixels.astype(np.float64)
    source = resample(raw_source, (1 / scale[0], 1 / scale[1]))
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
        Axis(pair.target.pixels.shape[i], raw_source.shape[i], scale[i], shift[i]) for i in (0, 1)
    )
    _require_size(pair.name, target.shape, (y.stop - y.start, x.stop - x.start))
    field = slice(y.start, y.stop), slice(x.start, x.stop)
    registered = resample_within(raw_source, y, x).astype(np.float32)
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
        known_size_nm(pair.source, pair.name),
        residual_px,
        _correlation(source[before], target[before]),
        _correlation(registered, cropped),
        pair.source.sha256,
        pair.target.sha256,
    )


@dataclass(frozen=True)
class RegisteredFiles:
    """What became of two files or folders.

    Attributes
    ----------
    pairs : list of dict
        As in pairs.json.
    failures : list of CrosscopeError
        Of files that could not be read at all.
    """

    pairs: list[dict[str, Any]]
    failures: list[CrosscopeError]

    @property
    def exit_code(self) -> int:
        """Return 0, or 2 where a file could not be read or no pair is left."""
        return 2 if self.failures or not any(pair["accepted"] for pair in self.pairs) else 0


def register_files(
    source: Path,
    target: Path,
    out: Path,
    *,
    channel: str | None = None,
    source_pixel_size_nm: float | None = None,
    target_pixel_size_nm: float | None = None,
    overwrite: bool = False,
    watch: Callable[[float, str], None] = lambda done, name: None,
) -> RegisteredFiles:
    """Register two files, or two folders pair by pair, into the folder OUT.

    What can be registered is; the rest is listed with its reason. `watch` is told the part done
    and the pair's name.

    Raises
    ------
    CrosscopeError
        The files do not form pairs, there is but one pair and it cannot be registered, or OUT
        cannot be written.
    """
    matches = match_files(source, target)
    require_free(out, overwrite=overwrite)
    failures: list[CrosscopeError] = []

    def outcomes() -> Iterator[RegisteredPair | RefusedPair]:
        for n, files in enumerate(matches):
            try:
                pair = read_pair(
                    files,
                    channel=channel,
                    source_pixel_size_nm=source_pixel_size_nm,
                    target_pixel_size_nm=target_pixel_size_nm,
                )
                yield register(pair)
            except (ImageError, RegistrationError) as error:
                if len(matches) == 1:
                    raise
                if isinstance(error, ImageError):
                    failures.append(error)
                yield RefusedPair(
                    files.name, error.reason, sha256(files.source), sha256(files.target)
                )
            watch((n + 1) / len(matches), files.name)

    return RegisteredFiles(
        write_registered(outcomes(), out, overwrite=overwrite)["pairs"], failures
    )


# --- displacement ---------------------------------------------------------------------------------


def _features(pixels: Grey, unit_px: float, *, blur: float = 0.0) -> Grey:
    """Return what is compared: blurred, rooted, without slow background, of unit variance."""
    background = measure_background(pixels)
    sigma_px = math.hypot(SMOOTHING_PX, unit_px * blur)
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
    source_nm, target_nm = (known_size_nm(i, pair.name) for i in (pair.source, pair.target))
    return target_nm[0] / source_nm[0], target_nm[1] / source_nm[1]


def _require_size(name: str, target: tuple[int, ...], common: tuple[int, ...]) -> None:
    if min(*target, *common) >= LEAST_SIDE_PX:
        return
    height, width = map(min, target, common)
    reason = f"the common field is {max(height, 0)} x {max(width, 0)} px of the target"
    remedy = f"Give images that share at least {LEAST_SIDE_PX} x {LEAST_SIDE_PX} px"
    raise RegistrationError(name, reason, remedy)
