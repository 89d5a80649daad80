import math

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity

from crosscope.data.errors import ImageError
from crosscope.metrics.ssim import ms_ssim, ssim


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


# --- on a part ------------------------------------------------------------------------------------


def noisy_pair(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = 20 * uniform_filter(random.uniform(size=shape), 4)
    return reference + random.normal(0, 2, shape), reference


def test_a_part_is_the_mean_of_scikit_images_map_there() -> None:
    image, reference = noisy_pair((50, 70))
    inside = reference > np.quantile(reference, 0.8)
    _, similarity = structural_similarity(
        image,
        reference,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=20.0,
        full=True,
    )
    inner = (slice(5, -5), slice(5, -5))
    expected = similarity[inner][inside[inner]].mean()
    assert ssim(image, reference, data_range=20.0, inside=inside) == pytest.approx(expected)


def test_the_parts_average_to_the_whole() -> None:
    image, reference = noisy_pair((40, 50))
    inside = reference > np.quantile(reference, 0.7)
    share = inside[5:-5, 5:-5].mean()
    on, off, whole = (
        ssim(image, reference, data_range=20.0, inside=part)
        for part in (inside, ~inside, np.ones_like(inside))
    )
    assert share * on + (1 - share) * off == pytest.approx(whole)
    assert whole == ssim(image, reference, data_range=20.0)


def test_a_part_that_is_empty_or_lies_in_the_border_has_no_value() -> None:
    image, reference = noisy_pair((40, 50))
    inside = np.zeros(image.shape, dtype=bool)
    assert math.isnan(ssim(image, reference, data_range=20.0, inside=inside))
    inside[:5] = True
    assert math.isnan(ssim(image, reference, data_range=20.0, inside=inside))


def test_two_constant_images_are_alike_on_every_part() -> None:
    inside = np.eye(20, dtype=bool)
    same = np.full((20, 20), 3.0)
    assert ssim(same, same, data_range=1.0, inside=inside) == pytest.approx(1)


def test_a_nan_pixel_counts_only_where_a_window_of_the_part_holds_it() -> None:
    image, reference = noisy_pair((40, 50))
    inside = np.zeros(image.shape, dtype=bool)
    inside[:, :20] = True
    image[20, 25] = np.nan
    assert math.isfinite(ssim(image, reference, data_range=20.0, inside=inside))
    image[20, 24] = np.nan
    assert math.isnan(ssim(image, reference, data_range=20.0, inside=inside))


# --- over five scales -----------------------------------------------------------------------------

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim_by_scikit_image(
    image: np.ndarray, reference: np.ndarray, *, data_range: float
) -> float:
    """Wang's own program (msssim.m), on scikit-image's SSIM maps."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        # so large a K1 makes the luminance term 1
        k1 = 0.01 if scale == 4 else 1e8
        similarity = structural_similarity(
            image, reference, data_range=data_range, K1=k1, **options
        )
        product *= max(similarity, 0) ** weight
        image, reference = (
            uniform_filter(each, 2, origin=-1, mode="reflect")[::2, ::2]
            for each in (image, reference)
        )
    return float(product)


@pytest.mark.parametrize("data_range", [1.0, 20.0, 1000.0])
@pytest.mark.parametrize("shape", [(176, 176), (208, 333), (191, 177)])
def test_ms_ssim_equals_one_made_of_scikit_images(
    shape: tuple[int, int], data_range: float
) -> None:
    image, reference = noisy_pair(shape)
    expected = ms_ssim_by_scikit_image(image, reference, data_range=data_range)
    assert ms_ssim(image, reference, data_range=data_range) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "data_range", "expected"),
    # pytorch-msssim 1.0.0, ms_ssim(image, reference, data_range=...), double precision; its window
    # is in single precision
    [
        ((176, 192), 255.0, 0.9453855427),
        ((176, 192), 60.0, 0.9428558681),
        ((256, 256), 255.0, 0.9456907592),
        ((320, 208), 60.0, 0.9431552399),
    ],
)
def test_ms_ssim_equals_pytorch_msssim(
    shape: tuple[int, int], data_range: float, expected: float
) -> None:
    y, x = np.ogrid[: shape[0], : shape[1]]
    reference = ((y // 7 + x // 11) % 5) * 40.0 + (y * x) % 29
    image = 0.8 * reference + ((7919 * y + 104729 * x + 31 * y * x) % 101) * 0.6 + 5
    assert ms_ssim(image, reference, data_range=data_range) == pytest.approx(expected, abs=2e-7)


def test_ms_ssim_of_identical_images_is_1_and_of_negatives_0() -> None:
    image, reference = noisy_pair((176, 180))
    assert ms_ssim(reference, reference, data_range=20.0) == pytest.approx(1, abs=1e-12)
    assert ms_ssim(20 - image, image, data_range=1.0) == 0


def test_ms_ssim_is_symmetric_and_falls_with_noise() -> None:
    image, reference = noisy_pair((180, 180))
    noisier = reference + 2 * (image - reference)
    scores = [
        ms_ssim(each, reference, data_range=20.0) or 0.0 for each in (reference, image, noisier)
    ]
    assert scores == sorted(scores, reverse=True)
    assert ms_ssim(reference, image, data_range=20.0) == pytest.approx(scores[1], rel=1e-12)


def test_ms_ssim_of_float32_images_is_that_of_double_precision() -> None:
    image, reference = (each.astype(np.float32) for each in noisy_pair((176, 176)))
    expected = ms_ssim(image.astype(np.float64), reference.astype(np.float64), data_range=20.0)
    assert ms_ssim(image, reference, data_range=20.0) == expected


def test_ms_ssim_of_a_field_below_176_px_is_none() -> None:
    assert ms_ssim(np.ones((175, 400)), np.ones((175, 400)), data_range=1.0) is None
    assert ms_ssim(np.ones((176, 176)), np.ones((176, 176)), data_range=1.0) == pytest.approx(1)


def test_ms_ssim_hides_no_nan() -> None:
    image = np.ones((176, 176))
    image[100, 100] = np.nan
    score = ms_ssim(image, np.ones((176, 176)), data_range=1.0)
    assert score is not None
    assert math.isnan(score)
