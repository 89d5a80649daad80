"""Resampling by the kernel of Keys: what it must keep, it keeps exactly."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crosscope.data.grids import (
    Axis,
    in_blocks,
    is_same_grid,
    resample,
    resample_part,
    resample_within,
    zoomed_shape,
)

PLANE = np.random.default_rng(0).random((13, 17)).astype(np.float32)
zooms = st.floats(0.3, 4)


def test_a_zoom_of_1_is_the_plane_itself() -> None:
    assert resample(PLANE, (1.0, 1.0)) is PLANE


def test_a_zoom_of_almost_1_is_almost_the_plane() -> None:
    assert resample(PLANE, (1 + 1e-9, 1.0)) == pytest.approx(PLANE.astype(np.float64), abs=1e-6)


@given(zooms, zooms)
def test_a_constant_stays_what_it_is(zoom_y: float, zoom_x: float) -> None:
    flat = resample(np.full((13, 17), 7, np.uint16), (zoom_y, zoom_x))
    assert flat == pytest.approx(np.full(flat.shape, 7.0))


@given(zooms)
def test_the_corner_is_kept_and_the_size_is_the_zoom_times_it(zoom: float) -> None:
    resampled = resample(PLANE, (zoom, 1.0))
    assert resampled.shape[1] == 17
    assert -0.011 <= 13 * zoom - len(resampled) < 1  # whole new pixels, to a hundredth


@given(st.floats(0.5, 4))
@example(1.0000725813080413)
def test_a_ramp_stays_a_ramp_of_pixel_centres_away_from_the_border(zoom: float) -> None:
    ramp = np.arange(40.0)[:, None] + np.zeros(8)
    resampled = resample(ramp, (zoom, 1.0))[:, 4]
    # new pixel i covers i / zoom to (i + 1) / zoom of the old: its centre is half way
    centres = (np.arange(len(resampled)) + 0.5) / zoom - 0.5
    inner = (centres > 5) & (centres < 34)
    # thinned out, the widened kernel's weights have no exact first moment
    within = 1e-9 if zoom >= 1 else 0.1
    if is_same_grid((zoom, 1.0)):  # nothing is resampled: off by 1e-4 of 40 px
        within = 4e-3
    assert resampled[inner] == pytest.approx(centres[inner], abs=within)


def test_double_size_has_two_new_pixels_a_quarter_to_each_side_of_an_old_one() -> None:
    ramp = np.arange(20.0) + np.zeros((6, 1))
    doubled = resample(ramp, (2.0, 2.0))
    assert doubled.shape == (12, 40)
    assert doubled[6, 8:32] == pytest.approx(np.arange(8, 32) / 2 - 0.25, abs=1e-12)


@given(st.sampled_from([1.0, 2.0, 3.0]), st.floats(-0.5, 0.5))
def test_a_phase_lies_so_much_of_an_old_pixel_farther(zoom: float, phase: float) -> None:
    ramp = np.arange(20.0) + np.zeros((6, 1))
    still, moved = resample(ramp, (zoom, zoom)), resample(ramp, (zoom, zoom), (0.0, phase))
    inner = slice(int(4 * zoom), int(16 * zoom))
    assert moved.shape == still.shape
    assert moved[3, inner] == pytest.approx(still[3, inner] + phase, abs=1e-9)


@given(st.floats(-3, 3), st.floats(0.25, 1))
def test_a_parabola_is_kept_within_the_support(shift_px: float, scale: float) -> None:
    parabola = (np.arange(40.0) ** 2)[:, None] + np.zeros(6)
    y, x = Axis(40, 40, scale, shift_px), Axis(6, 6, 1.0, 0.0)
    resampled = resample_within(parabola, y, x)[:, 0]
    at = scale * np.arange(y.start, y.stop) + y.offset
    assert resampled == pytest.approx(at**2, abs=1e-8)


def test_thinning_out_does_not_alias() -> None:
    stripes = np.tile([0.0, 1.0], 32) + np.zeros((64, 1))
    thinned = resample(stripes, (0.5, 0.4))
    assert thinned[:, 3:-3] == pytest.approx(0.5, abs=0.02)


def test_pixel_sizes_that_a_file_rounded_change_no_length() -> None:
    plane = np.arange(680 * 30, dtype=np.float32).reshape(680, 30)
    assert resample(plane, (30.0 / 30.0000003, 30.0 / 30.0000003)) is plane
    assert resample(plane, (1.9999999, 1.9999999)).shape == (1360, 60)


@given(zooms, zooms, st.data())
def test_a_part_is_that_of_the_whole_to_the_last_bit(
    zoom_y: float, zoom_x: float, data: st.DataObject
) -> None:
    zoom, touched = (zoom_y, zoom_x), []

    def read(y: slice, x: slice) -> Any:
        assert 0 <= y.start < y.stop <= 13
        assert 0 <= x.start < x.stop <= 17
        touched.append((y.stop - y.start, x.stop - x.start))
        return PLANE[y, x]

    part = []
    for length in zoomed_shape(PLANE.shape, zoom):
        start = data.draw(st.integers(0, length - 1))
        part.append(slice(start, data.draw(st.integers(start + 1, length))))
    y, x = part
    assert np.array_equal(resample_part(read, PLANE.shape, zoom, y, x), resample(PLANE, zoom)[y, x])
    (sides,) = touched  # no more is read than the part and the kernel around it
    for side, new_px, z in zip(sides, (y.stop - y.start, x.stop - x.start), zoom, strict=True):
        assert side <= (new_px - 1) / z + 4 * max(1, 1 / z) + 2


def test_a_part_of_the_same_grid_is_what_was_read() -> None:
    y, x = slice(2, 5), slice(3, 9)
    part = resample_part(lambda v, u: PLANE[v, u], PLANE.shape, (1.0, 1.0), y, x)
    assert np.array_equal(part, PLANE[y, x])


def test_blocks_are_means_and_repeat_the_border() -> None:
    found = in_blocks(np.arange(15.0).reshape(3, 5), 2)
    assert found.tolist() == [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]
    several = np.arange(24.0).reshape(2, 3, 4)
    assert in_blocks(several, 3).tolist() == [[[5.0, 7.0]], [[17.0, 19.0]]]
