"""Image -> power against spatial frequency, averaged over all directions.

P(f) = <|F[w (I - mean)]|^2> / sum w^2 over the ring |f| (cycles per um), w the Hann window that
keeps the image's border from leaking into it. White noise of variance v has P = v everywhere.

F. J. Harris, "On the use of windows for harmonic analysis with the discrete Fourier transform",
Proceedings of the IEEE 66, 51 (1978), doi 10.1109/PROC.1978.10837.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import fft


@dataclass(frozen=True, eq=False)
class RadialSpectrum:
    """Power against spatial frequency.

    Attributes
    ----------
    frequency_per_um : (n,)
        Evenly spaced, from one period across the field's shorter side to the Nyquist frequency.
    power : (n,)
        Grey values squared.
    """

    frequency_per_um: Float[np.ndarray, "n"]
    power: Float[np.ndarray, "n"]


def radial_spectrum(
    image: Float[np.ndarray, "y x"], *, pixel_size_nm: tuple[float, float]
) -> RadialSpectrum:
    """Return the radially averaged power spectrum of an image of any shape.

    Parameters
    ----------
    image : (y, x)
        At least 8 px each way; a NaN pixel makes all of the power NaN.
    pixel_size_nm : (y, x)

    Notes
    -----
    A spectrum that reaches further shows finer structure or more noise: it can't tell which.
    """
    size_um = np.array(image.shape) * np.array(pixel_size_nm) / 1000
    step_per_um = 1 / size_um.min()
    n = int(np.floor(1000 / (2 * max(pixel_size_nm)) / step_per_um * (1 + 1e-9)))
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    spectrum = fft.rfft2((image - np.average(image, weights=window)) * window)
    power = np.abs(spectrum) ** 2 / (window**2).sum()
    frequency_per_um = np.hypot(
        fft.fftfreq(image.shape[0], pixel_size_nm[0] / 1000)[:, None],
        fft.rfftfreq(image.shape[1], pixel_size_nm[1] / 1000),
    )
    ring = np.rint(frequency_per_um / step_per_um).astype(int).ravel()
    total, count = np.bincount(ring, power.ravel()), np.bincount(ring)
    return RadialSpectrum(step_per_um * np.arange(1, n + 1), (total / count)[1 : n + 1])
