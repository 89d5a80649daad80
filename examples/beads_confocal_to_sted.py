"""Confocal to STED, beads: 290 nm to 110 nm, and close pairs that come apart.

python examples/beads_confocal_to_sted.py [OUT] [--small] [--seed N]
"""

from pathlib import Path
from typing import Any

from recipes import Size, View, figures_of, learn, run, with_card

BEADS = View("confocal-sted", "beads")


def walk(out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Train, judge on held-out fields, and keep model and report in `out`."""
    learnt = learn(BEADS, size, seed, out / "run")
    learnt.report.save(out / "report", overwrite=True)
    model = with_card(learnt, BEADS, recipe=Path(__file__).name, seed=seed, size=size)
    model.save(out / "confocal-sted-beads.zip", overwrite=True, half=True)
    return figures_of(learnt)


if __name__ == "__main__":
    run(walk, __doc__, "beads")
