"""Registered pairs + trained model -> a learning curve: what more pairs would buy."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from crosscope.data.errors import PairError
from crosscope.data.registered import RegisteredPair
from crosscope.model.model import Model
from crosscope.model.plan import TrainingPlan
from crosscope.model.training import Moment, train

PARTS = (8, 4, 2)
"""An eighth, a quarter and a half of the training fields, each a part of the next."""


def measure_learning_curve(
    pairs: Sequence[RegisteredPair],
    plan: TrainingPlan,
    model: Model,
    *,
    init: Model | None = None,
    watch: Callable[[Moment], None] = lambda moment: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Model:
    """Train on nested subsets of the training fields, and return the model with the curve in it.

    Parameters
    ----------
    pairs, plan, init
        What `model` was trained on, by and from.
    model : Model
        The last point of the curve.
    watch, say : callables
        As for `train`; told of all subsets as of one run.

    Returns
    -------
    Model
        `training["learning_curve"]` is a list of {"pairs", "psnr_db", "loss"}, the figures those of
        the same validation fields for all points. Compare "psnr_db", against the target, noise
        included; "loss" is weighted as each training weighs it. Each point costs the plan's whole
        budget.

    Notes
    -----
    Against a noisy target the PSNR flattens at the noise, however much the output still gains. Few
    steps hide what more pairs are worth.

    Raises
    ------
    PairError
        There is one training field only.
    """
    fields = sum(field.part == "training" for field in model.fields)
    counts = sorted({fields // part for part in PARTS} - {0})
    if not counts:
        reason = "one training field has no part to compare with"
        raise PairError("learning curve", reason, "Give more pairs")
    points = []
    for n, count in enumerate(counts):
        say(f"Learning curve: {count} of {fields} training fields.")

        def tell(moment: Moment, n: int = n) -> None:
            watch(replace(moment, done=(n + moment.done) / len(counts)))

        part = train(pairs, replace(plan, training_fields=count), init=init, watch=tell)
        points.append(_point(count, part))
    curve = [*points, _point(fields, model)]
    return replace(model, training=dict(model.training) | {"learning_curve": curve})


def _point(count: int, model: Model) -> dict[str, int | float]:
    validation = model.training["validation"]
    return {"pairs": count, "psnr_db": validation["psnr_db"], "loss": validation["loss"]}
