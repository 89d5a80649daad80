"""Noise of known detectors comes back."""

import numpy as np
import pytest
from scipy import ndimage

from crosscope.data.noise import Noise, measure_noise


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


@pytest.mark.parametrize("value", [{"gain": -1.0}, {"read_noise": 0.0}, {"gain": float("nan")}])
def test_damage_is_noticed(value: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not a number from"):
        Noise.from_json({"gain": 1.0, "read_noise": 1.0, "zero": 0.0} | value)
