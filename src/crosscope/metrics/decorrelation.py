"""Image -> the finest period that stands out of its noise, by decorrelation analysis: no parameter.

The image's Fourier transform F, with all amplitudes set to 1, is correlated with F itself inside a
growing disc of radius r (1: the Nyquist frequency):

    d(r) = sum_{|k| < r} |F| / sqrt(sum_{|k| < 1} |F|^2 sum_{|k| < r} 1)

d rises with each ring of structure and falls with each ring of noise, a ring counting as noise
where its mean amplitude is below half of the mean inside it. d peaks at the border between them.
High-pass filters, 1 - exp(-2 (pi sigma f)^2), lift fine structure against coarse; the farthest peak
is the image's cut-off. F and the filter enter by |F| and |k| alone: sums over rings, taken once,
give all curves.

A. Descloux, K. S. Grussmayer, A. Radenovic, "Parameter-free image resolution estimation based on
decorrelation analysis", Nature Methods 16, 918 (2019), doi 10.1038/s41592-019-0515-7.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import fft

# The paper's choices, but for the last two: chance and the field's size.
_RADII = 50
_FILTERS = 10
_FINEST_SIGMA_PX = 0.15
_APODISED_PX = 20
_LOWEST_HEIGHT = 0.05
_SMALLEST_DROP = 0.001
_DROP_BY_CHANCE = 0.5
_FEWEST_PERIODS = 4

_SMALLEST_SIDE_PX = 32


@dataclass(frozen=True, eq=False)
class DecorrelationCurve:
    """The correlation d within a disc against the disc's radius, after one high-pass filter.

    Attributes
    ----------
    sigma_px : float
        Width of the Gaussian subtracted; infinite for the image as it is.
    frequency_per_px : (n,)
        Radius of the disc in cycles per pixel, at most 0.5.
    correlation : (n,)
        0 to 1.
    peak : int or None
        Where the curve peaks; None where it does not.
    """

    sigma_px: float
    frequency_per_px: Float[np.ndarray, "n"]
    correlation: Float[np.ndarray, "n"]
    peak: int | None

    @property
    def cutoff_per_px(self) -> float:
        """The peak's frequency in cycles per pixel; 0 where there is none."""
        return 0.0 if self.peak is None else float(self.frequency_per_px[self.peak])

    @property
    def height(self) -> float:
        """The correlation at the peak, 0 to 1; 0 where there is none."""
        return 0.0 if self.peak is None else float(self.correlation[self.peak])


@dataclass(frozen=True, eq=False)
class Decorrelation:
    """Resolution of one image, or why it has none.

    Attributes
    ----------
    period_px : float or None
        The finest period told from noise, above 2 px; its inverse is the image's cut-off frequency.
    reason : str or None
        Why there is no period; None where there is one.
    height : float or None
        Peak of the curve that reached farthest, 0.05 to 1. Higher is more certain.
    contrast : float or None
        Peak of the unfiltered image's curve, the paper's stand-in for a signal-to-noise ratio, 0.05
        to 1; simulated images stay below 0.85. None where that curve has no peak.
    curves : tuple
        The unfiltered image's first, then the coarse search's, then the refined one's; none for
        an image that could not be analysed.
    """

    period_px: float | None
    reason: str | None
    height: float | None
    contrast: float | None
    curves: tuple[DecorrelationCurve, ...]


@dataclass(frozen=True, eq=False)
class _Rings:
    """Sums over thin rings of the frequency plane within Nyquist's circle, the centre left out."""

    radius: Float[np.ndarray, "m"]  # upper edge, 1 at the Nyquist frequency
    amplitude: Float[np.ndarray, "m"]
    power: Float[np.ndarray, "m"]
    count: Float[np.ndarray, "m"]


