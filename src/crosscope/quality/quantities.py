"""Model + its estimated microscope -> whether the output's light follows the input's.

The same single points are seen at a quarter to four times the exposure, the detector's noise per
photon unchanged, and at other camera offsets, which the prediction is told:

    log(light that comes out) = slope log(exposure) + constant

A slope of 1 is a straight line through zero.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from crosscope.data.numbers import GREY, LARGEST, read_count, read_number
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.tiling import sharpen
from crosscope.quality.claim import BRIGHTNESS, ENGINE, FIELD_PX
from crosscope.quality.forward import Forward
from crosscope.quality.points import See, cell_centres, light_of, peak_share, see_by

EXPOSURES = (0.25, 0.5, 1.0, 2.0, 4.0)
OFFSETS = (100.0, 500.0)
SHOWN = 0.1
"""Of the light of a point: with less the output's light is not that of points."""
LEAST_R2, MOST_OFF = 0.99, 0.05
_SERIES = {"exposures": (1e-6, 1e6), "ratios": (0.0, LARGEST), "offsets": (-GREY, GREY)}
_SINGLE = {"slope": (-1e6, 1e6), "r2": (0.0, 1.0), "offset_change": (0.0, LARGEST)}
_AROUND = 1.5  # widths of the source within which light is counted


@dataclass(frozen=True)
class Quantities:
    """How the light of single points comes out.

    Attributes
    ----------
    exposures, ratios : tuple of float
        How much light goes in, and the median of what comes out: 1 where it is 1.
    slope, r2 : float or None
        Of log(out) against log(in), over all points at all exposures; None where points give no
        light ...
    reason : str or None
        ... and why.
    offsets : tuple of float
        Grey values added to the camera's offset, and told to the prediction.
    offset_change : float or None
        The largest change of a point's light by them, as a share.
    n : int
        Points at each exposure.
    """

    exposures: tuple[float, ...]
    ratios: tuple[float, ...] | None
    slope: float | None
    r2: float | None
    reason: str | None
    offsets: tuple[float, ...]
    offset_change: float | None
    n: int

    @property
    def sentence(self) -> str:
        """What a card and a report say."""
        if self.slope is None or self.r2 is None:
            return f"Whether brightness is measured is not known: {self.reason}."
        low, high = min(self.exposures), max(self.exposures)
        is_linear = self.r2 >= LEAST_R2 and abs(self.slope - 1) <= MOST_OFF
        told = "follows" if is_linear else "does not follow"
        return (
            f"The output's brightness {told} the input's over x{low:g} to x{high:g} "
            f"(slope {self.slope:.3f}, R2 {self.r2:.4f}, {self.n} points)."
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self) | {"sentence": self.sentence}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Quantities":
        """Rebuild it; raises ValueError, KeyError or TypeError where it is damaged."""
        found = {field.name: value[field.name] for field in fields(cls)}
        for name, limits in _SERIES.items():
            if found[name] is not None or name != "ratios":
                found[name] = tuple(read_number(each, *limits) for each in found[name])
                if not found[name]:
                    raise ValueError(f"of the {name} of quantities there are none")
        for name, limits in _SINGLE.items():
            if found[name] is not None:
                found[name] = read_number(found[name], *limits)
        found["n"] = read_count(found["n"], 1)
        measured = cls(**found)
        single = (measured.slope, measured.r2, measured.offset_change)
        if measured.ratios is not None and len(measured.ratios) != len(measured.exposures):
            raise ValueError("the quantities are damaged: their lists differ in length")
        if len({each is None for each in (measured.ratios, *single)}) != 1:
            raise ValueError("the quantities are damaged: a part of them is missing")
        if (measured.slope is None) == (measured.reason is None):
            raise ValueError("a slope is there, or the reason why it is not")
        if not (measured.reason is None or isinstance(measured.reason, str)):
            raise TypeError("the reason must be a sentence")
        return measured


def measure_quantities(
    model: Model,
    forward: Forward,
    *,
    brightness: float = BRIGHTNESS,
    see: See | None = None,
    seed: int = 0,
    engine: Engine = ENGINE,
    watch: Callable[[float], None] = lambda done: None,
) -> Quantities:
    """Measure how the light of single points comes out at other exposures and offsets.

    Parameters
    ----------
    model, forward, brightness, see, seed, engine, watch
        As for `claim.measure_claim`.
    """
    see = see or see_by(forward)
    rng = np.random.default_rng(seed)
    radius_px = _AROUND * forward.source_fwhm_px
    yx_px = cell_centres(forward.source_fwhm_px, size_px=FIELD_PX, rng=rng)
    peak_grey = brightness * model.source_scaling.scale

    def light(raw: Float[np.ndarray, "y x"], offset: float = 0.0) -> Float[np.ndarray, "n"]:
        scaling = replace(model.source_scaling, offset=model.source_scaling.offset + offset)
        zoom = forward.zoom, forward.zoom
        output = sharpen(
            model, raw[None] + offset, engine=engine, zoom=zoom, source_scaling=scaling
        )
        return light_of(output[0], yx_px, radius_px=radius_px)

    raws = [see(yx_px, np.full(len(yx_px), peak_grey * e), FIELD_PX, rng) for e in EXPOSURES]
    out = []
    for n, raw in enumerate(raws):
        out.append(light(raw))
        watch((n + 1) / (len(EXPOSURES) + len(OFFSETS)))
    usual = out[EXPOSURES.index(1.0)]
    moved = []
    for n, offset in enumerate(OFFSETS):
        moved.append(light(raws[EXPOSURES.index(1.0)], offset))
        watch((len(EXPOSURES) + n + 1) / (len(EXPOSURES) + len(OFFSETS)))
    height = peak_grey / (forward.gain * peak_share(forward))
    whole = height * math.pi * forward.target_fwhm_px**2 / (4 * math.log(2))
    least = min(float(each.min()) / e for each, e in zip(out, EXPOSURES, strict=True))
    found = Quantities(EXPOSURES, None, None, None, None, OFFSETS, None, len(yx_px))
    if least < SHOWN * whole:
        return replace(found, reason="this model makes no spots of all points")
    fit = stats.linregress(np.repeat(np.log(EXPOSURES), len(yx_px)), np.log(np.concatenate(out)))
    return replace(
        found,
        ratios=tuple(float(np.median(each) / np.median(usual)) for each in out),
        slope=float(fit.slope),
        r2=float(fit.rvalue**2),
        offset_change=max(float(np.abs(each / usual - 1).max()) for each in moved),
    )
