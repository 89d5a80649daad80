"""Expected photons -> grey values: the law of mean and variance, and the ends of 16 bits."""

import numpy as np
import pytest

from crosscope.optics.camera import Camera, expected_grey, expose

CAMERA = Camera(offset=100.0, gain=2.0, read_noise=3.0, background=5.0)


@pytest.mark.parametrize("photons", [0.0, 7.5, 400.0])
def test_mean_and_variance_follow_the_photon_transfer_law(photons: float) -> None:
    image = expose(np.full((500, 500), photons), CAMERA, rng=np.random.default_rng(1))
    detected = photons + 5
    variance = 2.0**2 * detected + 3.0**2 + 1 / 12
    assert image.dtype == np.uint16
    assert abs(image.mean() - (100 + 2 * detected)) < 5 * np.sqrt(variance / image.size)
    assert abs(image.var() / variance - 1) < 0.02


def test_expected_grey_is_the_mean_of_many_exposures() -> None:
    photons = np.linspace(0, 50, 64).reshape(8, 8)
    rng = np.random.default_rng(2)
    mean = np.mean([expose(photons, CAMERA, rng=rng) for _ in range(4000)], axis=0)
    expected = expected_grey(photons, CAMERA)
    assert expected.dtype == np.float32
    assert np.abs(mean - expected).max() < 5 * np.sqrt((4 * 55 + 9) / 4000)


def test_too_much_light_saturates_and_darkness_does_not_wrap() -> None:
    bright = expose(np.full((4, 4), 1e6), CAMERA, rng=np.random.default_rng(0))
    assert (bright == 65535).all()
    dark = Camera(offset=0.0, gain=1.0, read_noise=5.0, background=0.0)
    assert expose(np.zeros((50, 50)), dark, rng=np.random.default_rng(0)).max() < 40
