"""Features tell widths, shapes and noise, and hardly notice by what shift a crop was resampled."""

import numpy as np
import pytest
from jaxtyping import Float32
from scipy import ndimage

import crosscope as cs
from crosscope.data.grids import Axis, resample, resample_within
from crosscope.quality.features import (
    CROP_PX,
    NAMES,
    Phase,
    find_step,
    measure_features,
    measure_smoothed_noise,
    saturated_share,
)


def feature(crop: Float32[np.ndarray, "y x"], name: str) -> float:
    return float(measure_features(crop[None]).values[0, NAMES.index(name)])


def spots(sigma_px: float, *, count: int = 40) -> Float32[np.ndarray, "y x"]:
    """Spots of height 1 at random places, and faint noise."""
    rng = np.random.default_rng(3)
    points = np.zeros((CROP_PX, CROP_PX))
    np.add.at(points, tuple(rng.integers(0, CROP_PX, (2, count))), 2 * np.pi * sigma_px**2)
    image = ndimage.gaussian_filter(points, sigma_px, mode="wrap")
    return (image + rng.normal(0, 0.01, points.shape)).astype(np.float32)


@pytest.mark.parametrize("ratio", [1.2, 1.5])
def test_wider_spots_are_told_as_wider_and_not_by_more_than_they_are(ratio: float) -> None:
    change = feature(spots(3.0 * ratio), "fineness") - feature(spots(3.0), "fineness")
    assert 1 + 0.5 * (ratio - 1) < np.exp(change) < 1.1 * ratio


def test_lines_are_told_from_spots() -> None:
    stripes = np.zeros((CROP_PX, CROP_PX), dtype=np.float32)
    stripes[:, ::16] = 1
    lines = ndimage.gaussian_filter(stripes, 2.0)
    # across a line one eigenvalue of the Hessian is 0: its share of the difference is a half
    assert feature(lines, "lines at 4 px") == pytest.approx(0.5, abs=0.01)
    assert feature(spots(2.0), "lines at 4 px") < 0.4
    assert feature(lines, "coherence") > 0.95
    assert feature(spots(2.0), "coherence") < 0.5


@pytest.mark.parametrize("shift_px", [0.25, 0.5])
def test_the_shift_of_a_registration_changes_little(shift_px: float) -> None:
    """Where whole fields of one kind differ by more, no gate reacts to it."""
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5204)
    raw = (pair.source.pixels[:132, :132].astype(np.float64) - 100) / 50
    axis = Axis(CROP_PX, len(raw), 1.0, 2 + shift_px)
    moved = resample_within(raw, axis, axis).astype(np.float32)
    still = raw[2:-2, 2:-2].astype(np.float32)
    for name in ("fineness", "spread", "density", "percentile 99.9", "band 6 to 8"):
        assert feature(moved, name) == pytest.approx(feature(still, name), abs=0.15), name


def test_saturation_is_a_share_of_the_bright_pixels() -> None:
    ramp = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    assert saturated_share(ramp) == 0
    # bright is above 499 + 0.3 * (899 - 499) = 619.5: 380 pixels, of which 101 are cut off
    assert saturated_share(np.minimum(ramp, 899)) == pytest.approx(101 / 380, rel=0.01)
    assert saturated_share(np.zeros((5, 5), dtype=np.uint16)) == 0


