"""Pixels -> the grey level where there is nothing, and the noise there."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Num
from scipy import ndimage


@dataclass(frozen=True)
class Background:
    """The grey level where there is nothing, and the standard deviation of its noise."""

    level: float
    noise: float


def measure_background(pixels: Num[np.ndarray, "y x"]) -> Background:
    """Measure level and white noise of an image's dark parts.

    The level is the 10th percentile of the image blurred by 2 px; the noise comes from the mean
    of Immerkaer's Laplacian, which structures wider than a pixel hardly touch, over the darker
    half of the pixels (median instead of mean). Noise that is correlated, as after resampling, is
    underestimated.

    Immerkaer, J. Comput. Vis. Image Underst. 64, 300-302 (1996), doi 10.1006/cviu.1996.0060.
    """
    blurred = ndimage.gaussian_filter(pixels.astype(np.float64), 2.0)
    second = np.array([1.0, -2.0, 1.0])
    laplacian = ndimage.convolve1d(pixels.astype(np.float64), second, axis=0)
    laplacian = ndimage.convolve1d(laplacian, second, axis=1) / 6
    dark = blurred <= np.median(blurred)
    noise = np.median(np.abs(laplacian[dark])) / 0.6745  # of a normal distribution
    return Background(float(np.percentile(blurred, 10)), float(noise))
