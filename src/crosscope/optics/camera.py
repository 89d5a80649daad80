"""Expected photons -> grey values: shot noise, gain, offset, read noise, 16 bit.

    grey = round(offset + gain Poisson(photons + background) + Normal(0, read noise))

clipped to 0 ... 65535.  Away from the ends, with n = photons + background, its mean is
offset + gain n and its variance gain^2 n + read noise^2 (+ 1/12 by rounding).
Huang et al. 2013, doi 10.1038/nmeth.2488.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt16


@dataclass(frozen=True)
class Camera:
    """A detector, be it a camera or a photon counter behind a pinhole.

    Attributes
    ----------
    offset : float
        Mean grey value without any light.
    gain : float
        Grey values for each detected photon.
    read_noise : float
        Standard deviation in grey values, without any light.
    background : float
        Photons in every pixel that don't come from the sample's labels.
    """

    offset: float
    gain: float
    read_noise: float
    background: float


def expected_grey(photons: Float[np.ndarray, "y x"], camera: Camera) -> Float32[np.ndarray, "y x"]:
    """Return the mean of infinitely many exposures: the noise-free image, in grey values."""
    grey = camera.offset + camera.gain * (photons + camera.background)
    return grey.astype(np.float32)


def expose(
    photons: Float[np.ndarray, "y x"], camera: Camera, *, rng: np.random.Generator
) -> UInt16[np.ndarray, "y x"]:
    """Return one noisy exposure.

    Parameters
    ----------
    photons : (y, x) float
        Expected photons from the sample in each pixel, at least 0.
    """
    detected = rng.poisson(photons + camera.background)
    read = rng.normal(0, camera.read_noise, photons.shape)
    grey = camera.offset + camera.gain * detected + read
    return np.clip(np.rint(grey), 0, 65535).astype(np.uint16)
