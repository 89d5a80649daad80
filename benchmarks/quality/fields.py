"""What the benchmarks of quality control share: models that come with the program, and fields."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import crosscope as cs
from crosscope.optics.systems import SimulatedPair

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from machine import describe_machine
from recipes import View

VIEWS = {
    "confocal-sted-beads": View("confocal-sted", "beads"),
    "confocal-sted-nuclei": View("confocal-sted", "nuclei"),
    "tirf-sim-pits": View("tirf-sim", "pits"),
    "tirf-sim-filaments": View("tirf-sim", "filaments"),
    "widefield-20x-dapi": View("widefield-20x", "nuclei", "dapi"),
    "widefield-20x-fitc": View("widefield-20x", "filaments", "fitc"),
    "widefield-20x-txred": View("widefield-20x", "actin", "txred"),
}
PHOTONS = {"confocal-sted": 300.0, "tirf-sim": 300.0, "widefield-20x": 1000.0}
SEEDS = (7001, 7003, 7005)
PLAN = cs.PredictionPlan(engine="torch", threads=1, precision="float32")
RESULTS = Path(__file__).parents[1] / "results" / "quality"


@dataclass(frozen=True, eq=False)
class Made:
    """A raw field, its truth, and what a model makes of it."""

    pair: SimulatedPair
    output: cs.Image


def simulate(
    view: View, *, fields: int, size_px: int, seed: int, **changes: object
) -> Iterator[SimulatedPair]:
    """Simulate raw fields of a view, or of it with changes."""
    asked = {"sample": view.sample, "channel": view.channel} | changes
    return cs.simulate(view.system, pairs=fields, size_px=size_px, seed=seed, **asked)  # type: ignore[arg-type]


def keep(path: Path, name: str, figures: object, **beside: object) -> None:
    """Write a model's figures and the machine they are of; those of other models stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {"machines": {}, "models": {}}
    known |= beside
    known["machines"][name] = describe_machine()
    known["models"][name] = figures
    path.write_text(json.dumps(known, indent=1, allow_nan=False) + "\n")


def auroc(without: list[float], with_: list[float]) -> float:
    """Return how often a score with is above one without; ties count half."""
    a, b = np.sort(np.array(without)), np.array(with_)
    below, up_to = np.searchsorted(a, b, "left"), np.searchsorted(a, b, "right")
    return float((below + up_to).mean() / (2 * len(a)))
