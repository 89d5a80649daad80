"""Registered pairs + trained model -> the model with members, which learnt the same from elsewhere.

What pairs leave open, each network fills in its own way: from other first weights and other batches
it comes out otherwise. So where the members of an ensemble differ, the data did not decide.

Lakshminarayanan et al., NeurIPS 30, 6402 (2017), arXiv 1612.01474.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from crosscope.data.errors import ModelError
from crosscope.data.registered import RegisteredPair
from crosscope.model.model import MOST_MEMBERS, Model
from crosscope.model.plan import TrainingPlan
from crosscope.model.processes import join_processes
from crosscope.model.training import Moment, train

_ALIKE = (
    "network",
    "base",
    "source_scaling",
    "target_scaling",
    "source_pixel_size_nm",
    "target_pixel_size_nm",
)


def join_members(model: Model, others: Sequence[Model]) -> Model:
    """Return a model with the generators of others beside its own.

    Parameters
    ----------
    model : Model
    others : sequence of Model
        Trained on the same pairs by the same plan but for `member`: so they have its scaling. With
        those that the model has already, at most four.

    Returns
    -------
    Model
        With `members`. Certify it anew: how far they usually are from it is measured there.

    Raises
    ------
    ModelError
        Networks, bases, scalings or pixel sizes differ, or there are too many.
    """
    for n, other in enumerate(others, 1):
        differ = [name for name in _ALIKE if getattr(other, name) != getattr(model, name)]
        if differ:
            name = differ[0]
            reason = f"has {name} {getattr(other, name)}, the model {getattr(model, name)}"
            remedy = "Train it on the same pairs by the same plan, with another `member` alone"
            raise ModelError(f"member {n}", reason, remedy)
    members = (*model.members, *(other.generator for other in others))
    if len(members) > MOST_MEMBERS:
        reason = f"{len(members)} are more than the {MOST_MEMBERS} that a model holds"
        raise ModelError("members", reason, "Join fewer")
    return replace(model, members=members)


def train_members(
    pairs: Sequence[RegisteredPair],
    plan: TrainingPlan,
    model: Model,
    *,
    count: int,
    run: Path,
    init: Model | None = None,
    resume: bool = False,
    watch: Callable[[Moment], None] = lambda moment: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Model:
    """Train so many more networks as a model was trained, and join their generators to it.

    Parameters
    ----------
    pairs, plan, init
        What `model` was trained on, by and from; each member has the plan's whole budget.
    model : Model
    count : int
    run : Path
        Each has its own folder in it, member-1 and so on, as `train` has one.
    resume : bool
        Those that are done are taken as they are, one that was begun goes on.
    watch, say : callables
        As for `train`; told of all as of one run.

    Returns
    -------
    Model
        See `join_members`.

    Raises
    ------
    PairError, ModelError, TrainingError, InputError
        As `train` and `join_members`.
    """
    others = []
    for n in range(count):
        if join_processes().first:
            say(f"Member {n + 1} of {count}.")

        def tell(moment: Moment, n: int = n) -> None:
            watch(replace(moment, done=(n + moment.done) / count))

        folder = run / f"member-{n + 1}"
        begun = resume and any((folder / "checkpoints").glob("step-*"))
        own = replace(plan, member=plan.member + n + 1)
        others.append(train(pairs, own, run=folder, init=init, resume=begun, watch=tell, say=say))
    return join_members(model, others)
