"""Two images -> what is compared of them: filtered by what they have in common.

The displacement of least variance (of Gaussian noise) is that of the least squares

    | source~ - g target~ |^2,    source~ = N^-1/2 source,    target~ = N^-1/2 (G_st / G_tt) target

with G the spectra of the two over the frequency's modulus, measured on the field as it is aligned
so far, and N = G_ss - |G_st|^2 / G_tt what the target cannot explain of the source.  Point spread
functions are matched, noise is left out and haze, too; what is not aligned yet is not coherent, so
the first rounds rest on what is coarse: the pyramid comes by itself.  Then both are compressed, so
that bright objects, which may differ, don't rule: after the filter, for compressed first they would
not match any more.

Knapp, C., Carter, G. IEEE Trans. ASSP 24, 320-327 (1976), doi 10.1109/TASSP.1976.1162830;
Welch, P. IEEE Trans. Audio 15, 70-73 (1967), doi 10.1109/TAU.1967.1161901.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import fft

from crosscope.data.grids import Grey

WINDOW_PX, LEAST_WINDOW_PX = 128, 32
"""Of the spectra; less in small fields."""
CERTAIN = 2.0
"""Standard errors above 0 from which on a frequency counts as common to both."""
MOST_COHERENT = 0.98
"""Beyond this the filter would grow without bound: an image against itself."""
LINEAR_NOISES, LINEAR_SHARE = 2.0, 0.3
"""Up to here features stay linear: in noises, and of their standard deviation."""
SEEN = 2.0
"""Times the noise's power: above this, structure shows."""
FLOOR = 1e-3
"""Of the strongest frequency's power."""
_PADDING_PX = 32


@dataclass(frozen=True, eq=False)
class Filters:
    """Gains of both images over the frequency.

    Attributes
    ----------
    frequency : (k,) cycles per px, from 0
    source, target : (k,) float
    coherence : (k,) float
        Squared, 0 to 1; 0 where it is not certain.
    """

    frequency: Float[np.ndarray, " k"]
    source: Float[np.ndarray, " k"]
    target: Float[np.ndarray, " k"]
    coherence: Float[np.ndarray, " k"]


def measure_filters(source: Grey, target: Grey, inside: Bool[np.ndarray, "y x"]) -> Filters:
    """Measure the filters of two images on one grid, aligned as far as is known.

    Parameters
    ----------
    source, target : (y, x) float
    inside : (y, x) bool
        Where both have pixels; windows that leave it are left out.

    Returns
    -------
    Filters
        All gains 0 where the two have nothing in common.
    """
    size = WINDOW_PX
    while True:
        filters = _measure(source, target, inside, size)
        # smaller windows know the frequencies less well, but there are more of them
        if filters.coherence.any() or size == LEAST_WINDOW_PX:
            return filters
        size //= 2


def _measure(source: Grey, target: Grey, inside: Bool[np.ndarray, "y x"], size: int) -> Filters:
    spectra, windows = _spectra(source, target, inside, size)
    (g_ss, g_tt, g_st), frequency, count = _ring_means(spectra)
    ratio = g_st / np.maximum(g_tt, 1e-300)
    # what is far below the strongest counts as noise, also in images that have none
    g_ss, g_tt = g_ss + FLOOR * g_ss.max(), g_tt + FLOOR * g_tt.max()
    power = np.maximum(g_ss * g_tt, 1e-300)
    # windows that overlap by half hold about half as many independent samples, and of each two
    # conjugate frequencies one is the other's copy
    error = 1 / np.sqrt(count * max(windows, 1) / 4)
    certain = g_st / np.sqrt(power) > CERTAIN * error
    certain[0] = False
    # chance makes lone frequencies beyond the band look certain: it ends where two in a row are not
    first = int(np.argmax(certain))
    gap = np.flatnonzero(~certain[first:-1] & ~certain[first + 1 :])
    certain[first + (gap[0] if gap.size else certain.size) :] = False
    coherence = np.where(certain, np.minimum(g_st**2 / power, MOST_COHERENT), 0.0)
    source_gain, target_gain = np.zeros_like(frequency), np.zeros_like(frequency)
    f, c, n = frequency[certain], coherence[certain], count[certain]
    if f.size:
        unexplained = g_ss[certain] * (1 - c)
        noise = _smoothed(unexplained, [f**0, f, f**2], np.sqrt(n))
        # the ratio of two transfer functions: of Gaussian ones, exp(-f^2 ...)
        ratio = _smoothed(ratio[certain], [f**0, f**2, f**4], np.sqrt(n * c / (1 - c)))
        source_gain[certain] = 1 / np.sqrt(noise)
        target_gain[certain] = ratio / np.sqrt(noise)
    return Filters(frequency, source_gain, target_gain, coherence)


