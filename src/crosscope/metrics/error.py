"""Image + reference -> a number: how far apart the grey values are, plain or after an affine fit.

With e = image - reference, MSE = mean(e^2) and L the data range:
PSNR = 10 log10(L^2 / MSE), NRMSE = sqrt(MSE) / L, r = cov(image, reference) / (sd sd).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class IntensityFit:
    """The scale that brings an image to its reference: gain * image + offset."""

    gain: float
    offset: float

    def apply(self, image: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
        """Return gain * image + offset, in the reference's grey values."""
        return self.gain * image + self.offset


def fit_intensity(
    image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"]
) -> IntensityFit:
    """Return the gain and offset that bring `image` nearest to `reference` (least squares).

    A modality's grey values have a scale of their own: compared unfitted, two true images differ. A
    constant image gets gain 0 and the reference's mean. The more an image is blurred against its
    reference, the smaller the gain: the fit lowers contrast where it cannot match detail.
    """
    centred = image - image.mean(dtype=np.float64)
    power = float(np.vdot(centred, centred))
    gain = float(np.vdot(centred, reference)) / power if power > 0 else 0.0
    mean, reference_mean = (float(each.mean(dtype=np.float64)) for each in (image, reference))
    return IntensityFit(gain, reference_mean - gain * mean)


def psnr_db(
    image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"], *, data_range: float
) -> float:
    """Return the peak signal-to-noise ratio in dB, higher is better.

    Parameters
    ----------
    image, reference : (y, x)
        In the same grey values.
    data_range : grey values
        L, the span of values that counts as full scale; never guessed from the images.

    Returns
    -------
    float
        `math.inf` where the two are identical, which JSON cannot hold: write null and say so. NaN
        where a pixel is. A mean over pixels: in a sparse image the empty background rules it.
    """
    error = _root_mean_square(image, reference)
    return 20 * math.log10(data_range / error) if error != 0 else math.inf


def nrmse(
    image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"], *, data_range: float
) -> float:
    """Return the root mean square error over the data range given: 0 is best, NaN where a pixel is.

    Other definitions divide by the reference's mean or norm; this one is 10^(-PSNR / 20).
    """
    return _root_mean_square(image, reference) / data_range


def pearson(image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"]) -> float:
    """Return Pearson's correlation, -1 to 1, blind to gain and offset; NaN for a constant image."""
    first, second = (each - each.mean(dtype=np.float64) for each in (image, reference))
    norm = math.sqrt(float(np.vdot(first, first)) * float(np.vdot(second, second)))
    return float(np.vdot(first, second)) / norm if norm > 0 else math.nan


def _root_mean_square(
    image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"]
) -> float:
    difference = image.astype(np.float64) - reference
    return math.sqrt(float(np.mean(difference**2)))
