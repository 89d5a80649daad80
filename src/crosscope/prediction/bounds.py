"""Model with calibrated heads + image -> a lower and an upper bound, and what is sure of it.

    low = output - lambda w_low          high = output + lambda w_high

Each bound is the image of one more network (`model.heads.Bound`), predicted as the output is. How
the widths are learnt, and lambda chosen, is told in `quality.intervals`. All three images are
computed as the calibration was, by PyTorch in float32: so low <= output <= high is certain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from crosscope.data.errors import InputError, ModelError
from crosscope.data.images import Image
from crosscope.data.numbers import read_count, read_number
from crosscope.data.sampling import Scaling
from crosscope.data.slides import Part, Slide
from crosscope.model.heads import Bound
from crosscope.model.model import Model
from crosscope.prediction.images import PredictionPlan, fastest_engine, predict

ENGINE, PRECISION = "torch", "float32"
LEVEL = 0.1  # of a typical structure's height above the background: more is structure
WIDE = 0.5  # of that height: an interval wider than this tells little
NOTHING, UNCERTAIN, STRUCTURE = 0, 1, 2
_REMEDY = "Calibrate it on fields that it was not trained on (crosscope calibrate)"


@dataclass(frozen=True)
class Calibration:
    """By what the widths are multiplied.

    Attributes
    ----------
    lambda_ : float or None
        None where nothing can be certified.
    alpha, delta : float
        At most a share alpha of a new field's pixels is outside on average, but for a chance delta.
    fields : int
        Fields of view that it was calibrated on.
    reason : str or None
        Why nothing can be certified.
    """

    lambda_: float | None
    alpha: float
    delta: float
    fields: int
    reason: str | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """What the sidecar says of it."""
        return {
            "lambda": self.lambda_,
            "alpha": self.alpha,
            "delta": self.delta,
            "fields": self.fields,
        }

    @property
    def sentence(self) -> str:
        """What a card and a report say."""
        if self.lambda_ is None:
            return f"No interval can be promised: {self.reason}."
        return (
            f"Of the pixels of a new field of the same kind {1 - self.alpha:.0%} are within "
            f"{self.lambda_:.3g} widths of the output, {1 - self.delta:.0%} certain by "
            f"{self.fields} fields."
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self) | {"sentence": self.sentence}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Calibration":
        """Rebuild it; raises ValueError, KeyError or TypeError where it is damaged."""
        alpha, delta = (read_number(value[name], 1e-6, 1 - 1e-6) for name in ("alpha", "delta"))
        factor, reason, fields = value["lambda_"], value["reason"], read_count(value["fields"])
        if factor is None:
            if not isinstance(reason, str):
                raise ValueError("intervals without a factor need a reason")
            return cls(None, alpha, delta, fields, reason)
        if reason is not None or fields < least_fields(alpha, delta):
            raise ValueError("a factor of intervals must be certified")
        return cls(read_number(factor, 1e-9, 1e9), alpha, delta, fields)


def least_fields(alpha: float, delta: float) -> int:
    """Return how many fields are needed for anything to be certified: (1 - alpha)^n <= delta."""
    return math.ceil(math.log(delta) / math.log1p(-alpha))


@dataclass(frozen=True, eq=False)
class Interval:
    """Two images, float32 grey values of the target: below and above the model's output."""

    low: Image
    high: Image


