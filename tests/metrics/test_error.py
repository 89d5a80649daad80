import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

from crosscope.metrics.error import fit_intensity, nrmse, pearson, psnr_db

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.uniform(0, 50, (40, 30))
REFERENCE = IMAGE + RANDOM.normal(0, 4, IMAGE.shape)


def test_psnr_and_nrmse_by_hand() -> None:
    reference = np.zeros((2, 2))
    image = np.array([[3.0, 0.0], [0.0, -3.0]])  # MSE 4.5
    assert psnr_db(image, reference, data_range=30.0) == pytest.approx(10 * math.log10(900 / 4.5))
    assert nrmse(image, reference, data_range=30.0) == pytest.approx(math.sqrt(4.5) / 30)


def test_psnr_equals_scikit_image() -> None:
    expected = peak_signal_noise_ratio(REFERENCE, IMAGE, data_range=80.0)
    assert psnr_db(IMAGE, REFERENCE, data_range=80.0) == pytest.approx(expected)


def test_identical_images_have_infinite_psnr_and_no_error() -> None:
    assert psnr_db(IMAGE, IMAGE, data_range=1.0) == math.inf
    assert nrmse(IMAGE, IMAGE, data_range=1.0) == 0


def test_a_nan_pixel_is_not_hidden() -> None:
    broken = IMAGE.copy()
    broken[3, 4] = np.nan
    assert math.isnan(psnr_db(broken, REFERENCE, data_range=1.0))
    assert math.isnan(nrmse(broken, REFERENCE, data_range=1.0))
    assert math.isnan(pearson(broken, REFERENCE))


@given(st.floats(0.01, 100), st.floats(-1e3, 1e3))
def test_the_fit_undoes_any_gain_and_offset(gain: float, offset: float) -> None:
    fit = fit_intensity((IMAGE - offset) / gain, IMAGE)
    assert fit.gain == pytest.approx(gain, rel=1e-6)
    assert fit.offset == pytest.approx(offset, abs=1e-6 * (1 + abs(offset)))
    np.testing.assert_allclose(fit.apply((IMAGE - offset) / gain), IMAGE, atol=1e-6)


def test_the_fit_is_least_squares() -> None:
    fit = fit_intensity(IMAGE, REFERENCE)
    gain, offset = np.polyfit(IMAGE.ravel(), REFERENCE.ravel(), 1)
    assert (fit.gain, fit.offset) == pytest.approx((gain, offset))


def test_a_constant_image_is_fitted_by_the_mean() -> None:
    fit = fit_intensity(np.full((4, 4), 8.0), np.arange(16.0).reshape(4, 4))
    assert (fit.gain, fit.offset) == (0, 7.5)


def test_float32_images_are_summed_in_double_precision() -> None:
    image = (IMAGE + 60000).astype(np.float32)
    assert fit_intensity(image, 2 * image).gain == pytest.approx(2, rel=1e-6)
    assert pearson(image, 2 * image) == pytest.approx(1, rel=1e-6)


def test_pearson_is_blind_to_scale_and_undefined_for_a_constant_image() -> None:
    assert pearson(IMAGE, 3 * IMAGE + 5) == pytest.approx(1)
    assert pearson(IMAGE, -IMAGE) == pytest.approx(-1)
    expected = np.corrcoef(IMAGE.ravel(), REFERENCE.ravel())[0, 1]
    assert pearson(IMAGE, REFERENCE) == pytest.approx(expected)
    assert math.isnan(pearson(IMAGE, np.ones_like(IMAGE)))


# --- on a part ------------------------------------------------------------------------------------

INSIDE = REFERENCE > 25


def test_a_part_is_measured_as_if_it_were_all() -> None:
    part, reference = IMAGE[INSIDE][None], REFERENCE[INSIDE][None]
    for measure in (psnr_db, nrmse):
        got = measure(IMAGE, REFERENCE, data_range=50.0, inside=INSIDE)
        assert got == pytest.approx(measure(part, reference, data_range=50.0))
    assert pearson(IMAGE, REFERENCE, inside=INSIDE) == pytest.approx(pearson(part, reference))


def test_all_pixels_as_a_part_give_what_no_part_gives() -> None:
    everywhere = np.ones(IMAGE.shape, dtype=bool)
    for measure in (psnr_db, nrmse):
        whole = measure(IMAGE, REFERENCE, data_range=50.0)
        assert measure(IMAGE, REFERENCE, data_range=50.0, inside=everywhere) == whole
    assert pearson(IMAGE, REFERENCE, inside=everywhere) == pearson(IMAGE, REFERENCE)


def test_the_parts_square_errors_add_up() -> None:
    share = INSIDE.mean()
    inside, outside, whole = (
        nrmse(IMAGE, REFERENCE, data_range=50.0, inside=part) ** 2
        for part in (INSIDE, ~INSIDE, None)
    )
    assert share * inside + (1 - share) * outside == pytest.approx(whole)


def test_what_lies_outside_the_part_does_not_matter() -> None:
    broken = np.where(INSIDE, IMAGE, np.nan)
    for measure in (psnr_db, nrmse):
        got = measure(broken, REFERENCE, data_range=50.0, inside=INSIDE)
        assert got == measure(IMAGE, REFERENCE, data_range=50.0, inside=INSIDE)
    assert pearson(broken, REFERENCE, inside=INSIDE) == pearson(IMAGE, REFERENCE, inside=INSIDE)
    assert math.isnan(psnr_db(broken, REFERENCE, data_range=50.0, inside=~INSIDE))


def test_an_empty_part_has_no_value() -> None:
    nowhere = np.zeros(IMAGE.shape, dtype=bool)
    assert math.isnan(psnr_db(IMAGE, REFERENCE, data_range=50.0, inside=nowhere))
    assert math.isnan(nrmse(IMAGE, REFERENCE, data_range=50.0, inside=nowhere))
    assert math.isnan(pearson(IMAGE, REFERENCE, inside=nowhere))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_part_is_identical_to_itself_but_correlates_with_nothing(
    constant: float, dtype: type[np.floating]
) -> None:
    image = np.where(INSIDE, IMAGE, constant).astype(dtype)
    assert psnr_db(image, image, data_range=50.0, inside=~INSIDE) == math.inf
    assert math.isnan(pearson(image, REFERENCE, inside=~INSIDE))
    assert math.isnan(pearson(REFERENCE, image, inside=~INSIDE))
