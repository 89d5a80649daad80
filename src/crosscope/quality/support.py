"""Model + image + output -> which of the output's objects another training might not show.

Where two objects lie so close that the source leaves it open whether they are two, networks that
learnt the same decide it differently, by little light: the trust map, as wide as the target's
finest structure, sees the same light in both. The objects' heights tell it, or that they lie closer
than the model is known to tell points apart.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from crosscope.data.errors import InputError, ModelError
from crosscope.data.files import write_table
from crosscope.data.images import Image
from crosscope.metrics.spots import compare_spots
from crosscope.model.model import Model
from crosscope.prediction.images import PredictionPlan, predict
from crosscope.quality.claim import Claim
from crosscope.quality.forward import Forward
from crosscope.quality.inspection import read_certificate

STEADY = 0.9
"""Of their height: what objects have that all networks show, save 2 to 4 in a hundred."""


@dataclass(frozen=True, eq=False)
class Support:
    """The objects of an output, the brightest first: how near they lie, which networks show them.

    Attributes
    ----------
    yx_px : (n, 2)
        On the output's grid.
    height : (n,)
        As a multiple of the output's typical object.
    seen : (n,)
        Networks that show it, the one that made the output among them.
    least : (n,)
        The least height that one of these networks gives it, as a share of its own: 1 where none
        gives it less, 0 where one does not show it.
    nearest_px : (n,)
        Distance to the nearest other object; infinite where there is none.
    networks : int
        How many there are: with its twin and members.
    claimed_px : float or None
        From where on the model is known to tell points apart (`Claim`); None where nothing is
        claimed, as of an output made with a fidelity.
    """

    yx_px: Float[np.ndarray, "n 2"]
    height: Float[np.ndarray, "n"]
    seen: Int[np.ndarray, "n"]
    least: Float[np.ndarray, "n"]
    nearest_px: Float[np.ndarray, "n"]
    networks: int
    claimed_px: float | None

    @property
    def unsteady(self) -> Bool[np.ndarray, "n"]:
        """Which objects some network does not show, or at less than `STEADY` of their height."""
        return self.least < STEADY

    @property
    def close(self) -> Bool[np.ndarray, "n"]:
        """Which objects have another closer than the model is known to tell points apart.

        None has where nothing is claimed.
        """
        return self.nearest_px < (self.claimed_px or 0.0)

    @property
    def json(self) -> dict[str, int | None]:
        """How many objects there are, and how many are unsteady or close; None is not known."""
        return {
            "objects": len(self.seen),
            "unsteady": int(self.unsteady.sum()),
            "close": None if self.claimed_px is None else int(self.close.sum()),
            "networks": self.networks,
        }

    def write_csv(self, path: Path, *, overwrite: bool = False) -> None:
        """Write an object a row; where nothing is claimed, whether it is close is "nan"."""
        y_px, x_px = self.yx_px.T
        places = {"y_px": y_px, "x_px": x_px, "height": self.height, "nearest_px": self.nearest_px}
        shown = {"seen": self.seen, "least": self.least}
        close = self.close * (1 if self.claimed_px else math.nan)
        flags = {"unsteady": self.unsteady * 1, "close": close}
        write_table(path, places | shown | flags, overwrite=overwrite)


def count_support(
    model: Model, image: Image, output: Image, *, plan: PredictionPlan | None = None
) -> Support:
    """Let the twin and the members predict, too, and count which objects they show.

    An object is a spot above a quarter of the output's typical one, see `metrics.spots`; another
    network shows it where it has one, down to half of that, within half of the target's width. What
    one of them does not show, or shows lower, may be one or two by chance; so may what is closer to
    another than the model is known to tell points apart.

    Parameters
    ----------
    model : Model
        With a certificate, and a twin or members.
    image : Image
        Of the source modality, raw: one plane of one channel.
    output : Image
        What the model made of it.
    plan : PredictionPlan
        As it was predicted with.

    Returns
    -------
    Support

    Raises
    ------
    ModelError
        It has neither twin nor members, or no certificate.
    InputError
        The output has several planes, or is not on the grid that the model gives.
    ImageError, DomainError
        As `predict`.
    """
    if not model.sisters:
        remedy = "Train it with --members 3"
        raise ModelError("the model", "has neither a twin nor members to compare with", remedy)
    fwhm_px = read_certificate(model, "forward", Forward.from_json).target_fwhm_px
    plan = plan or PredictionPlan()
    claimed_nm = None
    if "claim" in model.certificate and not plan.fidelity:
        claimed_nm = read_certificate(model, "claim", Claim.from_json).resolution_nm
    pixel_nm = math.sqrt(math.prod(model.target_pixel_size_nm))
    own = output.pixels.astype(np.float64)
    if own.ndim != 2:
        raise InputError(output.name, "has several planes", "Pass one of them, and its image")
    heights = []
    for network in model.sisters:
        alone = replace(model, generator=network, twin=None)  # nothing is blended
        made = predict(alone, image, plan=plan)
        if made.pixels.shape != own.shape:
            reason = f"is {own.shape} px, of this image the model makes {made.pixels.shape}"
            raise InputError(output.name, reason, "Pass what was predicted from it")
        found = compare_spots(made.pixels.astype(np.float64), own, fwhm_px=fwhm_px)
        height = np.zeros(len(found.reference.amplitude))
        matched = found.partner >= 0
        height[found.partner[matched]] = found.found.amplitude[matched]
        heights.append(height / found.reference.amplitude)
    objects = found.reference.amplitude > found.threshold
    yx_px = found.reference.yx_px[objects]
    return Support(
        yx_px=yx_px,
        height=found.reference.amplitude[objects],
        seen=1 + (np.array(heights) > 0).sum(axis=0)[objects],
        least=np.minimum(1.0, np.min(heights, axis=0))[objects],
        nearest_px=nearest_other(yx_px),
        networks=1 + len(model.sisters),
        claimed_px=None if claimed_nm is None else claimed_nm / pixel_nm,
    )


def nearest_other(yx_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
    """Return how far the nearest other place is from each; infinite where there is none."""
    if len(yx_px) == 0:
        return np.zeros(0)
    return KDTree(yx_px).query(yx_px, k=[2])[0][:, 0]
