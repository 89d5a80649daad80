import numpy as np
import pytest
from numpy.testing import assert_allclose

from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.metrics.psf import fit_spots


def grid_of_spots(
    fwhm_yx_px: tuple[float, float], *, amplitude: float = 1.0, background: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """400 spots at random sub-pixel places, far from each other, and these places."""
    spacing = 2 * int(np.ceil(1.5 * max(fwhm_yx_px))) + 9
    corner = np.mgrid[:20, :20].reshape(2, -1).T * spacing + spacing // 2
    yx_px = corner + np.random.default_rng(0).uniform(-0.5, 0.5, corner.shape)
    pixel = np.arange(20 * spacing)[:, None]
    y, x = (
        np.exp(-(((pixel - yx_px[:, axis]) * FWHM_PER_SIGMA / fwhm_yx_px[axis]) ** 2) / 2)
        for axis in (0, 1)
    )
    return background + amplitude * y @ x.T, yx_px


def test_noise_free_spots_come_back_exactly() -> None:
    image, yx_px = grid_of_spots((4.5, 3.2), amplitude=200, background=30)
    fits = fit_spots(image, np.rint(yx_px), radius_px=6)
    assert fits.valid.all()
    assert_allclose(fits.yx_px, yx_px, atol=1e-3)
    assert_allclose(fits.fwhm_yx_px, np.broadcast_to((4.5, 3.2), yx_px.shape), rtol=1e-3)
    assert_allclose(fits.fwhm_px, np.sqrt(4.5 * 3.2), rtol=1e-3)
    assert_allclose(fits.amplitude, 200, rtol=1e-3)
    assert_allclose(fits.background, 30, atol=0.1)
    assert_allclose(fits.r2, 1, atol=1e-5)


@pytest.mark.parametrize("fwhm_px", [2.5, 3.7, 9.7])
@pytest.mark.parametrize(("photons", "tolerance"), [(500, 0.01), (50, 0.03)])
def test_the_mean_width_is_right_in_noise(fwhm_px: float, photons: int, tolerance: float) -> None:
    image, yx_px = grid_of_spots((fwhm_px, fwhm_px), amplitude=photons, background=5)
    noisy = np.random.default_rng(1).poisson(image).astype(np.float32)
    fits = fit_spots(noisy, yx_px, radius_px=int(np.ceil(1.5 * fwhm_px)))
    assert fits.valid.mean() > 0.98
    assert np.nanmean(fits.fwhm_px) == pytest.approx(fwhm_px, rel=tolerance)


def test_the_scale_of_the_grey_values_does_not_matter() -> None:
    image, yx_px = grid_of_spots((4.0, 4.0), amplitude=1e-6, background=1e-7)
    assert_allclose(fit_spots(image, yx_px, radius_px=6).fwhm_px, 4, rtol=1e-3)
    assert_allclose(fit_spots(1e12 * image, yx_px, radius_px=6).fwhm_px, 4, rtol=1e-3)


def test_a_start_two_pixels_off_is_no_harm_and_one_further_off_is_a_failure() -> None:
    image, yx_px = grid_of_spots((4.0, 4.0))
    near = fit_spots(image, yx_px + np.array([1.0, -1.0]), radius_px=6)
    assert_allclose(near.yx_px, yx_px, atol=1e-3)
    assert not fit_spots(image, yx_px + np.array([0.0, 3.0]), radius_px=6).valid.any()


def test_what_is_no_spot_is_marked_and_never_faked() -> None:
    image, yx_px = grid_of_spots((4.0, 4.0), background=1)
    noise = np.random.default_rng(2).poisson(20, image.shape).astype(float)
    for nothing in (noise, np.full_like(image, 3.0), 2 - image):
        assert fit_spots(nothing, yx_px, radius_px=6).valid.mean() < 0.05
    fits = fit_spots(np.full_like(image, 3.0), yx_px, radius_px=6)
    assert np.isnan(fits.fwhm_px).all()
    assert np.isnan(fits.amplitude).all()
    assert np.isnan(fits.yx_px).all()


def test_a_wide_blob_and_a_hot_pixel_have_no_width() -> None:
    blob, yx_px = grid_of_spots((30.0, 30.0))
    assert not fit_spots(blob, yx_px, radius_px=6).valid.any()
    hot = np.zeros((41, 41))
    hot[20, 20] = 1000
    assert not fit_spots(hot, np.array([[20.0, 20.0]]), radius_px=6).valid.any()


def test_windows_beyond_the_border_and_nan_pixels_fail_alone() -> None:
    image, yx_px = grid_of_spots((4.0, 4.0))
    image[tuple(np.rint(yx_px[1]).astype(int))] = np.nan
    yx_px[0] = 3.0
    assert not fit_spots(image, yx_px, radius_px=6).valid[:2].any()
    assert fit_spots(image, yx_px, radius_px=6).valid[2:].all()


def test_no_positions_give_no_fits() -> None:
    assert len(fit_spots(np.ones((30, 30)), np.zeros((0, 2)), radius_px=6).fwhm_px) == 0
    assert not fit_spots(np.ones((5, 5)), np.full((1, 2), 2.0), radius_px=6).valid.any()
