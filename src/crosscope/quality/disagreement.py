"""Output + what a sister network makes of the same input -> where the two disagree.

The twin has learnt the same without a discriminator: what only the adversarial model shows is of
its taste, not of the data. A member has learnt the same from another beginning: what only one of
them shows is of chance. They see what the re-blur check cannot, one bead or two under the source's
width.

    d = G * (output - sister's) / sqrt(floor^2 + (share G * light)^2)

G is a spot as wide as the target's finest structure; floor and share are what is usual on training
fields, so that d is in standard deviations. Two networks differ little nearly everywhere, and much
at a few structures: the share is so large that one bright structure in fifty is beyond the limit of
the trust map.

Xie et al., DeSRA, arXiv 2307.02457 (2023).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage

from crosscope.data.numbers import GREY, read_number
from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.quality.forward import WIDEST_PX, Forward
from crosscope.quality.reblur import LIMIT

ROUNDED_FLOOR, ROUNDED_SHARE = 3e-4, 2e-3
"""Of bright structures, and of the light: twice what bfloat16 changes in an output."""
_BRIGHT = 0.25  # of the brightest: where the share is measured
_WITHIN = 0.98  # of the bright structures: nowhere near them beyond `LIMIT`
_NEW = 1.5  # times as far on new images: registration has smoothed the noise of the training's


@dataclass(frozen=True)
class Usual:
    """How far a model is from a sister where both are right.

    Attributes
    ----------
    floor : float
        Standard deviation without light, target grey values.
    share : float
        The same of bright structures, as a share of their light, or more where they often differ
        by much.
    zero : float
        Target grey level of no light.
    sigma_px : float
        Of G.
    """

    floor: float
    share: float
    zero: float
    sigma_px: float

    @property
    def halo_px(self) -> int:
        """How far around a part must be read."""
        return math.ceil(3 * self.sigma_px)

    def disagreement(
        self, output: Float[np.ndarray, "y x"], other: Float[np.ndarray, "y x"]
    ) -> Float32[np.ndarray, "y x"]:
        """Return d of two images, target grey values."""
        sigma = self.sigma_px
        difference = ndimage.gaussian_filter(output - other, sigma, truncate=3.0)
        light = ndimage.gaussian_filter(np.maximum(output, other) - self.zero, sigma, truncate=3.0)
        usual = np.sqrt(self.floor**2 + np.square(self.share * light))
        return (difference / usual).astype(np.float32)

    def to_json(self) -> dict[str, float]:
        """Return it as what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Usual":
        """Rebuild it; raises ValueError, KeyError or TypeError where it is damaged."""
        limits = {
            "floor": (1e-9, GREY),
            "share": (0.0, 1e6),
            "zero": (-GREY, GREY),
            "sigma_px": (0.01, WIDEST_PX),  # sizes a kernel
        }
        return cls(**{name: read_number(value[name], *both) for name, both in limits.items()})


def learn_usual(
    outputs: Sequence[Float[np.ndarray, "_y _x"]],
    others: Sequence[Float[np.ndarray, "_y _x"]],
    forward: Forward,
) -> Usual:
    """Measure what is usual on training fields."""
    sigma_px = forward.target_fwhm_px / FWHM_PER_SIGMA
    plain = Usual(1.0, 0.0, forward.zero, sigma_px)
    off = [plain.disagreement(*each) for each in zip(outputs, others, strict=True)]
    lit = [ndimage.gaussian_filter(each, sigma_px, truncate=3.0) - forward.zero for each in outputs]
    difference, light = (np.concatenate([each.ravel() for each in maps]) for maps in (off, lit))
    least = _BRIGHT * np.quantile(light, 0.999)
    bright, dark = light > least, light <= np.median(light)
    floor = math.sqrt(float(np.mean(np.square(difference[dark])))) + 1e-6
    excess = np.mean(np.square(difference[bright])) - floor**2
    shares = [float(excess / np.mean(np.square(light[bright])))]
    near_px = 2 * math.ceil(forward.target_fwhm_px) + 1
    tops = [(shine > least) & (ndimage.maximum_filter(shine, near_px) == shine) for shine in lit]
    if any(top.any() for top in tops):
        beyond = [
            ndimage.maximum_filter(np.square(each) / LIMIT**2 - floor**2, near_px)[top]
            / np.square(shine[top])
            for each, shine, top in zip(off, lit, tops, strict=True)
        ]
        shares.append(float(np.quantile(np.concatenate(beyond), _WITHIN)))
    return Usual(floor, _NEW * math.sqrt(max(0.0, *shares)), forward.zero, sigma_px)
