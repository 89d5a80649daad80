"""Crops of source images -> numbers that tell one kind of image from another.

All are taken from crops as the network is given them, scaled, in blocks of 2 x 2 px. What is finer
is left out: there the resampling of registered pairs has taken noise away that new images still
have.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Num
from scipy import fft, ndimage, optimize, special

from crosscope.data.grids import in_blocks, resample

CROP_PX = 128
RINGS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 26, 32)
"""Borders of the bands of frequency, cycles per crop."""
PERCENTS = (1.0, 10.0, 50.0, 90.0, 99.0, 99.9)
SHAPES_PX = (2.0, 4.0)
"""Scales at which spots, lines and areas are told apart."""
NAMES = (
    *(f"band {low} to {high}" for low, high in itertools.pairwise(RINGS)),
    *(f"percentile {percent:g}" for percent in PERCENTS),
    *("spread", "skewness", "peakedness", "fineness", "density", "maxima"),
    *(f"{what} at {px:g} px" for px in SHAPES_PX for what in ("lines", "curvature")),
    "coherence",
)
FINENESS, SPREAD, DARK = (NAMES.index(name) for name in ("fineness", "spread", "percentile 1"))
LEAST_GREYS = 16
"""Of fewer grey values nothing is said of the steps in which they come."""
_SIGNAL = 6.0  # noises of the smoothed crop: noise alone reaches 5.4 in one crop of 2400
_ABOVE = 1.5  # times the noise: bands that show structure
_SMOOTH_PX = 2.0
_ZOOMS = 0.5, 8.0  # beyond them what a resampling does to noise is taken to be the same
_SECOND = np.array([1.0, -2.0, 1.0], dtype=np.float32)  # a difference
_KNEE = 0.05  # scaled units: percentiles are linear below it and logarithms above
_SMALL = 1e-6


@dataclass(frozen=True)
class Phase:
    """Where a crop lies between the pixels of a source image, in those pixels, y and x.

    Attributes
    ----------
    start_px : (y, x)
        By how much its corner lies beside that of a raw image's, -0.5 to 0.5; of a move, by how
        much it is moved.
    drift_px : (y, x)
        By how much farther beside it the opposite corner lies, -1 to 1.
    """

    start_px: tuple[float, float] = (0.0, 0.0)
    drift_px: tuple[float, float] = (0.0, 0.0)

    def zoom(self, zoom: tuple[float, float]) -> tuple[float, float]:
        """Return by which zoom a crop is taken so that it drifts: target px per source px."""
        y, x = (z / (1 + px * z / CROP_PX) for z, px in zip(zoom, self.drift_px, strict=True))
        return y, x


STILL = Phase()


@dataclass(frozen=True, eq=False)
class Features:
    """What was measured of crops.

    Attributes
    ----------
    values : (n, f)
        In the order of `NAMES`.
    signal : (n,)
        Which crops show anything but noise.
    """

    values: Float[np.ndarray, "n f"]
    signal: Bool[np.ndarray, " n"]


def make_whole(crop: Num[np.ndarray, "_y _x"]) -> Num[np.ndarray, "y x"]:
    """Return a crop of `CROP_PX`, continued by its mirror image where it is smaller."""
    missing = [(0, CROP_PX - n) for n in crop.shape]
    return np.pad(crop, missing, mode="symmetric")


def measure_features(
    crops: Float32[np.ndarray, "n y x"],
    *,
    smoothed_noise: float | Float[np.ndarray, " n"] = 1.0,
) -> Features:
    """Measure scaled crops: background about 0, bright structures about 1.

    `smoothed_noise` is what `measure_smoothed_noise` says of how they, or each, were resampled.
    """
    blocks = in_blocks(crops, 2)
    smooth = ndimage.gaussian_filter(blocks, (0, _SMOOTH_PX / 2, _SMOOTH_PX / 2))
    flat = smooth.reshape(len(crops), -1)
    percentiles = np.percentile(flat, PERCENTS, axis=1).T
    dark, middle, top = percentiles[:, 1], percentiles[:, 2], percentiles[:, 5]
    noise = smoothed_noise * _noise(blocks) / (np.sqrt(np.pi) * _SMOOTH_PX)
    centred = flat - flat.mean(axis=1, keepdims=True)
    squared = np.square(centred)
    spread = np.sqrt(squared.mean(axis=1)) + _SMALL
    bands, fineness = _bands(blocks)
    rise = (top - dark)[:, None, None] + _SMALL
    bright = smooth - dark[:, None, None] > 0.3 * rise
    highest = ndimage.maximum_filter(smooth, (1, 3, 3)) == smooth
    columns = [
        *bands.T,
        *np.arcsinh(percentiles / _KNEE).T,
        np.log(spread),
        (squared * centred).mean(axis=1) / spread**3,
        np.log(np.square(squared).mean(axis=1) / spread**4 + _SMALL),
        fineness,
        np.log(bright.mean(axis=(1, 2)) + _SMALL),
        np.log((highest & bright).mean(axis=(1, 2)) + _SMALL),
        *(column for px in SHAPES_PX for column in _shapes(blocks, px / 2, bright)),
        _coherence(smooth),
    ]
    signal = top - middle > _SIGNAL * noise
    return Features(np.column_stack(columns).astype(np.float64), signal)


def grey_level(percentile: float) -> float:
    """Return the scaled grey level that a feature of the name "percentile" means."""
    return _KNEE * math.sinh(percentile)


def wrap(phase: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return positions within a pixel, -0.5 to 0.5."""
    return (phase + 0.5) % 1 - 0.5


