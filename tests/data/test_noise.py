"""Noise of known detectors comes back."""

import numpy as np
import pytest
from scipy import ndimage

from crosscope.data.noise import Noise, measure_darkest, measure_noise


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def light(rng: np.random.Generator, px: int = 384) -> np.ndarray:
    """Smooth structures, 0 to about 300 photons."""
    field = ndimage.gaussian_filter(rng.random((px, px)), 6)
    return 300 * ((field - field.min()) / np.ptp(field)) ** 3


@pytest.mark.parametrize(("gain", "read_noise", "offset"), [(1.0, 0.0, 10.0), (2.0, 3.0, 100.0)])
def test_gain_and_read_noise_come_back(
    rng: np.random.Generator, gain: float, read_noise: float, offset: float
) -> None:
    photons = light(rng) + 2
    grey = offset + gain * rng.poisson(photons) + rng.normal(0, read_noise, photons.shape)
    expected = offset + gain * photons
    found = measure_noise(np.rint(grey) - expected, expected)
    assert found is not None
    assert found.gain == pytest.approx(gain, rel=0.1)
    dark = gain * (found.zero - offset) + read_noise**2
    assert found.read_noise**2 == pytest.approx(dark, rel=0.25)


def test_structures_left_in_the_residual_hardly_count(rng: np.random.Generator) -> None:
    photons = light(rng) + 20
    grey = rng.poisson(photons).astype(float)
    found = measure_noise(grey - 0.8 * photons, photons)
    assert found is not None
    assert found.gain == pytest.approx(1, rel=0.1)


def test_a_few_pixels_tell_nothing() -> None:
    assert measure_noise(np.zeros((8, 8)), np.zeros((8, 8))) is None


def test_a_constant_image_has_some_noise() -> None:
    found = measure_noise(np.zeros((32, 32)), np.full((32, 32), 7.0))
    assert found is not None
    assert (found.gain, found.zero) == (0, 7)
    assert found.read_noise > 0


def test_the_darkest_places_of_a_dense_field_are_found(rng: np.random.Generator) -> None:
    photons = ndimage.gaussian_filter(rng.random((384, 384)), 8)
    photons = 20 + 20_000 * (photons - photons.min()) ** 1.5  # 1 in 50 pixels is darker than 30
    grey = 100 + 2.0 * rng.poisson(photons)
    grey[:, :43] = 0  # nothing was taken there
    found = measure_darkest(grey)
    assert found is not None
    level, noise = found
    assert level == pytest.approx(140, abs=20)
    assert noise == pytest.approx(2 * 20**0.5, rel=0.25)
    assert np.quantile(grey[:, 43:], 0.2) > 300


def test_where_all_is_dark_the_darkest_are_not_far_below(rng: np.random.Generator) -> None:
    found = measure_darkest(rng.normal(100, 8, (256, 256)))
    assert found is not None
    assert found[0] == pytest.approx(100, abs=8)
    assert found[1] == pytest.approx(8, rel=0.2)


def test_constant_and_tiny_images_have_no_darkest_place() -> None:
    assert measure_darkest(np.full((32, 32), 7.0)) is None
    assert measure_darkest(np.random.default_rng(0).random((3, 50))) is None


@pytest.mark.parametrize("value", [{"gain": -1.0}, {"read_noise": 0.0}, {"gain": float("nan")}])
def test_damage_is_noticed(value: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not a number from"):
        Noise.from_json({"gain": 1.0, "read_noise": 1.0, "zero": 0.0} | value)
