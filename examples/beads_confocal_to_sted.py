"""Confocal to STED, beads: 290 nm to 110 nm, and close pairs that come apart.

python examples/beads_confocal_to_sted.py [OUT] [--small] [--seed N]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes import Size, View, card_of, figures_of, learn, run, save_models

BEADS = View("confocal-sted", "beads")
LIMITS = (
    "Of nuclei it makes beads, far below Richardson-Lucy (docs/systems.md); the gate refuses them "
    "(docs/trust.md).",
)


def walk(out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Train, judge on held-out fields, and keep model and report in `out`."""
    learnt = learn(BEADS, size, seed, out / "run")
    learnt.report.save(out / "report", overwrite=True)
    figures = figures_of(learnt)
    save_models({"confocal-sted-beads": learnt.model}, cards(figures, size, seed), out)
    return figures


def cards(figures: Mapping[str, Any], size: Size, seed: int) -> dict[str, dict[str, Any]]:
    """Return the model's card, from the figures of the walk."""
    recipe = Path(__file__).name
    card = card_of(BEADS, figures, recipe=recipe, size=size, seed=seed, limits=LIMITS)
    return {"confocal-sted-beads": card}


if __name__ == "__main__":
    run(walk, __doc__, "beads")