def read_calibration(model: Model, name: str = "the model") -> Calibration:
    """Return by what a model's widths are multiplied.

    Raises
    ------
    ModelError
        It has no intervals, they could not be calibrated, or what is said of them is damaged.
    """
    if "intervals" not in model.certificate:
        raise ModelError(name, "has no intervals", _REMEDY)
    try:
        calibration = Calibration.from_json(model.certificate["intervals"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"its intervals are damaged ({type(error).__name__}: {str(error)[:100]})"
        raise ModelError(name, reason, _REMEDY) from error
    if calibration.lambda_ is None:
        raise ModelError(name, f"its intervals promise nothing: {calibration.reason}", _REMEDY)
    if model.heads is None:
        raise ModelError(name, "has lost the heads of its intervals", _REMEDY)
    return calibration


def plan_bounds(plan: PredictionPlan) -> PredictionPlan:
    """Return the plan of an output and its bounds: with the engine of their calibration.

    Raises
    ------
    InputError
        Another engine or precision is asked for, a fidelity, or a rolling average: nothing was
        calibrated for those.
    """
    for name, asked, calibrated in (
        ("engine", plan.engine, ENGINE),
        ("precision", plan.precision, PRECISION),
    ):
        if asked not in (None, calibrated):
            reason = f"were calibrated with {name} {calibrated}, and {asked} is asked for"
            raise InputError("intervals", reason, f"Leave --{name} out, or the intervals")
    if plan.fidelity:
        reason = f"hold for the adversarial model only, and --fidelity is {plan.fidelity:g}"
        raise InputError("intervals", reason, "Leave --fidelity out, or the intervals")
    if plan.rolling_average:
        reason = f"hold for single frames only, and --rolling-average is {plan.rolling_average:g}"
        raise InputError("intervals", reason, "Leave --rolling-average out, or the intervals")
    return replace(plan, engine=ENGINE, precision=PRECISION)


def lower_bound(model: Model) -> Model:
    """Return the model whose output is the lower bound."""
    return _moved(model, -1)


def upper_bound(model: Model) -> Model:
    """Return the model whose output is the upper bound."""
    return _moved(model, 1)


def _moved(model: Model, sign: int) -> Model:
    factor = read_calibration(model).lambda_
    assert factor is not None, "read_calibration raises where there is none"
    network = Bound(model.generator, model.heads, sign * factor)  # type: ignore[arg-type]
    return replace(model, generator=network, sha256=None)  # not what its file holds


def predict_interval(model: Model, image: Image, *, plan: PredictionPlan | None = None) -> Interval:
    """Return bounds of what the target microscope would have measured, pixel by pixel.

    Parameters
    ----------
    model : Model
        With heads, and calibrated.
    image : Image
        As `predict` takes it.
    plan : PredictionPlan, optional
        See `plan_bounds`: low <= output <= high is certain for the output of the engine torch in
        float32.

    Returns
    -------
    Interval
        On the output's grid. It takes twice the time of `predict`, and no more memory.

    Raises
    ------
    ModelError
        The model has no intervals, or they could not be calibrated: bounds are not given then, for
        once they are saved nobody could tell them from such as hold.
    InputError
        The plan asks for an engine, a precision, a fidelity or a rolling average that they do not
        hold for.
    ImageError, DomainError
        As `predict`.
    """
    low, high = lower_bound(model), upper_bound(model)
    plan = plan_bounds(plan or PredictionPlan())
    plan = replace(plan, threads=fastest_engine(model, image, plan=plan).threads)
    return Interval(predict(low, image, plan=plan), predict(high, image, plan=plan))


def mark_sure(model: Model, interval: Interval) -> UInt8[np.ndarray, "*shape"]:
    """Turn an interval into a mask that can be read at a glance.

    With the background b and the height h of a bright structure, both of the model's scaling:
    2, structure is surely here, where low > b + 0.1 h; else 1, uncertain, where
    high - low > 0.5 h; else 0, nothing is surely here.

    "Surely" is what the calibration says: of a field's pixels one in ten may be outside.
    """
    return _mark(model.target_scaling, interval.low.pixels, interval.high.pixels)


def mark_part(
    models: Sequence[Model], low: Slide, high: Slide, part: Part
) -> UInt8[np.ndarray, "y x"]:
    """Do what `mark_sure` does with a part of two slides, which have a channel for each model."""
    channel = dict(zip(low.image.axes[:-2], part.place, strict=True)).get("c", 0)
    below, above = (slide.read(part.place, part.y, part.x) for slide in (low, high))
    return _mark(models[channel].target_scaling, below, above)


def _mark(
    scaling: Scaling, low: Float32[np.ndarray, "*shape"], high: Float32[np.ndarray, "*shape"]
) -> UInt8[np.ndarray, "*shape"]:
    mask = np.where(high - low > WIDE * scaling.scale, UNCERTAIN, NOTHING).astype(np.uint8)
    mask[low > scaling.offset + LEVEL * scaling.scale] = STRUCTURE
    return mask
