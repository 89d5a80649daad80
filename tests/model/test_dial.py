"""Between a model and its twin: weights are blended, and nothing is promised of what comes out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import crosscope as cs


@pytest.fixture(scope="module")
def beads() -> cs.Model:
    return cs.Model.load("confocal-sted-beads")


def test_weights_lie_between_those_of_the_model_and_its_twin(beads: cs.Model) -> None:
    assert beads.twin is not None
    blended = cs.blend(beads, 0.25)
    three = zip(
        *(net.state_dict().values() for net in (blended.generator, beads.generator, beads.twin)),
        strict=True,
    )
    assert all(torch.allclose(b, 0.75 * ours + 0.25 * theirs) for b, ours, theirs in three)
    assert cs.blend(beads, 0.25).generator is blended.generator


def test_nothing_is_claimed_of_it(beads: cs.Model) -> None:
    assert set(beads.certificate) - set(cs.blend(beads, 1.0).certificate) == {
        "twin",
        "claim",
        "quantities",
        "intervals",
    }
    blended = cs.blend(beads, 0.5)
    assert (blended.twin, blended.heads, blended.sha256) == (None, None, None)
    with pytest.raises(cs.ModelError, match="no intervals"):
        cs.predict_interval(blended, cs.Image(np.zeros((64, 64), np.float32), "yx", (30.0, 30.0)))


def test_at_0_and_without_a_twin_it_is_the_model(beads: cs.Model) -> None:
    assert cs.blend(beads, 0.0) is beads
    alone = replace(beads, twin=None)
    assert cs.blend(alone, 0.5) is alone


@pytest.mark.parametrize("fidelity", [-0.1, 1.1, float("nan")])
def test_other_fidelities_are_refused(beads: cs.Model, fidelity: float) -> None:
    with pytest.raises(cs.InputError, match="between 0 and 1"):
        cs.blend(beads, fidelity)
