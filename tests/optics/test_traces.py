"""Traces: lives that begin, last and end, smoothly; and a slow, common fading."""

import numpy as np
import pytest

from crosscope.optics.traces import FRAME_S, bleach, live_and_die


def lives(objects: int = 4000, frames: int = 60) -> np.ndarray:
    return live_and_die(np.random.default_rng(0), objects=objects, frames=frames)


def test_a_pit_grows_stays_and_vanishes_once() -> None:
    traces = lives(frames=200)
    assert ((traces >= 0) & (traces <= 1)).all()
    whole = traces[(traces[:, 0] == 0) & (traces[:, -1] == 0) & (traces.max(axis=1) > 0)]
    assert len(whole) > 2000
    assert np.median(whole.max(axis=1)) == 1
    changes = np.sign(np.diff(whole, axis=1))
    for steps in changes:  # up, then down, never up again
        signs = steps[steps != 0]
        assert (np.diff(signs) != 0).sum() <= 1
        assert signs[0] >= signs[-1]


def test_half_of_the_pits_live_longer_than_65_s() -> None:
    traces = lives(frames=400)
    whole = traces[(traces[:, 0] == 0) & (traces[:, -1] == 0)]
    seen_s = FRAME_S * (whole > 0).sum(axis=1)
    assert np.median(seen_s) == pytest.approx(65, abs=4)


def test_a_trace_is_smooth() -> None:
    """A life is followed by many frames: the steepest part, an end, by three on the median."""
    steepest = np.abs(np.diff(lives(), axis=1)).max(axis=1)
    assert np.median(steepest[steepest > 0]) < 0.5


def test_as_many_pits_are_there_at_the_end_as_at_the_beginning() -> None:
    there = (lives() > 0.5).mean(axis=0)
    assert there.min() > 0.8 * there.max()
    assert (lives(frames=20).max(axis=1) > 0.5).mean() > 0.85  # nearly all are seen


def test_labels_bleach_a_tenth_in_a_minute() -> None:
    traces = bleach(objects=3, frames=21)
    assert traces.shape == (3, 21)
    assert traces[:, 0] == pytest.approx(1)
    assert traces[:, -1] == pytest.approx(0.9, abs=0.01)
    assert (np.diff(traces, axis=1) < 0).all()
