"""Image + reference -> a number: how far apart the grey values are, plain or after an affine fit.

With e = image - reference, MSE = mean(e^2) and L the data range:
PSNR = 10 log10(L^2 / MSE), NRMSE = sqrt(MSE) / L, r = cov(image, reference) / (sd sd), over the
whole field or over a part of it.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


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
    image: Float[np.ndarray, "y x"],
    reference: Float[np.ndarray, "y x"],
    *,
    data_range: float,
    inside: Bool[np.ndarray, "y x"] | None = None,
) -> float:
    """Return the peak signal-to-noise ratio in dB, higher is better.

    Parameters
    ----------
    image, reference : (y, x)
        In the same grey values.
    data_range : grey values
        L, the span of values that counts as full scale; never guessed from the images.
    inside : (y, x) bool, optional
        Compare only these pixels: the sample, or the background; take the same L for both.

    Returns
    -------
    float
        `math.inf` where the two are identical, which JSON cannot hold: write null and say so. NaN
        where a compared pixel is, or where none is compared. A mean over pixels: in a sparse image
        the empty background rules it, unless `inside` leaves it out.
    """
    error = _root_mean_square(image, reference, inside)
    return 20 * math.log10(data_range / error) if error != 0 else math.inf


def nrmse(
    image: Float[np.ndarray, "y x"],
    reference: Float[np.ndarray, "y x"],
    *,
    data_range: float,
    inside: Bool[np.ndarray, "y x"] | None = None,
) -> float:
    """Return the root mean square error over the data range given: 0 is best.

    Other definitions divide by the reference's mean or norm; this one is 10^(-PSNR / 20). NaN where
    a compared pixel is, or where `inside`, the pixels to compare, is empty.
    """
    return _root_mean_square(image, reference, inside) / data_range


def pearson(
    image: Float[np.ndarray, "y x"],
    reference: Float[np.ndarray, "y x"],
    *,
    inside: Bool[np.ndarray, "y x"] | None = None,
) -> float:
    """Return Pearson's correlation, -1 to 1, blind to gain and offset.

    NaN where a compared pixel is, where one of the two is constant, and where `inside`, the pixels
    to compare, is empty. On a background of pure noise it is near 0, however good the image.
    """
    first, second = _part(image, inside), _part(reference, inside)
    # Asked of the values: less its mean, a constant can leave a rounding error that correlates.
    if not first.size or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    first, second = first - first.mean(), second - second.mean()
    norm = math.sqrt(float(np.vdot(first, first)) * float(np.vdot(second, second)))
    return float(np.vdot(first, second)) / norm if norm != 0 else math.nan


def _root_mean_square(
    image: Float[np.ndarray, "y x"],
    reference: Float[np.ndarray, "y x"],
    inside: Bool[np.ndarray, "y x"] | None,
) -> float:
    difference = _part(image, inside) - _part(reference, inside)
    return math.sqrt(float(np.mean(difference**2))) if difference.size else math.nan


def _part(
    image: Float[np.ndarray, "y x"], inside: Bool[np.ndarray, "y x"] | None
) -> Float[np.ndarray, "n"]:
    """Return the pixels asked for, in double precision."""
    pixels: Float[np.ndarray, "n"] = image.ravel() if inside is None else image[inside]
    return pixels.astype(np.float64)