@functools.lru_cache(maxsize=1024)
def measure_smoothed_noise(zoom: tuple[float, float], phase: Phase = STILL) -> float:
    """Return how much more noise a smoothed crop has than its finest detail tells of a raw one.

    Resampling to a finer grid, or by a part of a pixel farther, makes neighbours alike: of white
    noise less is left in the finest detail, by which noise is measured, than in what is smoothed.
    1 where nothing was resampled.
    """
    moved = _smoothed_over_told(phase.zoom(zoom), phase.start_px)
    return moved / _smoothed_over_told((1.0, 1.0), (0.0, 0.0))


@functools.lru_cache(maxsize=4)  # a raw crop's is asked for again and again
def _smoothed_over_told(zoom: tuple[float, float], start_px: tuple[float, float]) -> float:
    """Return the deviation of smoothed white noise over what its finest detail tells of it."""
    (smooth_y, fine_y), (smooth_x, fine_x) = (
        _noise_left(float(np.clip(z, *_ZOOMS)), px) for z, px in zip(zoom, start_px, strict=True)
    )
    deviations = np.sqrt(np.outer(fine_y, fine_x))

    def above_half(median: float) -> float:
        return float(special.erf(median / deviations / np.sqrt(2)).mean() - 0.5)

    median = optimize.brentq(above_half, 0.0, 2 * deviations.max())
    told = _noise_of(median)
    return float(np.sqrt(smooth_y.mean() * smooth_x.mean()) / told)


def _noise_left(
    zoom: float, phase_px: float
) -> tuple[Float[np.ndarray, " v"], Float[np.ndarray, " v"]]:
    """Return what is left of white noise, variances along one axis: smoothed, and finest detail.

    All that is done to a crop is done along one axis and the other.
    """
    pixels = np.eye(math.ceil(CROP_PX / zoom) + 2)
    rows = resample(pixels, (zoom, 1.0), (phase_px, 0.0))[:CROP_PX]
    blocks = (rows[::2] + rows[1::2]) / 2
    smooth = ndimage.gaussian_filter1d(blocks, _SMOOTH_PX / 2, axis=0)
    fine = ndimage.correlate1d(blocks, _SECOND, axis=0)
    smooth, fine = (np.square(each).sum(axis=1) for each in (smooth, fine))
    return smooth, fine


def find_step(pixels: Num[np.ndarray, "*shape"]) -> int:
    """Return the step in which raw grey values come: 16 where 12 bits are stored left-aligned.

    1 where they come in none, are no integers, or fewer than `LEAST_GREYS` of them differ.
    """
    if pixels.dtype.kind not in "iu":
        return 1
    wide = pixels.astype(np.int64)
    step = int(np.gcd.reduce(wide - wide.min(), axis=None))
    return step if step > 1 and len(np.unique(pixels)) >= LEAST_GREYS else 1


