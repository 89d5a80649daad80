"""Warps: known by hand, bounded by their ranges, the same after a way through JSON."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crosscope.optics.misregistration import ALIGNED, Misregistration, Warp, draw_warp

RANGES = Misregistration(
    shift_nm=650.0, rotation_deg=1.0, scale=0.01, elastic_nm=487.5, elastic_length_nm=32_500.0
)
EXTENT_NM = 166_400.0


def field_points(extent_nm: float) -> np.ndarray:
    ticks = np.linspace(0, extent_nm, 60)
    return np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)


def test_a_quarter_turn_and_a_shift_by_hand() -> None:
    warp = Warp((100.0, 100.0), (5.0, -3.0), rotation_deg=90.0, scale=2.0)
    # 10 nm down from the centre: R turns (10, 0) into (0, 10), which is doubled, then shifted
    moved = warp.to_source_nm(np.array([[110.0, 100.0], [100.0, 100.0]]))
    np.testing.assert_allclose(moved, [[105.0, 117.0], [105.0, 97.0]])


def test_aligned_moves_nothing() -> None:
    points = field_points(EXTENT_NM)
    warp = draw_warp(ALIGNED, extent_nm=EXTENT_NM, rng=np.random.default_rng(0))
    np.testing.assert_allclose(warp.to_source_nm(points), points, atol=1e-9)


@given(st.integers(0, 10_000))
def test_a_drawn_warp_stays_within_its_ranges(seed: int) -> None:
    warp = draw_warp(RANGES, extent_nm=EXTENT_NM, rng=np.random.default_rng(seed))
    assert max(np.abs(warp.shift_yx_nm)) <= 650
    assert abs(warp.rotation_deg) <= 1
    assert abs(warp.scale - 1) <= 0.01
    elastic = Warp((0.0, 0.0), waves=warp.waves)
    points = field_points(EXTENT_NM)
    length = np.linalg.norm(elastic.to_source_nm(points) - points, axis=1)
    assert 0.97 * 487.5 < length.max() < 1.03 * 487.5


def test_the_elastic_part_forgets_itself_over_its_correlation_length() -> None:
    elastic = Misregistration(elastic_nm=500.0, elastic_length_nm=20_000.0)
    points = field_points(EXTENT_NM)[::7]
    beside = points + np.array([0.0, 20_000.0])
    here, there = [], []
    for seed in range(60):
        warp = draw_warp(elastic, extent_nm=EXTENT_NM, rng=np.random.default_rng(seed))
        here.append(warp.to_source_nm(points) - points)
        there.append(warp.to_source_nm(beside) - beside)
    correlation = np.mean(np.multiply(here, there)) / np.mean(np.square(here))
    assert abs(correlation - np.exp(-0.5)) < 0.1


@given(st.integers(0, 10_000))
def test_json_keeps_the_warp_exactly(seed: int) -> None:
    warp = draw_warp(RANGES, extent_nm=EXTENT_NM, rng=np.random.default_rng(seed))
    assert Warp.from_json(json.loads(json.dumps(warp.to_json()))) == warp
