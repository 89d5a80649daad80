"""Grey values -> how much noise they have: photon noise and read noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from crosscope.data.numbers import GREY, read_number

BINS, LEAST_IN_BIN = 12, 100
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
    second = np.array([1.0, -2.0, 1.0])
    fine = ndimage.correlate1d(residual.astype(np.float32), second, axis=0)
    fine = np.abs(ndimage.correlate1d(fine, second, axis=1))[1:-1, 1:-1].ravel() / 6
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