def saturated_share(pixels: Num[np.ndarray, "*shape"], step: int = 1) -> float:
    """Return what part of the bright pixels is cut off at the highest grey value; 0 if none is.

    Of raw pixels, whose grey values come in steps: resampling wipes it out. Grey values thin out
    towards the brightest. Where at least 5 pixels share the highest one, and more than in the 3 %
    of the range below, light was cut off; three times as many if that holds but one grey value,
    twice if two.
    """
    highest, middle = float(pixels.max()), float(np.median(pixels))
    rise = highest - middle
    at_top = int((pixels == highest).sum())
    levels = math.inf
    if pixels.dtype.kind in "iu" or np.array_equal(pixels, np.rint(pixels)):
        levels = max(1, int(0.03 * rise / step))
    span = 0.03 * rise if levels == math.inf else max(0.03 * rise, step)
    below = int((pixels >= highest - span).sum()) - at_top
    if rise <= 0 or at_top < 5 or at_top < (1 + 2 / levels) * below:
        return 0.0
    return at_top / int((pixels > middle + 0.3 * rise).sum())


def _noise(crops: Float32[np.ndarray, "n y x"]) -> Float[np.ndarray, " n"]:
    """Return the standard deviation of white noise, by Immerkaer's mask."""
    fine = ndimage.correlate1d(ndimage.correlate1d(crops, _SECOND, axis=1), _SECOND, axis=2)
    return np.asarray(_noise_of(np.median(np.abs(fine), axis=(1, 2))))


def _noise_of(median: Float[np.ndarray, "*shape"] | float) -> Float[np.ndarray, "*shape"] | float:
    """Return the deviation of white noise, by the median of what Immerkaer's mask makes of it."""
    return median / 6 / 0.6745


def _bands(
    crops: Float32[np.ndarray, "n y x"],
) -> tuple[Float[np.ndarray, "n b"], Float[np.ndarray, " n"]]:
    """Return the logarithms of the power in bands, and of the finest structures' width."""
    height, width = crops.shape[1:]
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    mean = (crops * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    power = np.abs(fft.rfft2((crops - mean) * window)) ** 2 / (window**2).sum()
    y, x = fft.fftfreq(height), fft.rfftfreq(width)
    cycles = CROP_PX / 2 * np.hypot(y[:, None], x)
    bands = np.stack(
        [
            power[:, (cycles >= low) & (cycles < high)].mean(axis=1)
            for low, high in itertools.pairwise(RINGS)
        ],
        axis=1,
    )
    noise = bands[:, -1:]
    amplitude = np.sqrt(np.where(bands > _ABOVE * noise, bands - noise, 0))
    amplitude[:, 0] = np.maximum(amplitude[:, 0], _SMALL)  # nothing above the noise: very wide
    low, high = np.array(RINGS[:-1], float), np.array(RINGS[1:], float)
    # the second moment of the amplitude over the plane: where a spot's power falls by exp(-k^2 w^2)
    weights = amplitude * (high**2 - low**2)
    squares = (weights * ((low + high) / 2) ** 2).sum(axis=1) / weights.sum(axis=1)
    return np.log(bands + _SMALL**2), -0.5 * np.log(squares)


def _shapes(
    crops: Float32[np.ndarray, "n y x"], px: float, bright: Bool[np.ndarray, "n y x"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return how line-like bright places are, 0 to 1, and how much they are curved."""
    yy, xx, yx = (
        ndimage.gaussian_filter(crops, (0, px, px), order=(0, *order))
        for order in ((2, 0), (0, 2), (1, 1))
    )
    difference = np.sqrt((yy - xx) ** 2 + 4 * yx**2)
    total = np.abs(yy + xx) + difference
    weight = bright.sum(axis=(1, 2)) + _SMALL
    lines = np.where(bright, difference / (total + _SMALL), 0).sum(axis=(1, 2)) / weight
    curved = np.where(bright, -(yy + xx), 0).sum(axis=(1, 2)) / weight * px**2
    return lines, np.arcsinh(curved / 0.05)


def _coherence(smooth: Float32[np.ndarray, "n y x"]) -> Float[np.ndarray, " n"]:
    """Return how much the gradients of a crop share one direction, 0 to 1."""
    y, x = np.gradient(smooth, axis=(1, 2))
    yy, xx, yx = ((a * b).mean(axis=(1, 2)) for a, b in ((y, y), (x, x), (y, x)))
    return np.asarray(np.sqrt((yy - xx) ** 2 + 4 * yx**2) / (yy + xx + _SMALL))
