"""Confocal to STED, nuclei: the bead model fails on them, and a few pairs mend that.

    python examples/nuclei_by_transfer.py [OUT] [--small] [--seed N]

The bead model that comes with the program is judged on nuclei; then nuclei pairs train it further
(`train --init`), beside a model from nothing, both by a thirtieth of a whole training's budget, and
by all of it; a model of beads and nuclei mixed, too. The one that is trained further by the whole
budget comes with the program. The same from fewer pairs tells how many are worth taking.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beads_confocal_to_sted import BEADS
from recipes import (
    POINTS,
    Size,
    View,
    card_of,
    figures_of,
    judge,
    learn,
    run,
    save_models,
    take,
    train,
)

import crosscope as cs

NUCLEI = View("confocal-sted", "nuclei")
START = "confocal-sted-beads"
SHORT = 30  # so small a part of the budget shows what the start is worth
FEW = (1, 3, 7)  # fields to learn from


def walk(out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Show the failure, the transfer, and what it is worth."""
    beads = cs.Model.load(START)
    failure = judge(beads, NUCLEI, size, seed)
    short: dict[str, Any] = {"steps": max(1, size.steps // SHORT)}
    transferred = learn(NUCLEI, size, seed, out / "run-short", init=beads, **short)
    from_nothing = learn(NUCLEI, size, seed, out / "run-from-nothing", **short)
    kept = learn(NUCLEI, size, seed, out / "run-kept", init=beads)

    nuclei, _ = take(NUCLEI, pairs=size.training, size_px=size.size_px, seed=2 * seed)
    half = size.training // 2
    both = nuclei[half:] + take(BEADS, pairs=half, size_px=size.size_px, seed=2 * seed)[0]
    mixed = train(both, size, seed, out / "run-mixed")
    all_from_nothing = train(nuclei, size, seed, out / "run-from-nothing-long")
    by_few = {
        count: train(nuclei, size, seed, out / f"run-of-{count}", init=beads, training_fields=count)
        for count in FEW
        if count < size.training - 1  # one is kept for validation
    }
    curve = {count: judge(model, NUCLEI, size, seed) for count, model in by_few.items()}
    for name, learnt in (("failure", failure), ("transferred", kept)):
        learnt.report.save(out / f"report-{name}", overwrite=True)
    figures = {
        "bead model on nuclei": figures_of(failure),
        "transferred": figures_of(transferred),
        "from nothing": figures_of(from_nothing),
        "transferred, long": figures_of(kept),
        "mixed, on nuclei": figures_of(judge(mixed, NUCLEI, size, seed)),
        "mixed, on beads": figures_of(judge(mixed, BEADS, size, seed)),
        "from nothing, long": figures_of(judge(all_from_nothing, NUCLEI, size, seed)),
        "learning curve": {str(count): figures_of(found) for count, found in curve.items()},
    }
    save_models({"confocal-sted-nuclei": kept.model}, cards(figures, size, seed), out)
    return figures


def cards(figures: Mapping[str, Any], size: Size, seed: int) -> dict[str, dict[str, Any]]:
    """Return the card of the model that is kept, from the figures of the walk."""
    card = card_of(
        NUCLEI,
        figures["transferred, long"],
        recipe=Path(__file__).name,
        size=size,
        seed=seed,
        init=START,
        limits=(POINTS,),
    )
    return {"confocal-sted-nuclei": card}


if __name__ == "__main__":
    run(walk, __doc__, "nuclei")
