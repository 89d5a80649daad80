"""Grey values -> how much noise they have: photon noise and read noise."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Noise:
    """The noise of a detector, in grey values.

    variance = gain (grey value - zero) + read_noise^2

    Attributes
    ----------
    gain : float
        Grey values for each detected photon.
    read_noise : float
        Standard deviation without any light.
    zero : float
        The grey level of zero light.
    """

    gain: float
    read_noise: float
    zero: float

    def variance(self, grey: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return the variance at a mean grey value."""
        return self.gain * np.maximum(grey - self.zero, 0) + self.read_noise**2
