"""Model + fields + outputs -> how far each output can be believed, and how well that foretells.

What quality control says without the reference: `quality.judging` for each field, the certificate's
claims for the model. With the reference at hand it can be told what that is worth: of the spots
that are invented or missed, how many lie under a doubt, and of those that are right?
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from crosscope.data.errors import ModelError
from crosscope.data.registered import RegisteredPair
from crosscope.metrics.spots import SpotComparison
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.bounds import Interval, mark_sure, read_calibration
from crosscope.prediction.files import Verdict
from crosscope.quality.claim import ALLOWED, Claim
from crosscope.quality.inspection import TENTHS, UNKNOWN, read_certificate
from crosscope.quality.intervals import predict_moved
from crosscope.quality.judging import judge_pair
from crosscope.quality.quantities import Quantities

VERDICTS = ("good", "doubtful", "refused")
DOMAINS = ("inside", "near", "outside")
NUMBERS = ("distance", "signal", "chi_square", "rsp", "rse", "beyond_share")
DOUBTS = (3, 5)
"""Standard deviations: what lies under a larger one is counted."""
SPOTS = ("invented", "missed", "right")
Known = TypeVar("Known")


@dataclass(frozen=True, eq=False)
class Judged:
    """What quality control makes of one field.

    Attributes
    ----------
    verdict : Verdict or None
        None where it could not be judged ...
    reason : str or None
        ... and why.
    inside : float or None
        Share of the target's pixels inside the interval; None without calibrated intervals.
    layers : mapping to (y, x)
        "trust", tenths of a standard deviation, and "sure", as `mark_sure` has it, where known.
    """

    verdict: Verdict | None
    reason: str | None
    inside: float | None = None
    layers: Mapping[str, UInt8[np.ndarray, "y x"]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it under the names of the JSON."""
        known = {} if self.inside is None else {"inside_interval": self.inside}
        if self.verdict is None:
            return {"trust": None, "trust_reason": self.reason, **known}
        numbers = self.verdict.numbers
        found = {name: numbers.get(name) for name in NUMBERS}
        found |= {why: numbers[why] for name in NUMBERS if (why := f"{name}_reason") in numbers}
        said = {"domain": self.verdict.domain, "verdict": self.verdict.verdict}
        trust = said | found | {"reasons": list(self.verdict.reasons)}
        return {"trust": trust, "trust_reason": None, **known}


def judge_fields(
    model: Model,
    pairs: Sequence[RegisteredPair],
    made: Sequence[Mapping[str, Float32[np.ndarray, "_y _x"]]],
    *,
    engine: Engine,
) -> list[Judged]:
    """Judge what the network made of each pair, "output", beside what all its sisters did."""
    judged = [_judge(model, *both) for both in zip(pairs, made, strict=True)]
    factor = describe_intervals(model)["lambda"]
    if factor is None:
        return judged
    return [
        _with_interval(each, model, pair, factor, engine)
        for each, pair in zip(judged, pairs, strict=True)
    ]


def _judge(
    model: Model, pair: RegisteredPair, made: Mapping[str, Float32[np.ndarray, "_y _x"]]
) -> Judged:
    try:
        sisters = [made[name] for name in made if name != "output"]
        found = judge_pair(model, pair, made["output"], sisters=sisters)
    except ModelError as error:
        return Judged(None, error.reason)
    if found.trust is None:
        return Judged(None, "; ".join(found.reasons))
    return Judged(found, None, layers={"trust": found.trust.pixels})


def _with_interval(
    judged: Judged, model: Model, pair: RegisteredPair, factor: float, engine: Engine
) -> Judged:
    assert model.heads is not None, "a factor is known where they are"
    low, high = (
        predict_moved(model, model.heads, pair.source.pixels, times, engine=engine)
        for times in (-factor, factor)
    )
    inside = float(((low <= pair.target.pixels) & (pair.target.pixels <= high)).mean())
    sure = mark_sure(model, Interval(*(pair.target.with_pixels(each) for each in (low, high))))
    return replace(judged, inside=inside, layers={**judged.layers, "sure": sure})


# --- over all fields ------------------------------------------------------------------------------


def count_verdicts(
    model: Model, judged: Sequence[Judged], comparisons: Sequence[SpotComparison]
) -> dict[str, Any]:
    """Return "trust" of the summary: how many fields are what, and what the doubts foretell.

    Parameters
    ----------
    model : Model
    judged : sequence of Judged
    comparisons : equally many SpotComparison, or none
        Of the outputs' spots, in the same order; none where the reference has too few.
    """
    known = [each.verdict for each in judged if each.verdict]
    if not known:
        reason = next((each.reason for each in judged), "no field could be measured")
        return {"trust": None, "trust_reason": reason}
    verdicts, domains = (
        Counter(getattr(each, name) for each in known) for name in ("verdict", "domain")
    )
    trust = {
        "fields": len(known),
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "domains": {name: domains[name] for name in DOMAINS},
        "sisters": len(model.sisters),
        "spots": foretell(
            [
                (each.layers["trust"], compared)
                for each, compared in zip(judged, comparisons, strict=bool(comparisons))
                if each.verdict
            ]
        ),
    }
    return {"trust": trust, "trust_reason": None}


