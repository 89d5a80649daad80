"""Image + blur -> sharper image: the classical controls, Richardson-Lucy and Wiener.

A blurred image is d = H e: H the convolution with a kernel of sum 1, e >= 0 what is looked for.
Both methods invert it without having seen any other image.

The image is continued beyond its border by its mirror image. H is then diagonal in the cosine basis
(DCT-II) where the kernel is symmetric: nothing is padded, nothing wraps around, border rows keep
their level, H is its own transpose, and an iteration costs four real transforms.

S. A. Martucci, "Symmetric convolution and the discrete sine and cosine transforms", IEEE
Transactions on Signal Processing 42, 1038 (1994), doi 10.1109/78.295213.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Complex, Float, Float32
from scipy import fft
from scipy.optimize import minimize_scalar

from crosscope.data.errors import PairError

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""


def gaussian_kernel(fwhm_px: float) -> Float[np.ndarray, "k k"]:
    """Return a round Gaussian of the given full width at half maximum (px), of odd size and sum 1.

    It is sampled at pixel centres, so that below about 1.5 px it is wider than asked; it is cut
    at four standard deviations.
    """
    sigma_px = fwhm_px / FWHM_PER_SIGMA
    offset_px = np.arange(-np.ceil(4 * sigma_px), np.ceil(4 * sigma_px) + 1)
    profile = np.exp(-(offset_px**2) / (2 * sigma_px**2))
    kernel: Float[np.ndarray, "k k"] = np.outer(profile, profile) / profile.sum() ** 2
    return kernel


def blur(
    image: Float[np.ndarray, "y x"], kernel: Float[np.ndarray, "ky kx"]
) -> Float32[np.ndarray, "y x"]:
    """Convolve an image, continued by its mirror image, with a symmetric kernel of odd size."""
    data, transfer = _on_fast_grid(image, kernel)
    return _filter(data, transfer)[: image.shape[0], : image.shape[1]]


def richardson_lucy(
    image: Float[np.ndarray, "y x"],
    kernel: Float[np.ndarray, "ky kx"],
    *,
    iterations: Sequence[int],
) -> Iterator[Float32[np.ndarray, "y x"]]:
    """Yield the Richardson-Lucy estimate after each of the asked counts, in a single run.

    e <- e H(d / H e), which climbs to the most likely e >= 0 under Poisson noise. Started
    from a flat image. More iterations sharpen and, from some count on, turn noise into specks:
    choose the count on images whose truth is known.

    Parameters
    ----------
    image : (y, x)
        Grey values of which the level of an empty region, camera offset and stray light, has been
        subtracted; what is negative counts as zero.
    kernel : (ky, kx)
        Symmetric in y and in x, of odd size and sum 1. The whole point spread function gives an
        image of points; the blur that leads from a sharper modality to this one
        (`estimate_kernel_fwhm`) gives an image as that modality would show it, and is the better
        control up to some 400 iterations: see Notes.
    iterations : increasing counts

    Yields
    ------
    (y, x) float32
        At least 0; its sum is that of `image`, negative values aside.

    Notes
    -----
    W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972), doi 10.1364/JOSA.62.000055; L. B. Lucy,
    Astron. J. 79, 745 (1974), doi 10.1086/111605. Where the real blur is not the kernel, edges
    overshoot and rings of the real point spread function stay.

    Simulated beads, 290 nm wide at 300 photons, against 110 nm without noise, PSNR after an affine
    fit (width): by the blur between the two at most 35.3 dB (106 nm), at 200 iterations; by the
    whole point spread function at most 32.9 dB, at 50, but blurred again to 110 nm 33.2 dB
    (130 nm) at 200, 36.3 dB (120 nm) at 800, 38.8 dB (115 nm) at 3200 and still rising: the
    strongest control of all on points, at 16 times the cost. To subtract a level of 5 photons is
    worth 0.3 dB and half of the iterations; as a known term beside H e it gains nothing more.
    """
    assert list(iterations) == sorted(set(iterations)), iterations
    data, transfer = _on_fast_grid(np.maximum(image, 0), kernel)
    floor = max(1e-6 * float(data.max()), 1e-30)  # where H e vanishes, rounding aside
    estimate = np.full_like(data, max(float(data.mean()), floor))
    for done in range(1, iterations[-1] + 1):
        expected = _filter(estimate, transfer)
        np.maximum(expected, floor, out=expected)
        np.divide(data, expected, out=expected)
        estimate *= np.maximum(_filter(expected, transfer), 0)
        if done in iterations:
            yield estimate[: image.shape[0], : image.shape[1]].copy()


def wiener(
    image: Float[np.ndarray, "y x"],
    kernel: Float[np.ndarray, "ky kx"],
    *,
    noise_to_signal: float,
) -> Float32[np.ndarray, "y x"]:
    """Return the linear estimate that weighs sharpness against noise, H / (H^2 + r) applied to d.

    Parameters
    ----------
    image, kernel
        As for `richardson_lucy`; here the level of an empty region may stay, it comes out as
        1 / (1 + r) of itself.
    noise_to_signal : r > 0
        Power of the noise over that of the wanted image, taken as the same at all frequencies.

    Returns
    -------
    (y, x) float32
        Negative values and rings around bright objects are to be expected.

    Notes
    -----
    N. Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series, MIT Press
    (1949).
    """
    data, transfer = _on_fast_grid(image, kernel)
    estimate = _filter(data, transfer / (transfer**2 + np.float32(noise_to_signal)))
    return estimate[: image.shape[0], : image.shape[1]]


def estimate_kernel_fwhm(
    sources: Sequence[Float[np.ndarray, "_ _"]], targets: Sequence[Float[np.ndarray, "_ _"]]
) -> float:
    """Return the width (FWHM, px) of the Gaussian blur that leads from the targets to the sources.

    The K that minimises sum |source - a K target - b|^2 over all pairs, a being common to them. The
    sum is taken in Fourier space under a Hann window, where both K and the two spectra's products
    depend on few radial bins, so that the search itself costs nothing. Beads are not needed.

    Parameters
    ----------
    sources, targets : equally many (y, x)
        Registered to each other, on one grid, each at least some ten kernel widths across.

    Raises
    ------
    PairError
        No source shows anything of its target.

    Notes
    -----
    Within 1 % where the blur is Gaussian, 3 % at 30 photons or fields of 128 px; else the nearest
    Gaussian, ruled by the frequencies where the sample is bright. Two images shifted against each
    other by r (px) give sqrt(fwhm^2 + 2.8 r^2).
    """
    edges = np.linspace(0, 0.5, 1025)  # radial frequency, cycles per pixel
    cross, power = np.zeros(1024), np.zeros(1024)
    for source, target in zip(sources, targets, strict=True):
        if np.ptp(source) == 0 or np.ptp(target) == 0:
            continue
        frequency = np.hypot(fft.fftfreq(target.shape[0])[:, None], fft.rfftfreq(target.shape[1]))
        of_source, of_target = _windowed_spectrum(source), _windowed_spectrum(target)
        cross += np.histogram(frequency, edges, weights=(of_source * of_target.conj()).real)[0]
        power += np.histogram(frequency, edges, weights=np.abs(of_target) ** 2)[0]
    centre = (edges[1:] + edges[:-1]) / 2

    def unexplained(fwhm_px: float) -> float:
        kernel = np.exp(-2 * (np.pi * centre * fwhm_px / FWHM_PER_SIGMA) ** 2)
        return -float(max((kernel * cross).sum(), 0) ** 2 / (kernel**2 * power).sum())

    if not cross.sum() > 0:
        reason = "no source shows anything of its target"
        raise PairError("blur between the pairs", reason, "Check that the images belong together")
    widest_px = min(min(target.shape) for target in targets) / 4
    found = minimize_scalar(unexplained, bounds=(0.0, widest_px), method="bounded")
    return float(found.x)


def _windowed_spectrum(image: Float[np.ndarray, "y x"]) -> Complex[np.ndarray, "y _"]:
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    centred = image - np.average(image, weights=window)
    spectrum: Complex[np.ndarray, "y _"] = fft.rfft2(centred * window)
    return spectrum


def _on_fast_grid(
    image: Float[np.ndarray, "y x"], kernel: Float[np.ndarray, "ky kx"]
) -> tuple[Float32[np.ndarray, "Y X"], Float32[np.ndarray, "Y X"]]:
    """Return the image, mirrored at its end to lengths of small factors, and H in that basis."""
    assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1, kernel.shape
    assert np.allclose(kernel, kernel[::-1], atol=1e-6 * kernel.max())
    assert np.allclose(kernel, kernel[:, ::-1], atol=1e-6 * kernel.max())
    extra = [(0, fft.next_fast_len(n, real=True) - n) for n in image.shape]
    data = np.pad(image.astype(np.float32), extra, mode="symmetric")
    cosines = [
        np.cos(np.pi / n * np.outer(np.arange(n), np.arange(k) - k // 2))
        for n, k in zip(data.shape, kernel.shape, strict=True)
    ]
    return data, (cosines[0] @ kernel @ cosines[1].T).astype(np.float32)


def _filter(
    image: Float32[np.ndarray, "y x"], transfer: Float32[np.ndarray, "y x"]
) -> Float32[np.ndarray, "y x"]:
    spectrum = fft.dctn(image, norm="ortho", workers=1)
    spectrum *= transfer
    filtered: Float32[np.ndarray, "y x"] = fft.idctn(
        spectrum, norm="ortho", workers=1, overwrite_x=True
    )
    return filtered
