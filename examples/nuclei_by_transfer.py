"""Confocal to STED, nuclei: the bead model fails on them, and a few pairs mend that.

    python examples/nuclei_by_transfer.py [OUT] [--small] [--seed N]

The bead model that comes with the program is judged on nuclei; then nuclei pairs train it further
(`train --init`), beside a model from nothing, both by a thirtieth of a whole training's budget. By
all of it a model of beads and nuclei mixed is trained, and, from the bead model, the one for nuclei
that comes with the program. A learning curve tells how many pairs are worth taking.
"""

from pathlib import Path
from typing import Any

from beads_confocal_to_sted import BEADS
from recipes import Size, View, figures_of, judge, learn, run, take, train, with_card

import crosscope as cs

NUCLEI = View("confocal-sted", "nuclei")
SHORT = 30  # so small a part of the budget shows what the start is worth


def walk(out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Show the failure, the transfer, and what it is worth."""
    beads = cs.Model.load("confocal-sted-beads")
    failure = judge(beads, NUCLEI, size, seed)
    short: dict[str, Any] = {"steps": max(1, size.steps // SHORT)}
    transferred = learn(NUCLEI, size, seed, out / "run-short", init=beads, **short)
    from_nothing = learn(NUCLEI, size, seed, out / "run-from-nothing", **short)
    kept = learn(NUCLEI, size, seed, out / "run-kept", init=beads)

    nuclei, _ = take(NUCLEI, pairs=size.training, size_px=size.size_px, seed=2 * seed)
    half = size.training // 2
    both = nuclei[half:] + take(BEADS, pairs=half, size_px=size.size_px, seed=2 * seed)[0]
    mixed = train(both, size, seed, out / "run-mixed")
    plan = cs.TrainingPlan(seed=seed, threads=size.threads, **short)
    curve = cs.measure_learning_curve(nuclei, plan, transferred.model, init=beads).training[
        "learning_curve"
    ]
    for name, learnt in (("failure", failure), ("transferred", kept)):
        learnt.report.save(out / f"report-{name}", overwrite=True)
    model = with_card(kept, NUCLEI, recipe=Path(__file__).name, seed=seed, size=size)
    model.save(out / "confocal-sted-nuclei.zip", overwrite=True, half=True)
    return {
        "bead model on nuclei": figures_of(failure),
        "transferred": figures_of(transferred),
        "from nothing": figures_of(from_nothing),
        "transferred, long": figures_of(kept),
        "mixed, on nuclei": figures_of(judge(mixed, NUCLEI, size, seed)),
        "mixed, on beads": figures_of(judge(mixed, BEADS, size, seed)),
        "learning curve": curve,
    }


if __name__ == "__main__":
    run(walk, __doc__, "nuclei")