def measure_finest_period_px(image: Grey) -> float:
    """Return the period of the finest structure that an image shows above its noise, in its px.

    The noise is what its power falls to at the highest frequencies: an image that is sampled too
    coarsely for its structure, or that is blurred after it was taken, has none to tell it by.
    """
    size = min(WINDOW_PX, *image.shape)
    (power, _, _), _ = _spectra(image, image, np.ones(image.shape, bool), size)
    mean, frequency, _ = _ring_means(power[None])
    noise = np.median(mean[0][frequency > 0.45])
    seen = mean[0] > np.maximum(SEEN * noise, FLOOR * mean[0][1:].max())
    beyond = np.flatnonzero(~seen[1:])
    return float(1 / frequency[max(int(beyond[0]) if beyond.size else seen.size - 1, 1)])


def _ring_means(
    spectra: Float[np.ndarray, "n ky kx"],
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return half spectra averaged over the frequency's modulus, that, and how many each holds."""
    size = spectra.shape[1]
    y, x = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)
    ring = np.round(np.hypot(y, x) * size).astype(int).ravel()
    both_sides = np.broadcast_to(np.where((x == 0) | (x == 0.5), 1.0, 2.0), (size, x.size)).ravel()
    count = np.bincount(ring, both_sides)
    means = np.stack([np.bincount(ring, both_sides * s.ravel()) / count for s in spectra])
    return means, np.arange(count.size) / size, count


def _smoothed(
    values: Float[np.ndarray, " k"],
    terms: list[Float[np.ndarray, " k"]],
    weight: Float[np.ndarray, " k"],
) -> Float[np.ndarray, " k"]:
    """Return values (above 0) whose logarithm is the sum of a few terms: spectra are noisy."""
    if values.size <= len(terms):
        return values
    columns = np.stack(terms, axis=1)
    fitted = np.linalg.lstsq(columns * weight[:, None], np.log(values) * weight, rcond=None)[0]
    return np.exp(columns @ fitted)


def apply_filter(
    image: Grey, frequency: Float[np.ndarray, " k"], gain: Float[np.ndarray, " k"]
) -> Grey:
    """Filter an image, mirrored at its borders; beyond the last frequency the last gain holds."""
    size = [fft.next_fast_len(n + 2 * _PADDING_PX, real=True) for n in image.shape]
    before = [min(_PADDING_PX, n - 1) for n in image.shape]
    after = [s - n - b for s, n, b in zip(size, image.shape, before, strict=True)]
    padded = np.pad(image - image.mean(), list(zip(before, after, strict=True)), mode="symmetric")
    modulus = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    filtered = fft.irfft2(fft.rfft2(padded) * np.interp(modulus, frequency, gain), size)
    return filtered[before[0] : size[0] - after[0], before[1] : size[1] - after[1]]


def compress(feature: Grey, unit: float) -> Grey:
    """Return a filtered image linear up to about a unit, and logarithmic beyond."""
    return unit * np.arcsinh(feature / unit)


def unit_of(feature: Grey) -> float:
    """Return up to where a filtered image is to stay linear: about twice its noise."""
    noise = float(np.median(np.abs(feature))) / 0.6745
    return max(LINEAR_NOISES * noise, LINEAR_SHARE * float(feature.std()), 1e-12)


def _spectra(
    source: Grey, target: Grey, inside: Bool[np.ndarray, "y x"], size: int
) -> tuple[Float[np.ndarray, "3 ky kx"], int]:
    """Return the mean periodograms: source, target, and the real part of their cross-spectrum."""
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    hann = np.hanning(size + 2)[1:-1]
    window = np.outer(hann, hann)
    total, count = np.zeros((3, size, size // 2 + 1)), 0
    if rows.size < size or columns.size < size:
        return total, count
    for top in _starts(rows, size):
        for left in _starts(columns, size):
            square = slice(top, top + size), slice(left, left + size)
            if not inside[square].all():
                continue
            s, t = (
                fft.rfft2((image[square] - image[square].mean()) * window)
                for image in (source, target)
            )
            total += [np.abs(s) ** 2, np.abs(t) ** 2, (s * t.conj()).real]
            count += 1
    return total / max(count, 1), count


def _starts(inside: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " k"]:
    """Return where windows begin that cover all that is inside and overlap by half or more."""
    room = int(inside[-1] - inside[0]) + 1 - size
    count = math.ceil(room / (size // 2)) + 1
    return inside[0] + np.round(np.linspace(0, room, count)).astype(int)
