"""What illumination and camera did to an image is undone; what the sample did stays."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crosscope.data.correction import correct_flat, remove_hot_pixels
from crosscope.data.errors import ImageError
from crosscope.data.images import Image

OFFSET = 100.0


def spots(
    random: np.random.Generator, shape: tuple[int, int], *, fwhm_px: float, peak: float
) -> npt.NDArray[Any]:
    """Gaussian spots at any sub-pixel places, one for about 150 px."""
    places = random.uniform(0, shape, (shape[0] * shape[1] // 150, 2))
    y, x = (np.arange(n) - places[:, i : i + 1] for i, n in enumerate(shape))
    rows, columns = (np.exp(-4 * np.log(2) * d**2 / fwhm_px**2) for d in (y, x))
    peaks = peak * random.lognormal(0, 0.5, len(places))
    return np.einsum("n,ny,nx->yx", peaks, rows, columns)


def vignette(shape: tuple[int, int]) -> npt.NDArray[Any]:
    y, x = (np.linspace(-1, 1, n) for n in shape)
    return 1 - 0.35 * (y[:, None] ** 2 + x**2 + 0.3 * x)


def image(pixels: npt.NDArray[Any], axes: str = "yx", name: str = "image") -> Image:
    return Image(np.asarray(pixels, np.float32), axes, (100.0, 100.0), name=name)


# --- flat field -----------------------------------------------------------------------------------


def test_with_flat_and_dark_the_light_comes_back() -> None:
    random = np.random.default_rng(0)
    light = 20 + spots(random, (96, 128), fwhm_px=4, peak=500)
    lamp = vignette(light.shape)
    dark = image(np.full(light.shape, OFFSET) + random.uniform(0, 5, light.shape), name="dark")
    raw, flat = image(dark.pixels + lamp * light), image(dark.pixels + 3000 * lamp, name="flat")
    corrected = correct_flat(raw, flat, dark=dark)
    assert corrected.pixels.dtype == np.float32
    np.testing.assert_allclose(corrected.pixels, light * lamp.mean(), rtol=1e-3, atol=0.01)
    assert "multiplied pixels by 0.7" in corrected.assumed[-1]


def test_without_a_dark_the_offset_is_not_amplified() -> None:
    random = np.random.default_rng(1)
    light = spots(random, (128, 128), fwhm_px=4, peak=500)
    lamp = vignette(light.shape)
    raw = image(OFFSET + random.poisson(lamp * light) + random.normal(0, 2, light.shape))
    corrected = correct_flat(raw, image(OFFSET + 3000 * lamp))
    # many pixels hold nothing but offset: their level is 0 from the middle to the corner
    empty = np.where(light < 0.5, corrected.pixels, np.nan)
    corner, middle = np.nanmedian(empty[:24, -24:]), np.nanmedian(empty[52:76, 52:76])
    assert abs(corner - middle) < 1.0
    bright = light > 200
    ratio = corrected.pixels[bright] / (light[bright] * lamp.mean())
    assert np.median(ratio) == pytest.approx(1, abs=0.02)
    assert "No dark image was given: 100.1" in corrected.assumed[0]


def test_each_channel_has_its_flat_or_all_have_one() -> None:
    light = np.full((2, 3, 16, 16), 50.0)
    lamps = np.stack([vignette((16, 16)), vignette((16, 16))[::-1, ::-1], np.ones((16, 16))])
    dark = image(np.full((16, 16), OFFSET))
    stack = image(OFFSET + lamps * light, "tcyx")
    corrected = correct_flat(stack, image(OFFSET + 900 * lamps, "cyx"), dark=dark)
    expected = 50 * lamps.mean(axis=(1, 2), keepdims=True) * np.ones_like(light)
    np.testing.assert_allclose(corrected.pixels, expected, rtol=1e-4)
    one = correct_flat(
        image(OFFSET + lamps[0] * light, "tcyx"), image(OFFSET + 9 * lamps[0]), dark=dark
    )
    np.testing.assert_allclose(one.pixels, 50 * lamps[0].mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("flat", "axes", "said"),
    [
        (np.full((8, 9), 900.0), "yx", "y=8 x=9, but image is y=8 x=8"),
        (np.full((3, 8, 8), 900.0), "cyx", "c=3 y=8 x=8"),
        (np.full((8, 8), OFFSET), "yx", "64 of 64 pixels are less than 5%"),
        (np.where(np.eye(8) > 0, OFFSET + 1, 900.0), "yx", "8 of 64 pixels are less than 5%"),
        (np.full((8, 8), 0.0), "yx", "64 of 64"),
        (np.full((8, 8), np.nan), "yx", "64 pixels are NaN"),
    ],
)
def test_a_flat_that_is_none_is_refused(flat: npt.NDArray[Any], axes: str, said: str) -> None:
    raw, dark = image(np.full((8, 8), 500.0)), image(np.full((8, 8), OFFSET))
    with pytest.raises(ImageError, match=said) as caught:
        correct_flat(raw, image(flat, axes, "flat"), dark=dark)
    assert caught.value.where == "flat"
    assert caught.value.remedy


# --- hot pixels -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    fwhm_px=st.floats(2.0, 6.0),
    peak=st.floats(20, 20_000),
    background=st.floats(0.02, 200),
)
def test_points_of_light_stay(seed: int, fwhm_px: float, peak: float, background: float) -> None:
    random = np.random.default_rng(seed)
    light = background + spots(random, (64, 64), fwhm_px=fwhm_px, peak=peak)
    grey = OFFSET + random.poisson(light) + random.normal(0, 1.5, light.shape)
    raw = image(np.clip(np.rint(grey), 0, 65535).astype(np.uint16))
    assert remove_hot_pixels(raw).pixels.tolist() == raw.pixels.tolist()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), light=st.sampled_from([0.001, 0.01, 0.1, 1.0, 10.0, 1000.0]))
def test_photon_noise_is_not_hot(seed: int, light: float) -> None:
    counts = np.random.default_rng(seed).poisson(light, (256, 256)).astype(np.uint16)
    changed = remove_hot_pixels(image(7 * counts)).pixels != 7 * counts
    assert changed.sum() <= 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rise=st.floats(80, 60_000))
@example(seed=65535, rise=80.0)
def test_hot_pixels_go_and_nothing_else_does(seed: int, rise: float) -> None:
    random = np.random.default_rng(seed)
    clean = OFFSET + random.normal(20, 4, (128, 128))
    hot = np.zeros(clean.shape, dtype=bool)
    hot[random.integers(2, 126, 12), random.integers(2, 126, 12)] = True  # none beside the next
    hot[0, 0] = hot[127, 64] = True
    raw = Image(np.where(hot, clean + rise, clean).astype(np.float32), "yx", None)
    mended = remove_hot_pixels(raw)
    assert np.array_equal(mended.pixels != raw.pixels, hot)
    assert np.abs(mended.pixels[hot] - 120).max() < 12
    assert f"{hot.sum()} hot pixels of 16384" in mended.assumed[0]


def test_a_stack_is_mended_plane_by_plane_and_keeps_its_type() -> None:
    random = np.random.default_rng(0)
    pixels = random.poisson(30, (2, 3, 40, 40)).astype(np.uint16)
    pixels[1, 2, 20, 20] = 5000
    mended = remove_hot_pixels(Image(pixels, "tcyx", None))
    assert mended.pixels.dtype == np.uint16
    assert np.argwhere(mended.pixels != pixels).tolist() == [[1, 2, 20, 20]]
    assert pixels[1, 2, 20, 20] == 5000  # what was given stays as it was
    again = remove_hot_pixels(mended)
    assert again is mended


def test_values_that_are_none_are_refused() -> None:
    pixels = np.ones((8, 8), np.float32)
    pixels[2, 3] = np.nan
    with pytest.raises(ImageError, match="1 pixels are NaN"):
        remove_hot_pixels(image(pixels))
