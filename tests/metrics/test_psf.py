from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose
from scipy.integrate import simpson
from scipy.special import j0

from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.metrics.interval import bootstrap_interval
from crosscope.metrics.psf import fit_spots, half_maximum_widths
from crosscope.metrics.spots import compare_spots, isolated
from crosscope.optics.psf import Otf, fwhm_nm, point_spread, sted_otf, widefield_otf
from crosscope.optics.rendering import Grid, render

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real_images = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")


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


@pytest.mark.parametrize("fwhm_px", [2.5, 3.0, 3.7, 5.5, 7.5, 10.0])
@pytest.mark.parametrize(("photons", "tolerance"), [(500, 0.01), (50, 0.03)])
def test_the_mean_width_is_right_in_noise(fwhm_px: float, photons: int, tolerance: float) -> None:
    image, yx_px = grid_of_spots((fwhm_px, fwhm_px), amplitude=photons, background=10)
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


# --- shapes that are no Gaussians -----------------------------------------------------------------


def otf_of(profile: np.ndarray, radius_nm: np.ndarray, cutoff_per_nm: float) -> Otf:
    k = np.linspace(0, cutoff_per_nm, 1025)
    bessel = j0(2 * np.pi * k[:, None] * radius_nm)
    value = simpson(bessel * profile * radius_nm, x=radius_nm, axis=1)
    return Otf(k, value / value[0])


RADIUS_NM = np.arange(0.0, 3001.0, 2.0)
GAUSSIAN_290 = np.exp(-4 * np.log(2) * (RADIUS_NM / 290) ** 2)
OTFS = {
    "gaussian": otf_of(GAUSSIAN_290, RADIUS_NM, 1 / 60),
    "airy": widefield_otf(na=1.4, emission_nm=670.0),
    "sted": sted_otf(),
    "lorentzian": otf_of(GAUSSIAN_290 / (1 + (2 * RADIUS_NM / 100) ** 2), RADIUS_NM, 1 / 30),
}


