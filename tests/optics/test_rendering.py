"""Rendering against direct summation, against exact shifts, and its balance of light."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscope.optics.psf import (
    Otf,
    confocal_otf,
    fwhm_nm,
    point_spread,
    sim_otf,
    sted_otf,
    tirf_otf,
    widefield_otf,
)
from crosscope.optics.rendering import Grid, margin_nm, render

SCANS = {
    "confocal": (confocal_otf(), 30.0),
    "sted": (sted_otf(), 30.0),
    "dapi at 650 nm, far below Nyquist": (widefield_otf(na=0.4, emission_nm=461.0), 650.0),
    "txred at 325 nm": (widefield_otf(na=0.75, emission_nm=615.0), 325.0),
    "tirf": (tirf_otf(), 65.0),
    "sim": (sim_otf(), 32.5),
}


def centres_nm(grid: Grid) -> np.ndarray:
    return (np.arange(grid.size_px) + 0.5) * grid.pixel_nm


@pytest.mark.parametrize(("otf", "pixel_nm"), SCANS.values(), ids=SCANS.keys())
def test_render_equals_direct_summation(otf: Otf, pixel_nm: float) -> None:
    rng = np.random.default_rng(5)
    grid = Grid(24, pixel_nm, integrates=False)
    points = rng.uniform(-4 * pixel_nm, grid.extent_nm + 4 * pixel_nm, (15, 2))
    weight = rng.uniform(0.5, 2, 15)
    direct = np.zeros((24, 24))
    for point, photons in zip(points, weight, strict=True):
        offset = centres_nm(grid)[:, None] - point  # pixel yx
        radius = np.hypot(offset[:, None, 0], offset[None, :, 1])
        direct += photons * pixel_nm**2 * point_spread(otf, radius.ravel()).reshape(24, 24)
    image = render(points, weight, otf=otf, grid=grid)
    assert np.abs(image - direct).max() < 1e-4 * direct.max()


@pytest.mark.parametrize(("otf", "pixel_nm"), SCANS.values(), ids=SCANS.keys())
def test_a_rendered_point_is_as_wide_as_its_optics_say(otf: Otf, pixel_nm: float) -> None:
    fine_nm = fwhm_nm(otf) / 20
    middle = np.array([[60.5 * fine_nm, 60.5 * fine_nm]])
    profile = render(middle, np.ones(1), otf=otf, grid=Grid(121, fine_nm, integrates=False))[60]
    half = profile[60] / 2
    right = np.interp(half, profile[60:85][::-1], np.arange(60, 85)[::-1])
    assert profile.argmax() == 60
    assert 2 * (right - 60) * fine_nm == pytest.approx(fwhm_nm(otf), rel=5e-3)
    assert pixel_nm < 2.2 * fwhm_nm(otf)


@settings(max_examples=15, deadline=None)
@given(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_a_sub_pixel_shift_is_exact(down: float, right: float) -> None:
    """Moving the emitters equals multiplying the well-sampled image's spectrum by a phase ramp."""
    otf, grid = confocal_otf(), Grid(160, 60.0, integrates=False)
    point = np.array([[80.5 * 60.0, 80.5 * 60.0]])
    still = render(point, np.ones(1), otf=otf, grid=grid)
    moved = render(point + 60 * np.array([down, right]), np.ones(1), otf=otf, grid=grid)
    k = np.fft.fftfreq(160)
    ramp = np.exp(-2j * np.pi * (down * k[:, None] + right * k))
    expected = np.fft.ifft2(np.fft.fft2(still) * ramp).real
    assert np.abs(moved - expected).max() < 1e-4 * still.max()


def test_pixel_centres_lie_half_a_pixel_from_the_corner() -> None:
    grid = Grid(33, 30.0, integrates=False)
    image = render(np.array([[10.5 * 30, 20.5 * 30]]), np.ones(1), otf=sted_otf(), grid=grid)
    assert image.argmax() == 10 * 33 + 20
    np.testing.assert_allclose(image[9, 15:26], image[11, 15:26], atol=1e-4 * image.max())
    np.testing.assert_allclose(image[5:16, 19], image[5:16, 21], atol=1e-4 * image.max())


def test_photons_are_conserved() -> None:
    grid = Grid(300, 30.0, integrates=False)
    points = np.random.default_rng(0).uniform(3900, 5100, (40, 2))
    for otf in (confocal_otf(), sted_otf()):
        image = render(points, np.full(40, 25.0), otf=otf, grid=grid)
        assert image.sum() == pytest.approx(1000, rel=2e-3)


def test_a_camera_pixel_is_the_mean_of_the_points_in_it() -> None:
    otf = tirf_otf()
    points = np.random.default_rng(1).uniform(0, 24 * 65.0, (10, 2))
    camera = render(points, np.ones(10), otf=otf, grid=Grid(24, 65.0, integrates=True))
    fine = render(points, np.ones(10), otf=otf, grid=Grid(24 * 9, 65.0 / 9, integrates=False))
    summed = fine.reshape(24, 9, 24, 9).sum(axis=(1, 3))
    np.testing.assert_allclose(camera, summed, atol=1e-3 * camera.max())


def test_what_lies_beyond_the_border_shines_in_but_never_wraps_around() -> None:
    otf, grid = confocal_otf(), Grid(64, 30.0, integrates=False)
    just_outside = np.array([[-60.0, 960.0]])
    image = render(just_outside, np.ones(1), otf=otf, grid=grid)
    assert image[0].max() > 100 * image[-1].max()
    far = -margin_nm(otf) + 30
    image = render(np.array([[far, far]]), np.ones(1), otf=otf, grid=grid)
    peak = 30.0**2 * point_spread(otf, np.zeros(1))[0]
    assert image.max() < 1e-4 * peak


def test_no_emitters_give_darkness() -> None:
    image = render(np.zeros((0, 2)), np.zeros(0), otf=sted_otf(), grid=Grid(20, 30.0, False))
    assert image.shape == (20, 20)
    assert not image.any()
