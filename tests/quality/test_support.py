"""Which objects of an output other networks show, too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crosscope as cs

SEEN = Any
PLAN = cs.PredictionPlan(engine="torch", threads=1, precision="float32")


class Nothing(torch.nn.Module):
    """A network that shows nothing."""

    stride = 16

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def with_spots(output: cs.Image, *places: tuple[int, int]) -> cs.Image:
    """Put in spots as bright as the brightest, about as wide as the target's."""
    pixels, height = output.pixels, output.pixels.max()
    y, x = np.indices(pixels.shape)
    for v, u in places:
        spot = height * np.exp(-((y - v) ** 2 + (x - u) ** 2) / 2 / 1.6**2)
        pixels = np.maximum(pixels, spot.astype(np.float32))
    return output.with_pixels(pixels)


def test_an_object_that_was_put_in_is_shown_by_the_output_alone(
    beads: cs.Model, seen: SEEN
) -> None:
    plain = cs.count_support(beads, seen.image, seen.output, plan=PLAN)
    assert plain.networks == 2
    assert len(plain.seen) > 30
    assert (plain.seen == 2).mean() > 0.95
    assert plain.height.min() > 0.25
    blended = replace(PLAN, fidelity=0.5)  # of the output, not of those that it is compared with
    assert np.array_equal(
        cs.count_support(beads, seen.image, seen.output, plan=blended).seen, plain.seen
    )
    changed = with_spots(seen.output, (200, 90))
    found = cs.count_support(beads, seen.image, changed, plan=PLAN)
    near = np.linalg.norm(found.yx_px - (200, 90), axis=1) < 1
    assert found.seen[near].tolist() == [1]
    assert found.least[near].tolist() == [0]
    assert found.unsteady[near].all()
    assert found.unsteady[found.seen == 1].all()
    assert plain.unsteady.mean() < 0.1


def test_close_are_those_that_the_model_is_not_known_to_tell_apart(
    beads: cs.Model, seen: SEEN, tmp_path: Path
) -> None:
    changed = with_spots(seen.output, (200, 90), (203, 94))

    def count(claimed_nm: float | None, plan: cs.PredictionPlan = PLAN) -> tuple[cs.Support, Any]:
        claim = {**beads.certificate["claim"], "resolution_nm": claimed_nm}
        claim["reason"] = None if claimed_nm else "nothing is claimed"
        model = replace(beads, certificate={**beads.certificate, "claim": claim})
        found = cs.count_support(model, seen.image, changed, plan=plan)
        return found, np.linalg.norm(found.yx_px - (201.5, 92), axis=1) < 4

    found, put_in = count(180.0)
    assert found.claimed_px == pytest.approx(6)
    assert found.nearest_px[put_in] == pytest.approx([5, 5], abs=0.5)
    assert found.close[put_in].all()
    assert found.json["close"] == found.close.sum() == (found.nearest_px < 6).sum()
    found, put_in = count(120.0)
    assert not found.close[put_in].any()
    for nothing in (count(None)[0], count(180.0, replace(PLAN, fidelity=0.5))[0]):
        assert nothing.json["close"] is None
        assert not nothing.close.any()
        nothing.write_csv(tmp_path / "objects.csv", overwrite=True)
        assert all(
            row.endswith(",nan") for row in (tmp_path / "objects.csv").read_text().split()[1:]
        )
    empty = seen.output.with_pixels(np.zeros_like(seen.output.pixels))
    assert len(cs.count_support(beads, seen.image, empty, plan=PLAN).close) == 0


def test_a_network_that_shows_nothing_supports_nothing(beads: cs.Model, seen: SEEN) -> None:
    empty = replace(beads, members=(Nothing(),))
    found = cs.count_support(empty, seen.image, seen.output, plan=PLAN)
    assert found.networks == 3
    assert found.seen.max() == 2


def test_what_cannot_be_compared_is_told(beads: cs.Model, seen: SEEN) -> None:
    with pytest.raises(cs.ModelError, match="neither a twin nor members"):
        cs.count_support(replace(beads, twin=None), seen.image, seen.output)
    with pytest.raises(cs.ModelError, match="certificate"):
        cs.count_support(replace(beads, certificate={}), seen.image, seen.output)
    small = seen.output.with_pixels(seen.output.pixels[1:])
    with pytest.raises(cs.InputError, match="the model makes"):
        cs.count_support(beads, seen.image, small, plan=PLAN)
