import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.optimize import least_squares

from crosscope.metrics.squirrel import measure_squirrel

FIGURES = ("rsp", "rse", "sigma_px", "gain", "offset", "error_map", "margin_px")


def spots(shape: tuple[int, int] = (96, 96), *, seed: int = 0) -> np.ndarray:
    """A super-resolved image: spots 3.5 px wide at random places, a few of them bright."""
    random = np.random.default_rng(seed)
    sample = np.where(random.random(shape) < 0.01, random.exponential(1000, shape), 0)
    return gaussian_filter(sample, 1.5, mode="reflect")


def coarse(image: np.ndarray, sigma_px: float, *, gain: float = 1, offset: float = 0) -> np.ndarray:
    return gain * gaussian_filter(image, sigma_px, mode="reflect", truncate=8) + offset


@pytest.mark.parametrize("shape", [(96, 96), (81, 130)])
@pytest.mark.parametrize(
    ("sigma_px", "gain", "offset"), [(1.5, 1.0, 0.0), (3.0, 0.2, 300.0), (6.0, 50.0, -7.0)]
)
def test_an_image_explains_its_own_blur(
    shape: tuple[int, int], sigma_px: float, gain: float, offset: float
) -> None:
    image = spots(shape)
    found = measure_squirrel(image, coarse(image, sigma_px, gain=gain, offset=offset))
    assert found.reason is None
    assert found.rsp == pytest.approx(1, abs=1e-6)
    assert found.sigma_px == pytest.approx(sigma_px, rel=1e-3)
    assert found.gain == pytest.approx(gain, rel=1e-3)
    assert found.offset == pytest.approx(offset, abs=0.02 * gain)
    assert found.rse == pytest.approx(0, abs=0.02 * gain)


def test_an_image_as_sharp_as_its_reference_needs_no_blur() -> None:
    image = spots()
    found = measure_squirrel(image, 2 * image + 5)
    assert found.sigma_px == pytest.approx(0, abs=1e-3)
    assert found.rsp == pytest.approx(1, abs=1e-6)
    assert found.margin_px in (0, 1)


@pytest.mark.parametrize("given_px", [None, 3.0])
def test_a_spot_too_many_and_one_too_few_show_at_their_places(given_px: float | None) -> None:
    truth = spots()
    spot = np.zeros_like(truth)
    spot[40, 60] = 1500
    spot = gaussian_filter(spot, 1.5)
    reference = 3 * coarse(truth + spot, 3.0) + 100
    sham = measure_squirrel(truth + spot, reference, sigma_px=given_px)
    lacking = measure_squirrel(truth, reference, sigma_px=given_px)
    excessive = measure_squirrel(truth + 2 * spot, reference, sigma_px=given_px)
    for found, sign in ((lacking, 1), (excessive, -1)):
        assert found.error_map is not None
        assert found.error_map.shape == truth.shape
        place = np.unravel_index((sign * found.error_map).argmax(), truth.shape)
        np.testing.assert_allclose(place, (40, 60), atol=1)
        inner = found.error_map[9:-9, 9:-9]
        assert np.abs(inner).max() == pytest.approx((sign * inner).max())
        assert found.rsp is not None
        assert found.rse is not None
        assert sham.rsp is not None
        assert sham.rse is not None
        assert found.rsp < sham.rsp - 1e-3
        assert found.rse > 100 * sham.rse


