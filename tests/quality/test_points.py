import math

import numpy as np
import pytest

from crosscope.data.noise import Noise
from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.quality.forward import FREQUENCIES, Forward
from crosscope.quality.points import (
    add_noise,
    cell_centres,
    draw_points,
    light_of,
    nearest_spot,
    peak_share,
    sample,
    see_by,
)

FREQUENCY = np.linspace(0, 0.5, FREQUENCIES)
NOISELESS = Noise(0.0, 1e-9, 0.0)


def blur(sigma_px: float, *, zoom: float = 1.0, noise: Noise = NOISELESS) -> Forward:
    """Return a Gaussian blur; 1000 grey values of the target are 2000 of the source."""
    transfer = np.exp(-2 * (math.pi * sigma_px * FREQUENCY) ** 2)
    return Forward(
        transfer=tuple(transfer.tolist()),
        gain=2.0,
        zero=50.0,
        background=100.0,
        mismatch=0.0,
        target_fwhm_px=4.0,
        zoom=zoom,
        noise=noise,
    )


def test_a_blurred_point_keeps_the_share_of_its_peak_that_gaussians_keep() -> None:
    sigma = 4.0 / FWHM_PER_SIGMA

    assert peak_share(blur(3.0)) == pytest.approx(sigma**2 / (sigma**2 + 3.0**2), rel=0.01)


@pytest.mark.parametrize("zoom", [1.0, 2.0, 2.5])
def test_a_point_comes_out_at_its_place_with_the_peak_that_was_asked(zoom: float) -> None:
    middle = 50.0 * zoom - 0.5 + 0.5 * zoom  # the centre of a source pixel
    places, peaks = np.array([[middle, middle]]), np.array([300.0])

    raw = see_by(blur(3.0, zoom=zoom))(places, peaks, 256, np.random.default_rng(0))

    assert raw.shape == (int(256 / zoom + 0.01),) * 2
    assert raw.argmax() == 50 * raw.shape[1] + 50
    assert raw.max() == pytest.approx(400.0, rel=0.01)
    assert np.median(raw) == 100.0


def test_points_may_lie_beyond_the_border() -> None:
    drawn = draw_points(
        np.array([[-1.0, 10.0], [40.0, 40.0]]), np.array([5.0, 5.0]), fwhm_px=4.0, size_px=32
    )

    assert drawn[0, 10] == pytest.approx(5.0 * 2 ** (-((1 / 2) ** 2)))
    assert drawn[20:, 20:].max() < 1e-3


def test_noise_has_the_variance_of_the_detector() -> None:
    forward = blur(3.0, noise=Noise(gain=2.0, read_noise=3.0, zero=100.0))
    grey = np.full((300, 300), 250.0)

    seen = add_noise(grey, forward, rng=np.random.default_rng(1))

    assert seen.mean() == pytest.approx(250.0, abs=0.3)
    assert seen.var() == pytest.approx(2.0 * 150 + 9 + 1 / 12, rel=0.02)
    assert np.array_equal(seen, np.rint(seen))


def test_sampling_takes_pixel_centres() -> None:
    ramp = np.tile(np.arange(64.0), (64, 1))

    assert sample(ramp, 2.0)[5, 3:-3] == pytest.approx(np.arange(32)[3:-3] * 2 + 0.5, abs=1e-3)
    assert sample(ramp, 1.0) is ramp


def test_scenes_keep_apart_and_within_the_field() -> None:
    centres = cell_centres(8.0, size_px=512, rng=np.random.default_rng(2))

    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
    assert len(centres) == 14**2
    assert apart[~np.eye(len(centres), dtype=bool)].min() >= 4 * 8.0 - 1e-9
    assert centres.min() > 8.0
    assert centres.max() < 512 - 8.0


def test_the_light_of_a_gaussian_is_its_area() -> None:
    places = np.array([[30.3, 40.6], [80.0, 80.0]])
    image = 7.0 + draw_points(places, np.array([100.0, 50.0]), fwhm_px=4.0, size_px=128)

    expected = np.array([100.0, 50.0]) * math.pi * 16 / (4 * math.log(2))
    assert light_of(image, places, radius_px=9.0) == pytest.approx(expected, rel=1e-3)


def test_spots_near_a_place_are_those_within_the_radius() -> None:
    found = np.array([[0.0, 0.0], [0.0, 3.0], [10.0, 10.0]])

    assert nearest_spot(found, np.array([[0.0, 1.0], [50.0, 50.0]]), radius_px=2.0) == [[0, 1], []]
    assert nearest_spot(np.zeros((0, 2)), np.array([[0.0, 1.0]]), radius_px=2.0) == [[]]