def grid_of(
    shape: str, fwhm_px: float, *, integrates: bool = False, n: int = 16, at: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """n x n spots of height 1, of a shape and width known from its profile; see `grid_of_spots`."""
    otf = OTFS[shape]
    pixel_nm = fwhm_nm(otf) / fwhm_px
    spacing = int(np.ceil(6.5 * fwhm_px))
    yx_px = np.mgrid[:n, :n].reshape(2, -1).T * spacing + float(spacing // 2)
    offset_px = np.random.default_rng(0).uniform(-0.5, 0.5, yx_px.shape)
    yx_px += offset_px if at is None else at
    weight = np.full(len(yx_px), 1 / (point_spread(otf, np.zeros(1))[0] * pixel_nm**2))
    grid = Grid(n * spacing, pixel_nm, integrates)
    return render((yx_px + 0.5) * pixel_nm, weight, otf=otf, grid=grid), yx_px


@pytest.mark.parametrize(
    ("shape", "bias"),
    [
        ("gaussian", (0, 0, 0)),
        ("airy", (-4.1, -6.1, -6.4)),
        ("sted", (0.9, 1.8, 2.5)),
        ("lorentzian", (5.2, 12.4, 20.5)),
    ],
)
def test_a_gaussian_fitted_to_another_shape_is_off_as_documented(
    shape: str, bias: tuple[float, float, float]
) -> None:
    image, yx_px = grid_of(shape, 10.0, n=4)
    for radius_px, percent in zip((12, 15, 20), bias, strict=True):
        width_px = fit_spots(image, yx_px, radius_px=radius_px).fwhm_px.mean()
        assert 100 * (width_px / 10 - 1) == pytest.approx(percent, abs=0.3)


@pytest.mark.parametrize("fwhm_px", [3.0, 4.2, 6.5, 10.0])
@pytest.mark.parametrize("shape", OTFS)
def test_the_half_maximum_is_right_for_every_shape(shape: str, fwhm_px: float) -> None:
    image, yx_px = grid_of(shape, fwhm_px, n=10 if fwhm_px > 5 else 15)
    radius_px = round(2.5 * fwhm_px)
    width_px = half_maximum_widths(image, yx_px, radius_px=radius_px)
    assert width_px.mean() == pytest.approx(fwhm_px, rel=0.02)
    random = np.random.default_rng(1)
    for photons, off, scatter in ((500, 0.02, 0.06), (50, 0.05, 0.2)):
        noisy = random.poisson(photons * image + 10).astype(np.float32)
        width_px = half_maximum_widths(noisy, yx_px, radius_px=radius_px)
        assert np.isfinite(width_px).mean() > 0.99
        assert np.nanmean(width_px) == pytest.approx(fwhm_px, rel=off)
        assert np.nanstd(width_px) < scatter * fwhm_px * min(1, 3 / fwhm_px + 0.1)


@pytest.mark.parametrize("shape", OTFS)
def test_a_spot_between_four_pixels_has_a_half_maximum_too(shape: str) -> None:
    image, yx_px = grid_of(shape, 3.0, n=3, at=0.5)
    assert_allclose(half_maximum_widths(image, yx_px, radius_px=8), 3, rtol=0.04)


@pytest.mark.parametrize("radius_px", [8, 10, 12])
def test_the_window_matters_little(radius_px: int) -> None:
    for shape in OTFS:
        image, yx_px = grid_of(shape, 4.0, n=5)
        width_px = half_maximum_widths(image, yx_px, radius_px=radius_px)
        assert_allclose(width_px.mean(), 4, rtol=0.015)


def test_a_pixel_that_integrates_broadens_both_widths() -> None:
    image, yx_px = grid_of("gaussian", 3.0, integrates=True, n=6)
    expected = np.sqrt(3**2 + 8 * np.log(2) / 12)
    assert expected == pytest.approx(1.025 * 3, rel=1e-3)
    assert_allclose(fit_spots(image, yx_px, radius_px=5).fwhm_px, expected, rtol=3e-3)
    assert_allclose(half_maximum_widths(image, yx_px, radius_px=8), expected, rtol=3e-3)


def test_the_half_maximum_of_an_elongated_spot_is_the_mean_of_its_two() -> None:
    image, yx_px = grid_of_spots((6.0, 4.5), amplitude=100, background=10)
    width_px = half_maximum_widths(image, yx_px, radius_px=11)
    assert_allclose(width_px, np.sqrt(6 * 4.5), rtol=1e-3)


def test_the_half_maximum_is_blind_to_scale_offset_slope_and_one_neighbour() -> None:
    image, yx_px = grid_of_spots((4.0, 4.0))
    slope = np.linspace(0, 5, image.shape[1])
    assert_allclose(half_maximum_widths(1e-6 * image, yx_px, radius_px=9), 4, rtol=1e-3)
    assert_allclose(half_maximum_widths(image + 7 + slope, yx_px, radius_px=9), 4, rtol=1e-2)
    beside = np.concatenate([image, np.zeros((12, image.shape[1]))])
    beside[:-12] += 0.5 * np.roll(image, (9, 9), (0, 1))
    assert_allclose(half_maximum_widths(beside, yx_px[:100], radius_px=9), 4, rtol=0.02)


def test_what_has_no_half_maximum_is_nan() -> None:
    image, yx_px = grid_of_spots((4.0, 4.0), background=1)
    noise = np.random.default_rng(2).poisson(20, image.shape).astype(float)
    for nothing in (noise, np.full_like(image, 3.0), 2 - image):
        assert np.isnan(half_maximum_widths(nothing, yx_px, radius_px=6)).mean() > 0.95
    image[tuple(np.rint(yx_px[1]).astype(int))] = np.nan
    yx_px[0] = 3.0
    assert np.isnan(half_maximum_widths(image, yx_px, radius_px=6)[:2]).all()
    assert np.isfinite(half_maximum_widths(image, yx_px, radius_px=6)[2:]).all()
    wide, yx_px = grid_of_spots((8.0, 8.0))
    assert np.isnan(half_maximum_widths(wide, yx_px, radius_px=5)).all()
    assert half_maximum_widths(wide, np.zeros((0, 2)), radius_px=5).shape == (0,)


# --- real beads -----------------------------------------------------------------------------------


def bead_widths(image: np.ndarray, *, fwhm_px: float, radius_px: int) -> tuple[float, float, int]:
    """Return the median fitted and half-maximum width, each in a plausible interval, and n."""
    spots = compare_spots(image, image, fwhm_px=fwhm_px)
    yx_px = spots.reference.yx_px
    bright = spots.reference.amplitude > spots.threshold
    yx_px = yx_px[bright & isolated(yx_px, distance_px=1.4 * radius_px)]
    # Every bead is taken for a witness of its own, though they share the focus.
    fitted = bootstrap_interval(list(fit_spots(image, yx_px, radius_px=radius_px).fwhm_px))
    measured = bootstrap_interval(list(half_maximum_widths(image, yx_px, radius_px=radius_px)))
    assert fitted.n == measured.n
    for width in (fitted, measured):
        assert width.value is not None
        assert width.low is not None
        assert width.high is not None
        assert 0 < width.low <= width.value <= width.high < 1.1 * width.low
    # Airy's pattern more than STED's: a Gaussian makes them narrower than they are.
    assert fitted.value is not None
    assert measured.value is not None
    assert fitted.value < measured.value
    return fitted.value, measured.value, fitted.n


@needs_real_images
def test_four_beads_of_a_stack_in_its_sharpest_plane() -> None:
    stack = tifffile.imread(REAL / "beads_3d" / "Bead_Image1_crop.tif").astype(np.float64)
    sharpest = stack[np.argmax(stack.var(axis=(1, 2)))]
    fitted_px, measured_px, n = bead_widths(sharpest, fwhm_px=10.0, radius_px=18)
    assert n == 4
    assert 22.5 * fitted_px == pytest.approx(190, abs=3)  # nm
    assert 22.5 * measured_px == pytest.approx(205, abs=3)


@needs_real_images
@pytest.mark.parametrize(
    ("colour", "expected_px"), [("green", (3.12, 3.17)), ("red", (3.59, 3.68))]
)
def test_beads_in_two_colours(colour: str, expected_px: tuple[float, float]) -> None:
    path = REAL / "beads_two_colour" / f"channel_align_test_{colour}_bead.ome.tif"
    image = tifffile.imread(path).astype(np.float64)
    fitted_px, measured_px, n = bead_widths(image, fwhm_px=4.0, radius_px=8)
    assert n >= 8
    assert (fitted_px, measured_px) == pytest.approx(expected_px, abs=0.04)
