"""Two images of one field (or one, split) -> how far out in frequency they agree: the resolution.

    FRC(f) = Re sum A B* / sqrt(sum |A|^2 sum |B|^2)    over the ring |frequency| = f

A and B are the spectra of the two, mean removed, under a window. What both show correlates, what
chance gave to each does not: FRC = S / (S + N), of signal and noise. The resolution is the period
1 / f at which it falls below a threshold. It is that of image and noise together: more light
resolves more.

W. O. Saxton, W. Baumeister, Journal of Microscopy 127, 127 (1982),
doi 10.1111/j.1365-2818.1982.tb00405.x; M. van Heel, M. Schatz, Journal of Structural Biology 151,
250 (2005), doi 10.1016/j.jsb.2005.05.009; R. P. J. Nieuwenhuizen et al., Nature Methods 10, 557
(2013), doi 10.1038/nmeth.2448; N. Banterle et al., Journal of Structural Biology 183, 363 (2013),
doi 10.1016/j.jsb.2013.05.004; S. Koho et al., Nature Communications 10, 3103 (2019),
doi 10.1038/s41467-019-11024-z.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Complex, Float, Int
from scipy import fft, ndimage
from scipy.optimize import isotonic_regression
from scipy.signal.windows import tukey

LEAST_PX = 16
"""Smaller images have too few rings."""
_STAY = 5
"""Rings of the running median, and rings that a curve must stay below its threshold."""
_SIGMAS = 3.0
_SPLIT_LIMIT = 0.34
"""Cycles per px: the corners of the split images' spectra end at sqrt(2) / 4."""
_NO_POWER = 1e-30
"""Of all power; the rounding of an image lies above."""
_DRAWS = 400
_BLOCK_TAPER = 0.5

_Spectrum = Complex[np.ndarray, "y x"]


@dataclass(frozen=True, eq=False)
class RingCorrelation:
    """Correlation against spatial frequency.

    Attributes
    ----------
    frequency : (n,) cycles per px
        Mean over each ring, rising, at most 0.5. The rings are one period across the field's
        shorter side wide. A ring in which an image has no power at all is left out.
    correlation : (n,)
        -1 to 1.
    samples : (n,)
        Independent complex samples of each ring: of two conjugate ones only one counts, and those
        that the window has tied together count less.
    error : (n,)
        Standard error of the correlation, from the scatter of the ring's samples.

        Both hold for averages over several rings, as if rings were independent. The window ties
        neighbouring rings together instead: one ring alone scatters less, 1.5 times under Hann's.
    reason : str or None
        Why there is no curve: all arrays are empty then.
    """

    frequency: Float[np.ndarray, "n"]
    correlation: Float[np.ndarray, "n"]
    samples: Float[np.ndarray, "n"]
    error: Float[np.ndarray, "n"]
    reason: str | None = None


@dataclass(frozen=True)
class Resolution:
    """The finest period that is told from noise.

    Attributes
    ----------
    period_px : float or None
        Times the pixel size it is the resolution; where pixels are not square, see
        `fourier_ring_correlation`.
    low_px, high_px : float or None
        The interval that holds the period, finest and coarsest. None where there is no period, and
        at the end at which the interval is open: the curve might as well not cross at all.
    reason : str or None
        Why there is no period, in plain words.
    """

    period_px: float | None
    low_px: float | None
    high_px: float | None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class LocalResolution:
    """The resolution in blocks, half a block apart.

    Attributes
    ----------
    period_px : (rows, columns) masked array
        Masked where it cannot be measured; never NaN.
    centre_y_px : (rows,), centre_x_px : (columns,)
        The blocks' centres, from the centre of the first pixel.
    reason : str or None
        Why there is no block at all.
    """

    period_px: Float[np.ma.MaskedArray, "rows columns"]
    centre_y_px: Float[np.ndarray, "rows"]
    centre_x_px: Float[np.ndarray, "columns"]
    reason: str | None = None


Threshold = Callable[[Float[np.ndarray, "n"]], Float[np.ndarray, "n"]]
"""Independent samples of each ring -> what the correlation must exceed there."""