def foretell(fields: Sequence[tuple[UInt8[np.ndarray, "_y _x"], SpotComparison]]) -> dict[str, Any]:
    """Return which share of the spots, by what became of them, lies under a doubt.

    The doubt of a spot is the largest within half its width, as far as spots are matched. Along
    the border, where the re-blur check can say nothing, it is the sisters' alone, or 0.

    Parameters
    ----------
    fields : sequence of a trust map, tenths of a standard deviation, and the output's spots
    """
    doubts: dict[str, list[Float[np.ndarray, " n"]]] = {name: [np.zeros(0)] for name in SPOTS}
    for trust, compared in fields:
        largest = ndimage.maximum_filter(trust, footprint=_disk(compared.fwhm_px / 2)) / TENTHS
        for name, yx_px in _sorted_out(compared).items():
            y, x = np.clip(np.rint(yx_px).astype(int), 0, np.subtract(trust.shape, 1)).T
            doubts[name].append(largest[y, x])
    found = {}
    for name, each in doubts.items():
        doubt = np.concatenate(each)
        share = {f"above_{n}_sd": float((doubt > n).mean()) if doubt.size else None for n in DOUBTS}
        none = {} if doubt.size else {"reason": _NONE[name] if fields else _FEW}
        found[name] = {"n": doubt.size} | share | none
    return found


_NONE = {
    "invented": "no spot was invented",
    "missed": "no spot was missed",
    "right": "no spot is right",
}
_FEW = "the reference has too few isolated spots"


def _sorted_out(compared: SpotComparison) -> dict[str, Float[np.ndarray, "_n 2"]]:
    """Return where spots are invented, missed and right, counted as `score_spots` counts them."""
    found, reference = compared.found, compared.reference
    counts, matched = found.amplitude > compared.threshold, compared.partner >= 0
    wanted = reference.amplitude > compared.threshold
    hit = np.isin(np.arange(len(reference.amplitude)), compared.partner)
    return {
        "invented": found.yx_px[counts & ~matched],
        "missed": reference.yx_px[wanted & ~hit],
        "right": found.yx_px[counts & matched],
    }


def _disk(radius_px: float) -> Bool[np.ndarray, "d d"]:
    side = np.arange(-int(radius_px), int(radius_px) + 1)
    return np.asarray(np.hypot(side[:, None], side) <= radius_px)


# --- the certificate ------------------------------------------------------------------------------


def describe_certificate(model: Model) -> dict[str, Any]:
    """Return "certificate" of the report: what the model claims, whatever the fields are."""
    if not model.certificate:
        return {"certificate": None, "certificate_reason": UNKNOWN}
    found = {
        **_part_of(model, "claim", Claim.from_json, _tell_claim),
        **_part_of(model, "quantities", Quantities.from_json, _tell_quantities),
        "intervals": describe_intervals(model),
    }
    return {"certificate": found, "certificate_reason": None}


def _part_of(
    model: Model,
    part: str,
    read: Callable[[Any], Known],
    tell: Callable[[Known], dict[str, Any]],
) -> dict[str, Any]:
    if part not in model.certificate:
        return {part: None, f"{part}_reason": _UNMEASURED}
    try:
        found = read_certificate(model, part, read)
    except ModelError as error:
        return {part: None, f"{part}_reason": error.reason}
    return {part: tell(found), f"{part}_reason": None}


_UNMEASURED = "nobody measured it: cs.certify(model, pairs) does"


def _tell_claim(claim: Claim) -> dict[str, Any]:
    told = {
        "claimed_resolution_nm": claim.resolution_nm,
        "sentence": claim.sentence,
        "allowed": ALLOWED,
        "trials": claim.n,
        "separations_nm": list(claim.separations_nm),
        "p_merged": list(claim.p_merged),
        "p_merged_upper": list(claim.p_merged_upper),
        "p_split": claim.p_split,
        "p_split_upper": claim.p_split_upper,
        "p_missed": claim.p_missed,
        "position_error_nm": claim.position_error_nm,
        "position_bias_nm": claim.position_bias_nm and list(claim.position_bias_nm),
        "separation_bias_nm": list(claim.separation_bias_nm),
        "intensity_bias": claim.intensity_bias,
        "pair_intensity_bias": claim.pair_intensity_bias,
        "false_objects_per_field": claim.false_objects_per_field,
        "most_false_objects": claim.most_false_objects,
        "empty_fields": claim.empty_fields,
    }
    if claim.position_error_nm is None:
        told |= dict.fromkeys(("position_error_reason", "position_bias_reason"), _NOWHERE)
    if None in claim.separation_bias_nm:
        told["separation_bias_reason"] = "where it is null, fewer than ten pairs came out as two"
    if claim.intensity_bias is None:
        reasons = "intensity_bias_reason", "pair_intensity_bias_reason"
        told |= dict.fromkeys(reasons, claim.reason)
    return told | ({"reason": claim.reason} if claim.reason else {})


_NOWHERE = "no single point came out alone, and at its place"


def _tell_quantities(quantities: Quantities) -> dict[str, Any]:
    told = {
        "slope": quantities.slope,
        "r2": quantities.r2,
        "exposures": list(quantities.exposures),
        "ratios": quantities.ratios and list(quantities.ratios),
        "offsets": list(quantities.offsets),
        "offset_change": quantities.offset_change,
        "sentence": quantities.sentence,
    }
    return told | ({"reason": quantities.reason} if quantities.reason else {})


def describe_intervals(model: Model) -> dict[str, Any]:
    """Return by what the interval's widths are multiplied, and what is promised; or a reason."""
    try:
        return read_calibration(model).entry
    except ModelError as error:
        return dict.fromkeys(("lambda", "alpha", "delta", "fields")) | {"reason": error.reason}
