"""Grey values -> how much noise they have: photon noise and read noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from crosscope.data.numbers import GREY, read_number

BINS, LEAST_IN_BIN = 12, 100
DARK_PX, DARK_SHARE = 4, 0.005
_TO_SD = 1 / 0.6745  # of a normal distribution, from the median of absolute values


@dataclass(frozen=True)
class Noise:
    """The noise of a pixel, in grey values.

    variance = gain (grey value - zero) + read_noise^2

    Attributes
    ----------
    gain : float
        Grey values for each detected photon.
    read_noise : float
        Standard deviation at `zero`.
    zero : float
        The grey level from which photons are counted.
    """

    gain: float
    read_noise: float
    zero: float

    def variance(self, grey: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return the variance at a mean grey value."""
        return self.gain * np.maximum(grey - self.zero, 0) + self.read_noise**2

    def times(self, factor: float) -> "Noise":
        """Return the noise of so many times the variance."""
        return Noise(self.gain * factor, self.read_noise * factor**0.5, self.zero)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Noise":
        """Rebuild it from what `asdict` gave.

        Raises ValueError, KeyError or TypeError where that is not of a detector.
        """
        limits = {"gain": (0.0, GREY), "read_noise": (1e-9, GREY), "zero": (-GREY, GREY)}
        return cls(**{name: read_number(value[name], *both) for name, both in limits.items()})


def measure_darkest(image: Float[np.ndarray, "y x"]) -> tuple[float, float] | None:
    """Measure the darkest places of an image: their level and their noise, grey values.

    Of squares of 4 x 4 pixels the one in two hundred that is darkest on the average: median level,
    and noise by Immerkaer's mask. Both are the larger, the more structure is there, too. Constant
    squares, as beyond a mosaic's border, don't count, nor do those that touch one.

    Parameters
    ----------
    image : (y, x)
        With pixels that are independent of each other.

    Returns
    -------
    tuple or None
        None where there is no such square.
    """
    squares = _in_squares(image)
    if not squares.size:
        return None
    varied = np.ptp(squares, axis=-1) > 0
    alive = ndimage.binary_erosion(varied, np.ones((3, 3)), border_value=1)
    if not alive.any():
        return None
    level, fine = squares[alive].mean(axis=-1), _in_squares(_fine(image))[alive]
    darkest = level <= np.quantile(level, DARK_SHARE)
    return float(np.median(level[darkest])), float(np.median(fine[darkest])) * _TO_SD


def measure_noise(
    residual: Float[np.ndarray, "y x"], expected: Float[np.ndarray, "y x"]
) -> Noise | None:
    """Measure the noise of an image whose pixels are independent of each other.

    Parameters
    ----------
    residual : (y, x)
        The image less what is expected of it; what remains of structures is taken out by
        Immerkaer's mask, which lets white noise through.
    expected : (y, x)
        Grey values.

    Returns
    -------
    Noise or None
        A straight line through the variances, medians of absolute values in bins of the expected
        grey value, never falling and never below a hundredth of the lowest bin's; `zero` is that
        bin's level. None where there are fewer than 100 pixels.

    Notes
    -----
    J. Immerkaer, Comput. Vis. Image Underst. 64, 300-302 (1996), doi 10.1006/cviu.1996.0060.
    """
    fine = _fine(residual)[1:-1, 1:-1].ravel()
    level = expected[1:-1, 1:-1].ravel()
    if fine.size < LEAST_IN_BIN:
        return None
    # equal steps of the level: bright pixels are few, and say most about the gain
    edges = np.linspace(level.min(), np.quantile(level, 0.999) + 1e-6, BINS + 1)
    which = np.digitize(level, edges[1:-1])
    bins = [which == n for n in range(BINS)]
    filled = [inside for inside in bins if inside.sum() >= LEAST_IN_BIN]
    levels, variances, weights = [], [], []
    for inside in filled or [which >= 0]:
        levels.append(float(level[inside].mean()))
        variances.append(float(np.median(fine[inside]) * _TO_SD) ** 2)
        weights.append(float(np.sqrt(inside.sum())) / max(variances[-1], 1e-12))
    zero = levels[0]
    if len(levels) > 1:
        slope, start = np.polyfit(np.array(levels) - zero, variances, 1, w=weights)
    else:
        slope, start = 0.0, variances[0]
    floor = max(0.01 * variances[0], 1e-12)
    return Noise(max(0.0, float(slope)), max(float(start), floor) ** 0.5, zero)


def _fine(image: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Return what Immerkaer's mask leaves of an image, without its sign."""
    second = np.array([1.0, -2.0, 1.0])
    fine = ndimage.correlate1d(image.astype(np.float32), second, axis=0)
    return np.abs(np.asarray(ndimage.correlate1d(fine, second, axis=1))) / 6


def _in_squares(image: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "v u p"]:
    height, width = (n // DARK_PX for n in image.shape)
    whole = image[: DARK_PX * height, : DARK_PX * width]
    squares = whole.reshape(height, DARK_PX, width, DARK_PX).swapaxes(1, 2)
    return squares.reshape(height, width, DARK_PX**2)
