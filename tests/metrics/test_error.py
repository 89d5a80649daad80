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