@pytest.mark.parametrize("step", [1, 16])
def test_a_few_cut_off_pixels_are_told_whatever_the_step(step: int) -> None:
    spots = np.zeros((64, 64), dtype=np.uint16)
    spots[0, :41] = np.arange(60, 101)
    assert saturated_share(step * spots, step) == 0
    # the top 2.7 % hold 97, 98 and 99: 5 are more than 3, and less than three times as many
    spots[1, :4] = 100
    assert saturated_share(step * spots, step) == pytest.approx(5 / 45)
    few = np.where(spots > 0, spots - 50, 0).astype(np.uint16)  # 10 to 50: one grey value is 3 %
    few[2, :2] = 49
    assert saturated_share(step * few, step) == 0


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (2.0, 2.0), (2.0, 1.0), (0.8, 0.8), (3.0, 3.0)])
def test_noise_is_no_signal_on_any_grid_and_a_spot_is(zoom: tuple[float, float]) -> None:
    white = np.random.default_rng(5).normal(size=[int(2 * CROP_PX / z) + 2 for z in zoom])
    dim = white.copy()
    y, x = (int(CROP_PX / z / 2) for z in zoom)
    dim[y : y + 4, x : x + 4] += 12
    for image, is_signal in ((white, False), (dim, True)):
        crop = resample(image, zoom)[:CROP_PX, :CROP_PX].astype(np.float32)
        found = measure_features(crop[None], smoothed_noise=measure_smoothed_noise(zoom))
        assert found.signal.tolist() == [is_signal]


def test_few_photons_of_a_dark_field_are_no_signal() -> None:
    dark = np.random.default_rng(1).poisson(2.0, (400, CROP_PX, CROP_PX)).astype(np.float32)
    assert not measure_features(dark / 500).signal.any()


def test_what_was_not_resampled_is_measured_as_it_is() -> None:
    assert measure_smoothed_noise((1.0, 1.0)) == 1
    assert measure_smoothed_noise((0.01, 0.01)) < 1.5  # and takes no more memory than another
    assert measure_smoothed_noise((2.0, 2.0)) == pytest.approx(1.64, abs=0.1)
    hardly = Phase((1e-6, 0.0), (0.0, 1e-6))
    assert measure_smoothed_noise((1.0, 1.0), hardly) == pytest.approx(1, abs=1e-3)


def smoothed_to_told(crop: Float32[np.ndarray, "y x"]) -> float:
    """How much noise a smoothed crop has, of what the finest detail of its blocks tells."""
    blocks = crop.reshape(CROP_PX // 2, 2, CROP_PX // 2, 2).mean(axis=(1, 3))
    second = np.array([1.0, -2.0, 1.0])
    fine = ndimage.correlate1d(ndimage.correlate1d(blocks, second, axis=0), second, axis=1)
    return float(ndimage.gaussian_filter(blocks, 1.0).std() / np.median(np.abs(fine)))


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (2.0, 2.0)])
def test_noise_is_no_signal_where_crops_are_moved(zoom: tuple[float, float]) -> None:
    phases = (Phase((0.25, -0.1)), Phase((0.5, 0.5)), Phase((0.5, 0.5), (-1.0, 1.0)))
    rng = np.random.default_rng(8)
    whole = rng.normal(size=(20, CROP_PX, CROP_PX)).astype(np.float32)
    usual = np.mean([smoothed_to_told(crop) for crop in whole])
    side = int(CROP_PX / zoom[0])
    for phase in phases * 20:
        white = rng.normal(size=(side + 2, side + 2))
        moved = resample(white, phase.zoom(zoom), phase.start_px)[:CROP_PX, :CROP_PX]
        moved = moved.astype(np.float32)
        smoothed = measure_smoothed_noise(zoom, phase)
        assert not measure_features(moved[None], smoothed_noise=smoothed).signal.any()
        assert smoothed == pytest.approx(smoothed_to_told(moved) / usual, rel=0.15)


def test_steps_of_grey_values_are_found_where_there_are_enough() -> None:
    values = np.random.default_rng(7).poisson(100, (2, 40, 40)).astype(np.uint16)
    assert find_step(values) == 1
    assert find_step(values * np.uint16(16)) == 16
    assert find_step((values * 16).astype(np.int32) - 999) == 16
    assert find_step((values * 16).astype(np.float32)) == 1
    assert find_step((values // 20 * 16).astype(np.uint16)) == 1  # a few values: by chance, maybe
    assert find_step(np.zeros((3, 3), np.uint8)) == 1