def one_seventh(samples: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return 1/7 for every ring: the fixed threshold of Nieuwenhuizen et al. 2013.

    The two images together, of twice the light, have a signal of a third of their noise there.
    """
    return np.full_like(samples, 1 / 7)


def three_sigma(samples: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return 3 / sqrt(samples): what chance does not exceed (van Heel & Schatz 2005).

    Their formula, 3 / sqrt(n / 2) for n coefficients of which half are conjugates of the others;
    the correlation of noise has the deviation 1 / sqrt(2 samples), so that it is 4.2 of these. A
    larger image has a lower threshold: don't compare images of different sizes by it.
    """
    return _SIGMAS / np.sqrt(samples)


def fourier_ring_correlation(
    a: Float[np.ndarray, "y x"], b: Float[np.ndarray, "v u"], *, taper: float = 1.0
) -> RingCorrelation:
    """Return the correlation of two images of one field, ring by ring.

    Parameters
    ----------
    a, b : (y, x)
        At least 16 px each way, in any grey values: gain (above 0) and offset of either don't
        matter. Their noise must be independent.
    taper : 0 to 1
        Share of each axis over which the window falls to 0 (Tukey): 1, a Hann window, keeps the
        border from leaking furthest; less of it uses more of a small field.

    Returns
    -------
    RingCorrelation
        Empty, with a reason, where sizes differ or are too small, pixels are not finite, or an
        image is constant.

    Notes
    -----
    Frequencies are per px along either axis: rings are round in px, and images of pixels that are
    not square want resampling before. What the two share by other ways than light counts as
    resolved: dirt, fixed patterns, rows that jitter alike, a network's habits. A displacement of
    d px multiplies the correlation by about J0(2 pi d f): register, but move by whole px or by the
    spectrum's phase, for other resampling filters the noise. A spectrum's sharp edge is found up to
    two rings too far out, as the window smears it.

    Example
    -------
    >>> noise = np.random.default_rng(0)
    >>> truth = np.add.outer(np.sin(np.arange(64.0)), np.cos(np.arange(64.0)))
    >>> curve = fourier_ring_correlation(
    ...     truth + noise.normal(size=(64, 64)), truth + noise.normal(size=(64, 64))
    ... )
    >>> find_resolution(curve).reason is None
    True
    """
    reason = _unfit(a, "first") or _unfit(b, "second")
    if a.shape != b.shape:
        sizes = " and ".join(f"{s[0]} x {s[1]} px" for s in (a.shape, b.shape))
        reason = f"The images differ in size: {sizes}."
    if reason:
        return _no_curve(reason)
    window = _window(a.shape, taper)
    first, second = _prepared(a, window), _prepared(b, window)
    if not (first.any() and second.any()):
        return _no_curve("An image is constant but for its border.")
    spectrum_a, spectrum_b = fft.fft2(first), fft.fft2(second)
    power_a, power_b = _power(spectrum_a), _power(spectrum_b)
    cross = (spectrum_a * spectrum_b.conj()).real
    frequency = _frequency(a.shape)
    ring = _rings(frequency, a.shape)
    count = _sums(np.ones(a.shape), ring)
    sum_a, sum_b, sum_cross = (_sums(each, ring) for each in (power_a, power_b, cross))
    kept = (count > 0) & (sum_a > _NO_POWER * power_a.sum()) & (sum_b > _NO_POWER * power_b.sum())
    kept[0] = False
    sum_a, sum_b = np.where(kept, sum_a, 1.0), np.where(kept, sum_b, 1.0)
    norm = np.sqrt(sum_a) * np.sqrt(sum_b)
    correlation = np.clip(sum_cross / norm, -1.0, 1.0)
    # what each sample adds to the correlation, to first order
    pull = (
        cross / norm[ring] - correlation[ring] * (power_a / sum_a[ring] + power_b / sum_b[ring]) / 2
    )
    return _curve(frequency, ring, kept, count, correlation, pull, _independence(window))


def frc_single(image: Float[np.ndarray, "y x"], *, taper: float = 1.0) -> RingCorrelation:
    """Return what the correlation with a second image like this one would be, from this one alone.

    The image is split into its 2 x 2 interleaved sub-images, and each is compared with its
    diagonal neighbour (Koho et al. 2019), on the frequencies that the split does not fold:

        FRC(f) = 8 sum Re(A00 A11* + A01 A10*) / sum |A|^2,    |f_y|, |f_x| < 1/4

    A is the image's spectrum and Aij those of the sub-images, zeros between their pixels, so that
    nothing is displaced. Each Aij holds a quarter of the signal: the sum over the diagonals is the
    power of the signal, against that of signal and noise. That is all of the calibration: no
    factor is fitted to any instrument, and 1/7 means what it means for two images.

    Parameters
    ----------
    image : (y, x)
        As `fourier_ring_correlation` takes them, raw: not resampled, smoothed or deconvolved.
    taper : 0 to 1
        As there.

    Returns
    -------
    RingCorrelation
        Up to 0.34 cycles per px; beyond 0.25 only the spectrum's diagonals enter. `samples` are an
        eighth of those of two images: the split costs that much certainty.

    Notes
    -----
    Noise must be independent between diagonal neighbours; along a row or a column it may be
    correlated. It fails where (1) the noise is correlated: after resampling, denoising, a colour
    filter's interpolation, a network: noise then counts as signal, and the curve may never fall;
    (2) structure is finer than 3 px per period: it is folded, and the curve falls too early;
    (3) rows are displaced against each other (jitter of a scan): detail that two images repeat
    counts as noise, for neighbouring rows don't share it. It cannot see a fault that a repeated
    image would show, such as motion between the two.

    Three pairs of confocal repeats of Koho et al. 2019 measure 177, 175 and 187 nm, and single
    images 226, 221 and 200 nm: their rows jitter, alike in both repeats, which (3) leaves out.
    Without the frequencies that jitter reaches, the pairs measure 217, 207 and 182 nm.
    `three_sigma` asks more samples than a split has: use `one_seventh`.
    """
    reason = _unfit(image, "only")
    if reason:
        return _no_curve(reason)
    window = _window(image.shape, taper)
    pixels = _prepared(image, window)
    if not pixels.any():
        return _no_curve("The image is constant but for its border.")
    power = _power(fft.fft2(pixels))
    cross = 8 * (_diagonal(pixels, 0) + _diagonal(pixels, 1))
    frequency = _frequency(image.shape)
    fy, fx = (np.abs(fft.fftfreq(n)) for n in image.shape)
    unfolded = np.maximum.outer(fy, fx) < 0.25
    ring = np.where(unfolded, _rings(frequency, image.shape, upto=_SPLIT_LIMIT), 0)
    count = _sums(np.ones(image.shape), ring)
    total = _sums(power, ring)
    kept = (count > 0) & (total > _NO_POWER * power.sum())
    kept[0] = False
    total = np.where(kept, total, 1.0)
    ratio = _sums(cross, ring) / total
    pull = (cross - ratio[ring] * power) / total[ring]
    # of noise alone the ratio has 8 times the variance of two images' correlation
    return _curve(
        frequency, ring, kept, count, np.clip(ratio, -1, 1), pull, _independence(window), cost=8.0
    )


def find_resolution(
    curve: RingCorrelation,
    *,
    threshold: Threshold = one_seventh,
    level: float = 0.95,
    seed: int = 0,
) -> Resolution:
    """Return the period at which a curve falls below a threshold and stays there.

    Parameters
    ----------
    curve : RingCorrelation
    threshold : `one_seventh`, `three_sigma`, or any function of the rings' samples
    level : 0 to 1
        Share of the redrawn curves' periods within the interval.
    seed : int
        The same curve and seed give the same interval.

    Returns
    -------
    Resolution
        Without a period, with a reason, where the curve is empty, never rises above the threshold
        or chance, or never falls below and stays.

    Notes
    -----
    A running median of 5 rings tells roughly where: the first crossing after which it stays below
    for 5 rings; what rises again later is not followed. Up to the end of that stretch the curve is
    replaced by the nearest one that never rises (isotonic, weighted by the samples): it averages
    where the curve is noisy and leaves a steep edge where it is. The crossing is linear between
    rings. That the images have anything in common must show, too: the mean correlation of all rings
    up to some frequency exceeds 3 / sqrt(samples) of its own.

    The interval: each ring of the smoothed curve is drawn anew 400 times with its standard error
    (normal) and evaluated alike. It tells what chance does within this field, not between fields,
    nor what the two images wrongly share.
    """
    if curve.reason:
        return Resolution(None, None, None, curve.reason)
    limit = threshold(curve.samples)
    if not _significant(curve):
        return Resolution(None, None, None, "The images are no more alike than unrelated noise.")
    (crossing,) = _crossings(curve, curve.correlation[None], limit)
    if crossing == 0:
        reason = "The correlation never rises above the threshold."
        return Resolution(None, None, None, reason)
    if crossing == math.inf:
        return Resolution(
            None,
            None,
            None,
            "The correlation does not fall below the threshold and stay there up to "
            f"{curve.frequency[-1]:.2f} cycles per px: pixels are too coarse, there is no noise, "
            "or it is not independent (the same, filtered or resampled image, a fixed pattern).",
        )
    smooth = _smoothed(curve, crossing)
    noise = np.random.default_rng(seed).normal(size=(_DRAWS, smooth.size)) * curve.error
    drawn = _crossings(curve, smooth + noise, limit)
    tails = [(1 - level) / 2, (1 + level) / 2]
    coarse, fine = np.quantile(drawn, tails, method="inverted_cdf")
    return Resolution(
        1 / crossing,
        1 / float(fine) if fine < math.inf else None,
        1 / float(coarse) if coarse > 0 else None,
    )


def local_frc(
    a: Float[np.ndarray, "y x"],
    b: Float[np.ndarray, "v u"],
    *,
    block_px: int,
    threshold: Threshold = one_seventh,
) -> LocalResolution:
    """Return a map of the resolution, of blocks that overlap by half.

    Parameters
    ----------
    a, b : (y, x)
        As `fourier_ring_correlation` takes them.
    block_px : int, at least 16
        64 scatters by about 5 % at best; smaller blocks have too few samples, larger ones less
        place. A block's window tapers over half of each axis.
    threshold : as in `find_resolution`

    Returns
    -------
    LocalResolution
        The last row and column of blocks end at the image's border, however near the last but one.
        A block without a resolution (empty background, constant, a NaN pixel) is masked.
    """
    assert block_px >= LEAST_PX, f"blocks of {block_px} px"
    reason = None
    if a.shape != b.shape:
        sizes = " and ".join(f"{s[0]} x {s[1]} px" for s in (a.shape, b.shape))
        reason = f"The images differ in size: {sizes}."
    elif min(a.shape) < block_px:
        reason = f"{a.shape[0]} x {a.shape[1]} px hold no block of {block_px} px."
    if reason:
        empty = np.zeros(0)
        return LocalResolution(np.ma.array(np.zeros((0, 0))), empty, empty, reason)
    rows, columns = (_starts(n, block_px) for n in a.shape)
    period_px = np.ma.array(np.zeros((rows.size, columns.size)), mask=True)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            block = slice(y, y + block_px), slice(x, x + block_px)
            curve = fourier_ring_correlation(a[block], b[block], taper=_BLOCK_TAPER)
            if curve.reason or not _significant(curve):
                continue
            limit = threshold(curve.samples)
            (crossing,) = _crossings(curve, curve.correlation[None], limit)
            if 0 < crossing < math.inf:
                period_px[i, j] = 1 / crossing
    half = (block_px - 1) / 2
    return LocalResolution(period_px, rows + half, columns + half)


# --- the crossing ---------------------------------------------------------------------------------


def _significant(curve: RingCorrelation) -> bool:
    samples = np.cumsum(curve.samples)
    mean = np.cumsum(curve.samples * curve.correlation) / samples
    return bool((mean > three_sigma(samples)).any())


def _crossings(
    curve: RingCorrelation,
    correlations: Float[np.ndarray, "m n"],
    limit: Float[np.ndarray, "n"],
) -> list[float]:
    """Return each one's crossing frequency; 0 where all is below, inf where it does not fall."""
    medians = ndimage.median_filter(correlations, (1, _STAY), mode="nearest")
    found = []
    for correlation, above in zip(correlations, medians >= limit, strict=True):
        crossing = math.inf if above.any() else 0.0
        for k in np.flatnonzero(above[:-1] & ~above[1:]):
            end = min(int(k) + 1 + _STAY, above.size)
            if above[k + 1 : end].any():
                continue
            excess = _falling(correlation[:end], curve.samples[:end]) - limit[:end]
            # a few high rings there must not lift the curve's end over the threshold
            while excess[-1] >= 0 and end < above.size and not above[end]:
                end += 1
                excess = _falling(correlation[:end], curve.samples[:end]) - limit[:end]
            held = np.flatnonzero(excess >= 0)
            if not held.size:
                crossing = 0.0
                break
            last = held[-1]
            if last < end - 1:
                share = excess[last] / (excess[last] - excess[last + 1])
                step = curve.frequency[last + 1] - curve.frequency[last]
                crossing = float(curve.frequency[last] + share * step)
                break
        found.append(crossing)
    return found


def _smoothed(curve: RingCorrelation, crossing: float) -> Float[np.ndarray, "n"]:
    """Return the curve that never rises up to its crossing, and the running median beyond."""
    smooth = ndimage.median_filter(curve.correlation, _STAY, mode="nearest")
    end = int(np.searchsorted(curve.frequency, crossing)) + _STAY
    smooth[:end] = _falling(curve.correlation[:end], curve.samples[:end])
    return smooth


def _falling(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return isotonic_regression(values, weights=weights, increasing=False).x


# --- rings ----------------------------------------------------------------------------------------


def _unfit(image: Float[np.ndarray, "y x"], which: str) -> str | None:
    """Return why an image has no spectrum, or None."""
    if min(image.shape) < LEAST_PX:
        size = f"{image.shape[0]} x {image.shape[1]} px"
        return f"{size} are too few: {LEAST_PX} each way are the least."
    bad = int((~np.isfinite(image)).sum())
    if bad:
        return f"The {which} image holds {bad} pixels that are no finite numbers."
    return f"The {which} image is constant." if np.ptp(image) == 0 else None


def _no_curve(reason: str) -> RingCorrelation:
    empty = np.zeros(0)
    return RingCorrelation(empty, empty, empty, empty, reason)


def _window(shape: tuple[int, ...], taper: float) -> Float[np.ndarray, "y x"]:
    # symmetric about the pixels' centre, without the zeros at its ends
    along = [tukey(n + 2, taper)[1:-1] for n in shape]
    return np.outer(*along)


def _independence(window: Float[np.ndarray, "y x"]) -> float:
    """Return which share of the coefficients the window leaves independent: 1 without one."""
    square = window**2
    return float(square.sum() ** 2 / (square.size * (square**2).sum()))


def _prepared(
    image: Float[np.ndarray, "y x"], window: Float[np.ndarray, "y x"]
) -> Float[np.ndarray, "y x"]:
    # first to a span of 1, that no square overflows
    pixels = image.astype(np.float64)
    pixels = (pixels - pixels.min()) / np.ptp(pixels)
    return (pixels - np.average(pixels, weights=window)) * window


def _power(spectrum: _Spectrum) -> Float[np.ndarray, "y x"]:
    return spectrum.real**2 + spectrum.imag**2


def _diagonal(pixels: Float[np.ndarray, "y x"], first: int) -> Float[np.ndarray, "y x"]:
    """Return Re(A B*) of a sub-image and its diagonal neighbour, on the whole grid."""
    one, other = np.zeros_like(pixels), np.zeros_like(pixels)
    one[::2, first::2] = pixels[::2, first::2]
    other[1::2, 1 - first :: 2] = pixels[1::2, 1 - first :: 2]
    product: Float[np.ndarray, "y x"] = (fft.fft2(one) * fft.fft2(other).conj()).real
    return product


def _frequency(shape: tuple[int, ...]) -> Float[np.ndarray, "y x"]:
    frequency: Float[np.ndarray, "y x"] = np.hypot(
        fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])
    )
    return frequency