@settings(max_examples=10, deadline=None)
@given(st.floats(-3, 6), st.floats(-1000, 1000), st.sampled_from([None, 2.5]))
def test_gain_and_offset_of_the_image_do_not_matter(
    log_gain: float, offset: float, sigma_px: float | None
) -> None:
    image, gain = spots((48, 60)), 10**log_gain
    reference = np.random.default_rng(1).poisson(coarse(image, 2.5) + 5).astype(np.float64)
    plain = measure_squirrel(image, reference, sigma_px=sigma_px)
    scaled = measure_squirrel(gain * image + gain * offset, reference, sigma_px=sigma_px)
    assert scaled.rsp == pytest.approx(plain.rsp, rel=1e-6)
    assert scaled.rse == pytest.approx(plain.rse, rel=1e-6)
    assert scaled.sigma_px == pytest.approx(plain.sigma_px, rel=1e-3)
    assert plain.gain is not None
    assert scaled.gain == pytest.approx(plain.gain / gain, rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_over_gain_offset_and_blur_at_once_agrees(seed: int) -> None:
    image = spots((80, 90), seed=seed)
    random = np.random.default_rng(seed)
    reference = random.poisson(coarse(image, 2.5, gain=2, offset=20)).astype(np.float64)
    image[30:40, 30:40] += 20  # an artefact

    def error(parameters: np.ndarray) -> np.ndarray:
        gain, offset, sigma_px = parameters
        return (reference - coarse(image, sigma_px, gain=gain, offset=offset)).ravel()

    start = np.array([1.0, 0.0, 1.5])
    joint = least_squares(error, start, bounds=([0, -1000, 1], [100, 1000, 10]), x_scale="jac")
    found = measure_squirrel(image, reference)
    assert found.sigma_px == pytest.approx(joint.x[2], rel=1e-3)

    # The same blur, gain and offset anew within the border.
    margin_px = found.margin_px
    assert margin_px is not None
    assert margin_px == np.ceil(3 * joint.x[2])
    inner = np.s_[margin_px:-margin_px, margin_px:-margin_px]
    blurred = coarse(image, joint.x[2])[inner]
    gain, offset = np.polyfit(blurred.ravel(), reference[inner].ravel(), 1)
    assert found.gain == pytest.approx(gain, rel=1e-3)
    assert found.offset == pytest.approx(offset, rel=1e-2)
    rest = reference[inner] - gain * blurred - offset
    assert found.rse == pytest.approx(np.sqrt((rest**2).mean()), rel=1e-4)
    correlation = np.corrcoef(blurred.ravel(), reference[inner].ravel())[0, 1]
    assert found.rsp == pytest.approx(correlation, abs=1e-5)
    assert found.error_map is not None
    np.testing.assert_allclose(found.error_map[inner], rest, atol=0.05)


@pytest.mark.parametrize("sigma_px", [2.0, 4.0])
def test_light_from_beyond_the_border_is_no_error(sigma_px: float) -> None:
    wide = spots((300, 300))
    reference = coarse(wide, sigma_px, gain=3, offset=100)
    field = np.s_[100:196, 100:220]
    found = measure_squirrel(wide[field], reference[field])
    assert found.rsp == pytest.approx(1, abs=1e-3)
    assert found.sigma_px == pytest.approx(sigma_px, rel=0.05)
    assert found.gain == pytest.approx(3, rel=0.03)
    assert found.rse == pytest.approx(0, abs=0.03 * reference[field].std())


def test_a_given_blur_is_kept_and_hides_no_loss_of_sharpness() -> None:
    image = spots()
    reference = coarse(image, 3.0)
    smeared = gaussian_filter(image, 2.0)
    fitted = measure_squirrel(smeared, reference)
    kept = measure_squirrel(smeared, reference, sigma_px=3.0)
    assert kept.sigma_px == 3.0
    assert fitted.sigma_px == pytest.approx(np.sqrt(9 - 4), rel=1e-2)
    assert kept.rsp is not None
    assert fitted.rsp is not None
    assert kept.rsp < 0.99 < fitted.rsp


def test_an_inverted_image_contradicts_its_reference() -> None:
    image = spots()
    found = measure_squirrel(image, -coarse(image, 3.0), sigma_px=3.0)
    assert found.rsp == pytest.approx(-1, abs=1e-6)
    assert found.gain == pytest.approx(-1, rel=1e-3)


def test_an_image_of_something_else_hardly_correlates() -> None:
    found = measure_squirrel(spots(seed=1), coarse(spots(seed=2), 3.0))
    assert found.rsp is not None
    assert abs(found.rsp) < 0.5


def with_nan() -> np.ndarray:
    image = spots()
    image[5, 5] = np.nan
    return image


def at_the_border() -> np.ndarray:
    image = np.zeros((96, 96))
    image[:5] = 1
    return image


@pytest.mark.parametrize(
    ("image", "reference", "reason"),
    [
        (np.full((96, 96), 3.3), spots(), "the image is constant"),
        (spots(), np.zeros((96, 96)), "the reference is constant"),
        (with_nan(), spots(), "the image holds pixels that are not finite"),
        (spots(), with_nan(), "the reference holds pixels that are not finite"),
        (spots(), at_the_border(), "the reference is constant from 12 px within the border on"),
        (np.indices((96, 96)).sum(axis=0) % 2 * 1.0, spots(), "nothing of the image is left"),
    ],
)
@pytest.mark.parametrize("sigma_px", [4.0])
def test_what_cannot_be_compared_says_why(
    image: np.ndarray, reference: np.ndarray, reason: str, sigma_px: float
) -> None:
    found = measure_squirrel(image, reference, sigma_px=sigma_px)
    assert reason in str(found.reason)
    assert all(getattr(found, name) is None for name in FIGURES)
