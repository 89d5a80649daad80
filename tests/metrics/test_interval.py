import math

import numpy as np
import pytest

from crosscope.metrics.interval import Interval, bootstrap_interval


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(10, 2, 200)
    got = bootstrap_interval(list(values), statistic=np.mean)
    assert got.value == pytest.approx(values.mean())
    half_width = 1.96 * values.std() / math.sqrt(200)
    assert got.low == pytest.approx(values.mean() - half_width, abs=0.04)
    assert got.high == pytest.approx(values.mean() + half_width, abs=0.04)
    assert got.n == 200


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        got = bootstrap_interval(list(random.normal(0, 1, 25)), statistic=np.mean)
        assert got.low is not None
        assert got.high is not None
        held += got.low <= 0 <= got.high
    assert held >= 50


def test_fields_are_drawn_not_their_spots() -> None:
    # Two fields that differ, each of 100 equal spots: the interval is as wide as their difference.
    got = bootstrap_interval([np.full(100, 1.0), np.full(100, 3.0)], statistic=np.mean)
    assert got == Interval(2.0, 1.0, 3.0, 200)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = list(np.random.default_rng(2).normal(size=9))
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)


def test_what_could_not_be_taken_is_left_out() -> None:
    values: list[float | np.ndarray] = [1.0, math.nan, np.array([2.0, math.nan]), np.array([])]
    assert bootstrap_interval(values, statistic=np.mean).n == 2


def test_one_field_has_no_interval_and_none_has_no_value() -> None:
    assert bootstrap_interval([5.0]) == Interval(5.0, None, None, 1)
    assert bootstrap_interval([np.array([5.0, 7.0])]) == Interval(6.0, None, None, 2)
    assert bootstrap_interval([math.nan]) == Interval(None, None, None, 0)
    assert bootstrap_interval([]) == Interval(None, None, None, 0)


def test_infinite_values_give_no_nan() -> None:
    assert bootstrap_interval([math.inf, math.inf, 40.0]).high == math.inf
