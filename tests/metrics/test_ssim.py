import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from crosscope.data.errors import ImageError
from crosscope.metrics.ssim import ssim


@pytest.mark.parametrize("data_range", [1.0, 300.0, 65535.0])
@pytest.mark.parametrize("shape", [(64, 64), (11, 40), (33, 12)])
def test_it_equals_scikit_image(shape: tuple[int, int], data_range: float) -> None:
    random = np.random.default_rng(0)
    reference = random.poisson(5.0, shape) * data_range / 20
    image = reference + random.normal(0, data_range / 10, shape)
    expected = structural_similarity(
        image,
        reference,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
    )
    assert ssim(image, reference, data_range=data_range) == pytest.approx(expected, abs=1e-6)


def test_identical_images_have_1() -> None:
    image = np.random.default_rng(0).uniform(size=(20, 20)).astype(np.float32)
    assert ssim(image, image, data_range=1.0) == pytest.approx(1, abs=1e-12)


def test_two_constant_images_by_hand() -> None:
    got = ssim(np.full((11, 11), 3.0), np.full((11, 11), 1.0), data_range=1.0)
    assert got == pytest.approx((2 * 3 + 1e-4) / (9 + 1 + 1e-4))


def test_a_nan_pixel_is_not_hidden() -> None:
    image = np.ones((20, 20))
    image[10, 10] = np.nan
    assert math.isnan(ssim(image, np.ones((20, 20)), data_range=1.0))


def test_a_field_smaller_than_the_window_is_refused_by_its_size() -> None:
    with pytest.raises(ImageError, match="10 x 30 px"):
        ssim(np.ones((10, 30)), np.ones((10, 30)), data_range=1.0)
