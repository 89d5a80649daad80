"""An ensemble: networks of one plan that begin elsewhere, and what may be joined."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import crosscope as cs
from crosscope.data.sampling import Scaling
from crosscope.model.generator import build_generator
from crosscope.model.reach import Reach


def make_model(**changes: Any) -> cs.Model:
    plain = cs.Model(
        network="fast",
        base=2,
        generator=build_generator("fast", 2),
        twin=None,
        source_scaling=Scaling(101.5, 200.0),
        target_scaling=Scaling(50.0, 30.0),
        source_pixel_size_nm=(65.0, 65.0),
        target_pixel_size_nm=(32.5, 32.5),
        reach=Reach(96, 48, 32),
    )
    return replace(plain, **changes)


def test_the_generators_of_others_are_joined_in_order(tmp_path: Path) -> None:
    model, first, second = (make_model() for _ in range(3))
    joined = cs.join_members(cs.join_members(model, [first]), [second])
    assert joined.members == joined.sisters == (first.generator, second.generator)
    joined.save(tmp_path / "a.zip")
    back = cs.Model.load(tmp_path / "a.zip").members
    for member, expected in zip(back, joined.members, strict=True):
        for name, weight in expected.state_dict().items():
            assert torch.equal(weight, member.state_dict()[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", "paper"),
        ("base", 4),
        ("source_scaling", Scaling(101.5, 200.1)),
        ("target_scaling", Scaling(50.1, 30.0)),
        ("source_pixel_size_nm", (65.0, 66.0)),
        ("target_pixel_size_nm", (32.5, 33.0)),
    ],
)
def test_what_differs_is_not_joined(name: str, value: object) -> None:
    other = make_model(**{name: value})
    with pytest.raises(cs.ModelError, match=f"member 2.*{name}"):
        cs.join_members(make_model(), [make_model(), other])


def test_five_networks_are_the_most() -> None:
    full = cs.join_members(make_model(), [make_model() for _ in range(4)])
    with pytest.raises(cs.ModelError, match="more than the 4"):
        cs.join_members(full, [make_model()])


PLAN = cs.TrainingPlan(
    steps=2, batch=2, patch_px=32, base=2, discriminator_base=2, threads=1, precision="float32"
)


def make_pair(seed: int) -> cs.RegisteredPair:
    pixels = np.random.default_rng(seed).poisson(20, (96, 96)).astype(np.float32)
    pixels[40:50, 40:60] += 200
    image = cs.Image(pixels, "yx", (30.0, 30.0))
    transform = cs.Transform(np.eye(2, 3))
    return cs.RegisteredPair(
        f"p{seed}", image, image, transform, (0, 0), (30.0, 30.0), 0.1, 0.5, 0.6, f"sha {seed}"
    )


PAIRS = [make_pair(seed) for seed in range(4)]


def test_members_learn_from_the_same_fields_and_begin_elsewhere() -> None:
    one, other = (cs.train(PAIRS, replace(PLAN, member=n)) for n in (0, 1))
    assert one.fields == other.fields
    assert (one.source_scaling, one.target_scaling) == (other.source_scaling, other.target_scaling)
    assert not same(one.generator, other.generator)


def test_members_are_trained_each_in_its_folder_and_not_again(tmp_path: Path) -> None:
    told: list[float] = []
    model = cs.train(PAIRS, PLAN)
    joined = cs.train_members(
        PAIRS, PLAN, model, count=2, run=tmp_path, watch=lambda moment: told.append(moment.done)
    )
    assert {path.name for path in tmp_path.iterdir()} == {"member-1", "member-2"}
    assert told == sorted(told)
    assert told[-1] == 1
    assert not same(*joined.members)
    steps: list[int] = []
    again = cs.train_members(
        PAIRS,
        PLAN,
        model,
        count=3,
        run=tmp_path,
        resume=True,
        watch=lambda moment: steps.append(moment.step),
    )
    assert steps == [1, 2]
    assert all(map(same, again.members, joined.members))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))
