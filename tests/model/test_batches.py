import threading
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from crosscope.model import batches
from crosscope.model.batches import AHEAD, PROCESSOR, Data, draw_ahead, draw_batch, draw_grain
from crosscope.model.plan import TrainingPlan
from crosscope.model.processes import Processes

PLAN = TrainingPlan(steps=16, batch=2, patch_px=32)
SIDE_PX = 40  # of the squares that patches of 32 px are cropped from


def numbered(count: int) -> Data:
    """Return squares whose every pixel has a value of its own; the target's are negative."""
    source = torch.arange(float(count * SIDE_PX**2)).reshape(count, 1, SIDE_PX, SIDE_PX)
    return Data(source, -source)


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    def draw(seed: int, step: int) -> torch.Tensor:
        return draw_batch(numbered(3), replace(PLAN, batch=8, seed=seed), step)[0]

    assert torch.equal(draw(0, 0), draw(0, 0))
    assert not torch.equal(draw(0, 0), draw(0, 1))
    assert not torch.equal(draw(0, 0), draw(1, 0))


def test_source_and_target_are_cropped_and_turned_alike_in_all_eight_ways() -> None:
    data = numbered(2)
    source, target = draw_batch(data, replace(PLAN, batch=400), 0)
    assert torch.equal(target, -source)
    ways, corners = set(), set()
    for patch in source[:, 0].numpy():
        n, y, x = np.unravel_index(int(patch.min()), (2, SIDE_PX, SIDE_PX))
        crop = data.source[int(n), 0].numpy()[y : y + 32, x : x + 32]
        turned = [np.rot90(side, k) for side in (crop, crop.T) for k in range(4)]
        same = [way for way, square in enumerate(turned) if np.array_equal(square, patch)]
        assert len(same) == 1
        ways.add(same[0])
        corners.add((int(n), int(y), int(x)))
    assert ways == set(range(8))
    assert {y for _, y, _ in corners} == {x for _, _, x in corners} == set(range(9))
    assert {n for n, _, _ in corners} == {0, 1}


@pytest.mark.parametrize(("count", "parts"), [(2, 1), (1, 2), (2, 2)])
def test_processes_and_parts_share_one_batch(count: int, parts: int) -> None:
    data = numbered(3)
    plan = replace(PLAN, batch=3, accumulate=parts, haze=0.5)
    whole = draw_batch(data, replace(PLAN, batch=3 * parts * count, haze=0.5), 7)
    shared = [draw_batch(data, plan, 7, Processes(number, count)) for number in range(count)]
    for expected, drawn in zip(whole, zip(*shared, strict=True), strict=True):
        assert torch.equal(torch.cat(drawn), expected)


@pytest.mark.parametrize(("count", "parts"), [(2, 1), (1, 2), (2, 2)])
def test_processes_and_parts_share_one_noise(count: int, parts: int) -> None:
    plan = replace(PLAN, batch=3, accumulate=parts)
    whole = draw_grain(replace(PLAN, batch=3 * parts * count), 7, PROCESSOR)
    shared = [draw_grain(plan, 7, PROCESSOR, Processes(number, count)) for number in range(count)]
    assert torch.equal(torch.cat(shared), whole)
    assert not torch.equal(draw_grain(replace(PLAN, batch=3 * parts * count), 8, PROCESSOR), whole)


def test_noise_is_white_of_variance_1_and_not_of_the_numbers_that_choose_the_patches() -> None:
    grain = draw_grain(replace(PLAN, batch=100), 3, PROCESSOR)
    assert grain.shape == (100, 1, 32, 32)
    assert float(grain.std()) == pytest.approx(1, abs=0.01)
    assert float(grain.mean()) == pytest.approx(0, abs=0.01)
    assert abs(float((grain[..., 1:] * grain[..., :-1]).mean())) < 0.01
    chooses = np.random.default_rng([PLAN.seed, 3, PLAN.member])  # as in `draw_batch`
    assert not np.array_equal(grain.numpy(), chooses.standard_normal(grain.shape, np.float32))


def test_batches_drawn_ahead_are_those_of_their_steps() -> None:
    data, plan = numbered(3), replace(PLAN, haze=0.5)
    with closing(draw_ahead(data, plan, 5)) as ahead:
        for step, batch in zip(range(5, 12), ahead, strict=False):
            for drawn, expected in zip(batch, draw_batch(data, plan, step), strict=True):
                assert torch.equal(drawn, expected)


def test_batches_are_drawn_before_they_are_asked_for_and_not_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn, enough = [], threading.Event()

    def draw(data: Data, plan: TrainingPlan, step: int, processes: Processes) -> object:
        drawn.append((step, threading.current_thread().name))
        if step == AHEAD:
            enough.set()
        return draw_batch(data, plan, step, processes)

    monkeypatch.setattr(batches, "draw_batch", draw)
    with closing(draw_ahead(numbered(2), PLAN, 0)) as ahead:
        next(ahead)
        assert enough.wait(60)
    assert [step for step, _ in drawn] == list(range(AHEAD + 1))
    assert not {name for _, name in drawn} & {thread.name for thread in threading.enumerate()}


def test_what_goes_wrong_in_the_thread_is_raised_in_the_loop() -> None:
    data = numbered(2)
    with (
        closing(draw_ahead(data, replace(PLAN, patch_px=SIDE_PX + 8), 0)) as ahead,
        pytest.raises(ValueError, match="high <= 0"),
    ):
        list(islice(ahead, 1))