def measure_decorrelation(image: Float[np.ndarray, "y x"]) -> Decorrelation:
    """Return the finest period (px) of a single image, any shape, gain and offset.

    Parameters
    ----------
    image : (y, x)
        At least 32 px each way, of square pixels, grey values linear in light. The outer 20 px (an
        eighth of a shorter field) are faded out.

    Returns
    -------
    Decorrelation
        Without a period where the image is too small, constant or holds a NaN, and where no curve
        peaks: noise alone, or structure that reaches up to the Nyquist frequency.

    Notes
    -----
    A peak counts where d falls afterwards by at least 0.001, it is at least 0.05 high, as in the
    paper, and (ours, so that noise alone has no peak in small fields) the fall is more than chance
    gives and the field's shorter side holds at least 4 periods. The first ten filters place the
    peak to 0.02 of the Nyquist frequency; the ten of the refined search take their place.

    Simulated images with a sharp cut-off: within 4 % for periods up to a 25th of the field, 8 % for
    a 16th. The transfer function of an incoherent microscope fades towards its cut-off: the period
    is then 10 to 18 % longer than the cut-off's however good the image (14 % for points, by
    theory), more where light is short. On confocal images it is 216 to 243 nm, where the Fourier
    ring correlation of two exposures gives 170 to 190 nm.

    Noise that is not white is taken for structure: noise that was interpolated, filtered or
    deconvolved, JPEG blocks, a camera's stripes. Of an image from a network it says how far its
    spectrum reaches, not whether what it shows is there.
    """
    obstacle = _obstacle(image)
    if obstacle:
        return Decorrelation(None, obstacle, None, None, ())
    rings = _ring_sums(_apodise(image))
    smallest = 2 * _FEWEST_PERIODS / min(image.shape)
    radii = np.linspace(0, 1, _RADII)
    plain = _curve(rings, radii, math.inf, smallest)

    coarsest_px = 1 / plain.cutoff_per_px if plain.peak is not None else max(image.shape) / 2
    sigmas_px = np.geomspace(coarsest_px, _FINEST_SIGMA_PX, _FILTERS)
    coarse = [_curve(rings, radii, float(sigma), smallest) for sigma in sigmas_px]
    curves = [plain, *coarse]
    if any(curve.peak is not None for curve in coarse):
        # Between the filter whose peak lies farthest and the one with the best mean of both.
        cutoffs = [curve.cutoff_per_px for curve in coarse]
        chosen = [
            int(np.argmax(cutoffs)),
            int(np.argmax([curve.cutoff_per_px * curve.height for curve in coarse])),
        ]
        wide_px = float(sigmas_px[max(min(chosen) - 1, 0)])
        narrow_px = float(sigmas_px[min(max(chosen) + 1, _FILTERS - 1)])
        peaks = [2 * cutoffs[i] for i in chosen]
        radii = np.linspace(max(min(peaks) - 0.05, 0), min(max(peaks) + 0.3, 1), _RADII)
        fine_px = np.geomspace(wide_px, narrow_px, _FILTERS)
        refined = [_curve(rings, radii, float(sigma), smallest) for sigma in fine_px]
        candidates = [plain, *refined]
        if all(curve.peak is None for curve in refined):
            candidates += coarse
        curves += refined
    else:
        candidates = [plain]
    best = max(candidates, key=lambda curve: curve.cutoff_per_px)
    if best.peak is None:
        reason = (
            "nothing stands out of the noise: no correlation curve has a peak below the Nyquist "
            "frequency (noise alone, or pixels too coarse for the structure)"
        )
        return Decorrelation(None, reason, None, None, tuple(curves))
    contrast = None if plain.peak is None else plain.height
    return Decorrelation(1 / best.cutoff_per_px, None, best.height, contrast, tuple(curves))


def _obstacle(image: Float[np.ndarray, "y x"]) -> str | None:
    """Say why an image can't be analysed at all."""
    if min(image.shape) < _SMALLEST_SIDE_PX:
        size = f"{image.shape[0]} x {image.shape[1]} px"
        return f"the image is too small: {size}, at least {_SMALLEST_SIDE_PX} px each way needed"
    if not np.isfinite(image).all():
        return "the image holds pixels that are not finite numbers"
    # Rounding leaves a pattern of its own where a small signal rides on a large level.
    if float(np.ptp(image)) <= 16 * np.finfo(image.dtype).eps * float(np.abs(image).max()):
        return "the image is constant"
    return None


def _apodise(image: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Fade the image into its mean towards the border, and take the mean away."""
    edges = []
    for n in image.shape:
        distance = np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5)
        width = min(_APODISED_PX, n / 8)
        edges.append(0.5 - 0.5 * np.cos(np.pi * np.clip(distance / width, 0, 1)))
    window = np.outer(*edges)
    scaled = image.astype(np.float64)
    scaled -= scaled.min()
    scaled /= scaled.max()
    faded: Float[np.ndarray, "y x"] = (scaled - np.average(scaled, weights=window)) * window
    return faded


def _ring_sums(image: Float[np.ndarray, "y x"]) -> _Rings:
    height, width = image.shape
    amplitude = np.abs(fft.rfft2(image))
    radius = 2 * np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width))
    count = np.full(radius.shape, 2.0)  # half of the plane stands for all of it
    count[:, 0] = 1
    if width % 2 == 0:
        count[:, -1] = 1
    count[0, 0] = 0  # the mean
    n = 4 * max(image.shape)
    ring = np.floor(radius * n).astype(int)
    inside = ring < n
    ring, count, amplitude = ring[inside], count[inside], amplitude[inside]
    return _Rings(
        radius=np.arange(1, n + 1) / n,
        amplitude=np.bincount(ring, count * amplitude, n),
        power=np.bincount(ring, count * amplitude**2, n),
        count=np.bincount(ring, count, n),
    )


def _curve(
    rings: _Rings, radii: Float[np.ndarray, "n"], sigma_px: float, smallest: float
) -> DecorrelationCurve:
    """Return d at the radii asked, and its peak beyond the smallest radius."""
    passed = -np.expm1(-0.5 * (np.pi * sigma_px * rings.radius) ** 2)
    sums = np.concatenate([[0.0], np.cumsum(passed * rings.amplitude)])
    counts = np.concatenate([[0.0], np.cumsum(rings.count)])
    within = np.searchsorted(rings.radius, radii * (1 + 1e-9), side="right")
    power = float((passed**2 * rings.power).sum())
    norm = np.sqrt(power * np.maximum(counts[within], 1))
    correlation = sums[within] / norm if power > 0 else np.zeros(len(radii))

    # A sum of N random amplitudes moves d by about 0.65 / sqrt(N) of all frequencies.
    drop = max(_SMALLEST_DROP, _DROP_BY_CHANCE / math.sqrt(counts[-1]))
    lowest_beyond = np.minimum.accumulate(correlation[::-1])[::-1]
    falls = np.where(correlation - lowest_beyond > drop, correlation, 0)
    peak = int(np.argmax(falls))
    counts_as_one = peak > 0 and falls[peak] >= _LOWEST_HEIGHT and radii[peak] >= smallest
    return DecorrelationCurve(sigma_px, radii / 2, correlation, peak if counts_as_one else None)
