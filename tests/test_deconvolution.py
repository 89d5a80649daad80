from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls
from skimage import restoration

from crosscope.data.errors import PairError
from crosscope.deconvolution import (
    FWHM_PER_SIGMA,
    blur,
    estimate_kernel_fwhm,
    gaussian_kernel,
    non_negative_least_squares,
    richardson_lucy,
    wiener,
)


def some_points(size_px: int = 128, margin_px: int = 0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    image = np.zeros((size_px, size_px))
    y, x = random.integers(margin_px, size_px - margin_px, size=(2, size_px // 3))
    image[y, x] = random.lognormal(4, 0.3, len(y))
    return image


def blurred(image: np.ndarray, fwhm_px: float) -> np.ndarray:
    result: np.ndarray = gaussian_filter(image, fwhm_px / FWHM_PER_SIGMA, truncate=6)
    return result


def test_a_kernel_has_sum_1_and_the_width_asked_for() -> None:
    kernel = gaussian_kernel(9.0)
    offset_px = np.arange(len(kernel)) - len(kernel) // 2
    variance = (kernel.sum(axis=0) * offset_px**2).sum()
    assert_allclose(kernel.sum(), 1)
    assert_allclose(FWHM_PER_SIGMA * np.sqrt(variance), 9.0, rtol=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 70), st.integers(20, 70), st.floats(1.5, 9))
def test_blur_is_convolution_with_a_mirrored_border(height: int, width: int, fwhm: float) -> None:
    image = np.random.default_rng(height).uniform(size=(height, width))
    sigma_px = fwhm / FWHM_PER_SIGMA
    expected = gaussian_filter(image, sigma_px, radius=int(np.ceil(4 * sigma_px)))
    # Lengths of large factors are continued before the border is mirrored: exact but for the end.
    inner = (slice(0, -16), slice(0, -16))
    assert_allclose(blur(image, gaussian_kernel(fwhm))[inner], expected[inner], atol=1e-5)


def test_richardson_lucy_equals_scikit_image_away_from_the_border() -> None:
    kernel = gaussian_kernel(6.0)
    image = np.random.default_rng(1).poisson(blurred(some_points(margin_px=35), 6.0)) / 10.0
    expected = restoration.richardson_lucy(image, kernel, num_iter=12, clip=False)
    (estimate,) = richardson_lucy(image, kernel, iterations=[12])
    inner = (slice(25, -25), slice(25, -25))
    assert_allclose(estimate[inner], expected[inner], atol=2e-4 * expected.max())


def test_richardson_lucy_gives_every_count_as_a_run_of_its_own_would() -> None:
    image, kernel = blurred(some_points(), 5.0), gaussian_kernel(5.0)
    together = list(richardson_lucy(image, kernel, iterations=[2, 5, 9]))
    for estimate, count in zip(together, [2, 5, 9], strict=True):
        (alone,) = richardson_lucy(image, kernel, iterations=[count])
        assert_allclose(estimate, alone)


@pytest.mark.parametrize("shape", [(64, 64), (67, 101)])
def test_richardson_lucy_leaves_a_level_image_level_up_to_its_border(
    shape: tuple[int, int],
) -> None:
    image = np.full(shape, 7.0)
    (estimate,) = richardson_lucy(image, gaussian_kernel(9.0), iterations=[50])
    assert_allclose(estimate, 7, rtol=1e-4)


def test_richardson_lucy_keeps_the_light_and_is_never_negative() -> None:
    noisy = np.random.default_rng(2).poisson(blurred(some_points(96), 8.0)).astype(float)
    (estimate,) = richardson_lucy(noisy, gaussian_kernel(8.0), iterations=[100])
    assert estimate.min() >= 0
    assert_allclose(estimate.sum(), noisy.sum(), rtol=1e-3)


def test_richardson_lucy_by_the_blur_between_two_modalities_gives_the_sharper_one() -> None:
    sharp = blurred(some_points(), 4.0)
    image = blurred(sharp, 6.0)
    (estimate,) = richardson_lucy(image, gaussian_kernel(6.0), iterations=[300])
    assert np.abs(estimate - sharp).mean() < 0.15 * np.abs(image - sharp).mean()


def test_richardson_lucy_of_an_empty_image_is_empty() -> None:
    (estimate,) = richardson_lucy(np.zeros((32, 32)), gaussian_kernel(4.0), iterations=[5])
    assert_allclose(estimate, 0, atol=1e-20)


def objective(estimate: np.ndarray, image: np.ndarray, kernel: np.ndarray) -> float:
    return float(((blur(estimate, kernel) - image.astype(np.float64)) ** 2).sum())


@pytest.mark.parametrize("shape", [(12, 10), (16, 15)])
def test_least_squares_reach_the_solution_of_an_exact_solver(shape: tuple[int, int]) -> None:
    random, kernel = np.random.default_rng(0), gaussian_kernel(2.0)
    points = np.zeros(shape)
    points[tuple(random.integers(2, 9, size=(2, 8)))] = 100
    image = blur(points, kernel) + random.normal(0, 2, shape)
    units = np.eye(points.size).reshape(-1, *shape)
    matrix = np.stack([blur(unit, kernel).ravel() for unit in units], axis=1).astype(np.float64)
    expected, residual = nnls(matrix, image.ravel())
    (estimate,) = non_negative_least_squares(image, kernel, iterations=[600])
    assert_allclose(estimate.ravel(), expected, atol=1e-4 * expected.max())
    assert objective(estimate, image, kernel) == pytest.approx(residual**2, rel=1e-5)


def test_least_squares_come_nearer_with_every_iteration_and_sooner_than_plain_steps() -> None:
    kernel = gaussian_kernel(6.0)
    noisy = np.random.default_rng(3).poisson(blurred(some_points(64), 6.0)) - 1.0
    run = non_negative_least_squares(noisy, kernel, iterations=range(1, 201))
    misfits = [objective(estimate, noisy, kernel) for estimate in run]
    assert (np.diff(misfits) <= 1e-6 * misfits[-1]).all()
    plain = np.full(noisy.shape, max(noisy.mean(), 0.0))
    for _ in range(200):
        plain = np.maximum(plain - blur(blur(plain, kernel) - noisy, kernel), 0)
    assert misfits[39] < objective(plain, noisy, kernel)


def test_least_squares_give_every_count_as_a_run_of_its_own_would() -> None:
    image, kernel = blurred(some_points(67), 5.0), gaussian_kernel(5.0)
    together = list(non_negative_least_squares(image, kernel, iterations=[2, 5, 9]))
    for estimate, count in zip(together, [2, 5, 9], strict=True):
        (alone,) = non_negative_least_squares(image, kernel, iterations=[count])
        assert_allclose(estimate, alone)


@pytest.mark.parametrize(("level", "expected"), [(7.0, 7.0), (0.0, 0.0), (-7.0, 0.0)])
def test_least_squares_leave_a_level_and_know_no_negative_one(
    level: float, expected: float
) -> None:
    image = np.full((67, 101), level)
    (estimate,) = non_negative_least_squares(image, gaussian_kernel(9.0), iterations=[50])
    assert_allclose(estimate, expected, rtol=1e-4)


def test_least_squares_keep_the_light_of_what_stands_out_and_add_little_of_the_noise() -> None:
    random, kernel = np.random.default_rng(2), gaussian_kernel(8.0)
    clean = blurred(some_points(96, margin_px=20), 8.0)
    (estimate,) = non_negative_least_squares(clean, kernel, iterations=[100])
    assert estimate.min() >= 0
    assert_allclose(estimate.sum(), clean.sum(), rtol=0.02)
    noisy = clean + random.normal(0, 0.1, clean.shape)
    (estimate,) = non_negative_least_squares(noisy, kernel, iterations=[100])
    assert 0.99 * noisy.sum() < estimate.sum() < 1.1 * noisy.sum()


@pytest.mark.parametrize("method", [richardson_lucy, non_negative_least_squares])
def test_the_length_of_the_rows_does_not_matter(method: Any) -> None:
    # rows are stored with gaps, whose length hangs on that of the rows
    image, kernel = blurred(some_points(64, margin_px=20), 5.0), gaussian_kernel(5.0)
    (whole,) = method(image, kernel, iterations=[5])
    (turned,) = method(image.T.copy(), kernel, iterations=[5])
    assert_allclose(turned.T, whole, atol=1e-5 * whole.max())
    narrow, wide = image[:, :60], np.pad(image[:, :60], [(0, 0), (0, 60)], mode="symmetric")
    (narrow,), (wide,) = (method(each, kernel, iterations=[5]) for each in (narrow, wide))
    assert_allclose(wide[:, :60], narrow, atol=2e-3 * whole.max())


def test_wiener_recovers_a_noise_free_image_and_keeps_its_level() -> None:
    sharp = blurred(some_points(), 6.0) + 3
    estimate = wiener(blur(sharp, gaussian_kernel(4.0)), gaussian_kernel(4.0), noise_to_signal=1e-5)
    assert_allclose(estimate, sharp, atol=0.01 * sharp.max())
    level = wiener(np.full((40, 40), 5.0), gaussian_kernel(4.0), noise_to_signal=0.25)
    assert_allclose(level, 5 / 1.25, rtol=1e-5)


@pytest.mark.parametrize("fwhm_px", [3.0, 9.0, 15.0])
def test_the_blur_between_pairs_is_found_from_any_sample(fwhm_px: float) -> None:
    random = np.random.default_rng(3)
    sources, targets = [], []
    for seed in range(3):
        field = some_points(300, seed=seed)
        field[np.arange(300), (40 * np.sin(np.arange(300) / 30) + 100 * seed).astype(int)] += 100
        sharp = blurred(field, 3.7)
        source = blurred(sharp, fwhm_px)[22:-22, 22:-22]
        sources.append(100 + 2.0 * random.poisson(300 * source / source.max() + 5))
        targets.append(random.poisson(200 * sharp / sharp.max() + 5).astype(float)[22:-22, 22:-22])
    assert estimate_kernel_fwhm(sources, targets) == pytest.approx(fwhm_px, rel=0.03)


def test_pairs_that_show_nothing_have_no_blur_between_them() -> None:
    field, level = some_points(), np.full((128, 128), 0.1)
    for source, target in [(level, field), (field, level), (-field, field)]:
        with pytest.raises(PairError, match="no source shows anything"):
            estimate_kernel_fwhm([source], [target])
