"""Simulated fields, and what the bead model that comes with the program makes of them."""

from dataclasses import dataclass

import numpy as np
import pytest

import crosscope as cs

PLAN = cs.PredictionPlan(engine="torch", threads=1, precision="float32")


@dataclass(frozen=True, eq=False)
class Seen:
    """A raw field and the model's output."""

    image: cs.Image
    output: cs.Image


@pytest.fixture(scope="session")
def beads() -> cs.Model:
    return cs.Model.load("confocal-sted-beads")


@pytest.fixture(scope="session")
def seen(beads: cs.Model) -> Seen:
    """A field of beads that the model has not seen."""
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=384, seed=5100)
    return Seen(pair.source, cs.predict(beads, pair.source, plan=PLAN))


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
