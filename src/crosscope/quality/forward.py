"""Target image -> the source image that it means: the blur from the one modality to the other.

    source = gain K (target - zero) + background

K is a round kernel of sum 1, known by its transfer function. It is estimated once for a model, from
its training pairs, never from the image that is judged.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import fft

from crosscope.quality.noise import Noise

FREQUENCIES = 65
"""Places at which the transfer function is known, 0 to 0.5 cycles per pixel of the target."""


@dataclass(frozen=True)
class Forward:
    """What leads from the target modality to the source, on the target's grid.

    Attributes
    ----------
    transfer : tuple of float
        Of K, 1 at frequency 0, at `FREQUENCIES` equal steps from 0 to 0.5 cycles per pixel.
    gain : float
        Source grey values per target grey value.
    zero, background : float
        Grey levels of nothing in the target and in the source.
    mismatch : float
        What the model of the blur leaves, as a share of the expected light: a standard deviation.
    target_fwhm_px : float
        Width of the finest structure of the targets.
    noise : Noise
        Of a source pixel, as it was taken.
    """

    transfer: tuple[float, ...]
    gain: float
    zero: float
    background: float
    mismatch: float
    target_fwhm_px: float
    noise: Noise

    def apply(self, target: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
        """Return the source that a target means, on the same grid; mirrored beyond the border."""
        waves = fft.dctn(target.astype(np.float32) - np.float32(self.zero), norm="ortho")
        y, x = (np.arange(n) / (2 * n) for n in target.shape)
        known = np.linspace(0, 0.5, FREQUENCIES)
        waves *= np.interp(np.hypot(y[:, None], x), known, self.transfer, right=0.0)
        blurred: Float[np.ndarray, "y x"] = fft.idctn(waves, norm="ortho")
        return self.gain * blurred + self.background