def _rings(
    frequency: Float[np.ndarray, "y x"], shape: tuple[int, ...], upto: float = 0.5
) -> Int[np.ndarray, "y x"]:
    """Return the ring of each coefficient, 0 (no ring) for the mean and beyond `upto`."""
    # halves go up, whatever the last digit
    ring = np.floor(frequency * min(shape) + 0.5 + 1e-9).astype(int)
    return np.where(frequency <= upto + 1e-9, ring, 0)


def _sums(values: Float[np.ndarray, "y x"], ring: Int[np.ndarray, "y x"]) -> Float[np.ndarray, "r"]:
    return np.bincount(ring.ravel(), values.ravel())


def _curve(
    frequency: Float[np.ndarray, "y x"],
    ring: Int[np.ndarray, "y x"],
    kept: Bool[np.ndarray, "r"],
    count: Float[np.ndarray, "r"],
    correlation: Float[np.ndarray, "r"],
    pull: Float[np.ndarray, "y x"],
    independence: float,
    cost: float = 1.0,
) -> RingCorrelation:
    # conjugates are each other's copies: twice the variance, half the samples
    variance = 2 * _sums(pull**2, ring) / independence
    mean_frequency = _sums(frequency, ring) / np.maximum(count, 1)
    return RingCorrelation(
        mean_frequency[kept],
        correlation[kept],
        count[kept] * independence / (2 * cost),
        np.sqrt(variance[kept]),
    )


def _starts(n: int, block_px: int) -> Int[np.ndarray, "blocks"]:
    last = n - block_px
    return np.unique(np.append(np.arange(0, last + 1, block_px // 2), last))
