"""A known blur comes back; z is of variance 1 where all is right, and shows what is not."""

import json

import numpy as np
import pytest
from scipy import ndimage

from crosscope.data.errors import PairError
from crosscope.data.images import Image
from crosscope.data.registered import RegisteredPair
from crosscope.data.transforms import IDENTITY
from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.quality.forward import Forward, estimate_forward
from crosscope.quality.reblur import (
    LIMIT,
    Sums,
    add_up,
    fine_share,
    learn_forward,
    make_reblurrer,
)

GAIN, ZERO, BACKGROUND, SIGMA_PX = 3.0, 20.0, 50.0, 4.0


def spots(rng: np.random.Generator, px: int = 320, count: int = 120) -> np.ndarray:
    """Round spots, 1.6 px of standard deviation, about 200 high."""
    image = np.zeros((px, px))
    y, x = rng.integers(0, px, (2, count))
    image[y, x] = rng.uniform(0.5, 1.5, count)
    return 200 * 2 * np.pi * 1.6**2 * ndimage.gaussian_filter(image, 1.6)


def pair_of(sharp: np.ndarray, rng: np.random.Generator) -> RegisteredPair:
    blurred = ndimage.gaussian_filter(sharp, SIGMA_PX, mode="mirror")
    source = rng.poisson(GAIN * blurred + BACKGROUND - 10) + 10.0
    target = rng.poisson(sharp + ZERO).astype(np.float32)
    size = (30.0, 30.0)
    return RegisteredPair(
        name="a",
        source=Image(source.astype(np.float32), "yx", size),
        target=Image(target, "yx", size),
        transform=IDENTITY,
        origin_yx_px=(0, 0),
        source_pixel_size_nm=size,
        residual_px=None,
        correlation_before=None,
        correlation_after=None,
    )


def test_a_source_of_a_wider_blur_is_that_of_a_wider_gaussian(rng: np.random.Generator) -> None:
    sharp = spots(rng)
    pairs = [pair_of(spots(rng), rng) for _ in range(3)]
    forward = estimate_forward(pairs, zoom=1.0)
    usual, wider = (each.apply(sharp + ZERO) for each in (forward, forward.widened(1.2)))
    total = np.hypot(SIGMA_PX, 1.6)  # of the spots in the source
    more = GAIN * ndimage.gaussian_filter(
        sharp, np.sqrt((1.2 * total) ** 2 - 1.6**2), mode="mirror"
    )
    assert np.abs(wider - BACKGROUND - more)[40:-40, 40:-40].max() < 0.02 * more.max()
    assert np.abs(usual - BACKGROUND - more)[40:-40, 40:-40].max() > 0.2 * more.max()


@pytest.fixture(scope="module")
def known() -> tuple[list[np.ndarray], list[RegisteredPair], Forward]:
    rng = np.random.default_rng(3)
    sharp = [spots(rng) for _ in range(3)]
    pairs = [pair_of(image, rng) for image in sharp]
    outputs = [(image + ZERO).astype(np.float32) for image in sharp]
    return sharp, pairs, learn_forward(pairs, outputs, zoom=1.0)


def test_blur_gain_and_levels_come_back(
    known: tuple[list[np.ndarray], list[RegisteredPair], Forward],
) -> None:
    _, _, forward = known
    assert forward.gain == pytest.approx(GAIN, rel=0.05)
    assert forward.background == pytest.approx(BACKGROUND, abs=4)
    frequency = np.linspace(0, 0.5, 65)
    true = np.exp(-2 * (np.pi * SIGMA_PX * frequency) ** 2)
    assert np.abs(np.array(forward.transfer) - true).max() < 0.06
    width = np.hypot(SIGMA_PX, 1.6) * FWHM_PER_SIGMA
    assert forward.source_fwhm_px == pytest.approx(width, rel=0.06)
    assert forward.target_fwhm_px == pytest.approx(1.6 * FWHM_PER_SIGMA, rel=0.06)


def test_z_has_variance_one_where_the_output_is_right(
    known: tuple[list[np.ndarray], list[RegisteredPair], Forward],
) -> None:
    _, _, forward = known
    rng = np.random.default_rng(4)
    sharp = spots(rng)
    pair = pair_of(sharp, rng)
    output = (sharp + ZERO).astype(np.float32)
    reblurrer = make_reblurrer(forward, [pair.source.pixels], [output])
    found = reblurrer.compare(pair.source.pixels, output)
    inner = slice(forward.border, -forward.border)
    sums = add_up(found, inner, inner)
    assert 0.6 < sums.chi_square < 1.6
    assert sums.beyond_share < 2e-3
    assert sums.rsp is not None
    assert sums.rsp > 0.97


@pytest.mark.parametrize("what", ["added", "deleted", "moved"])
def test_what_is_wrong_in_the_output_shows(
    known: tuple[list[np.ndarray], list[RegisteredPair], Forward], what: str
) -> None:
    _, _, forward = known
    rng = np.random.default_rng(5)
    spot = np.zeros((320, 320))
    spot[160, 160] = 2 * np.pi * 1.6**2
    spot = 200 * ndimage.gaussian_filter(spot, 1.6)
    sharp = spots(rng, count=40)
    sharp *= 1 - ndimage.gaussian_filter((spot > 0.01).astype(float), 12) / 0.2 > 0
    true = sharp + (0 if what == "added" else spot)
    pair = pair_of(true, rng)
    wrong = {"added": 0.25 * spot, "deleted": 0 * spot, "moved": np.roll(spot, 4, axis=0)}[what]
    output = (sharp + wrong + ZERO).astype(np.float32)
    reblurrer = make_reblurrer(forward, [pair.source.pixels], [output])
    z = reblurrer.compare(pair.source.pixels, output).z
    at, far = 160 // forward.block_px, 12 // forward.block_px
    near = z[at - far : at + far + 1, at - far : at + far + 1]
    assert np.abs(near).max() > LIMIT
    if what != "moved":
        assert np.sign(near.flat[np.abs(near).argmax()]) == (-1 if what == "added" else 1)


def test_parts_with_their_halo_are_the_whole(
    known: tuple[list[np.ndarray], list[RegisteredPair], Forward],
) -> None:
    sharp, pairs, forward = known
    source, output = pairs[0].source.pixels, (sharp[0] + ZERO).astype(np.float32)
    reblurrer = make_reblurrer(forward, [source], [output])
    halo = reblurrer.halo_px // forward.block_px
    first, last = halo + 2, halo + 40
    part = slice((first - halo) * forward.block_px, (last + halo) * forward.block_px)
    found = reblurrer.compare(source[part], output[part]).z[halo:-halo]
    whole = reblurrer.compare(source, output).z[first:last]
    assert np.abs(found - whole).max() < 0.01  # standard deviations; a map's step is 0.1


def test_the_background_of_dense_fields_is_that_of_their_darkest_places() -> None:
    rng = np.random.default_rng(5)
    sharp = [spots(rng, count=12_000) for _ in range(3)]
    for image in sharp:
        image[200:240, 100:160] *= 0  # in a fortieth nothing is
    pairs = [pair_of(image, rng) for image in sharp]
    haze = [(image + ZERO + 30 * rng.random(image.shape)).astype(np.float32) for image in sharp]
    found = learn_forward(pairs, haze, zoom=1.0)
    assert found.background == pytest.approx(BACKGROUND, abs=8)
    assert found.noise.zero == found.background
    assert found.noise.read_noise == pytest.approx((BACKGROUND - 10) ** 0.5, rel=0.25)


def test_fields_of_other_backgrounds_are_not_dense() -> None:
    rng = np.random.default_rng(6)
    sharp = [spots(rng, count=80) for _ in range(3)]
    found = []
    for more in (0, 60):  # of two in three
        pairs = [pair_of(image, rng) for image in sharp]
        for pair in pairs[1:]:
            pair.source.pixels[:] += more
        found.append(learn_forward(pairs, [image + np.float32(ZERO) for image in sharp], zoom=1.0))
    assert found[0].background == pytest.approx(BACKGROUND, abs=6)
    assert found[1].background == pytest.approx(BACKGROUND + 60, abs=8)


def test_an_empty_target_gives_no_blur() -> None:
    rng = np.random.default_rng(1)
    pair = pair_of(np.zeros((128, 128)), rng)
    with pytest.raises(PairError, match="anything of its target"):
        learn_forward([pair], [np.zeros((128, 128), np.float32)], zoom=1.0)


def test_it_survives_json_and_damage_is_noticed(
    known: tuple[list[np.ndarray], list[RegisteredPair], Forward],
) -> None:
    _, _, forward = known
    value = json.loads(json.dumps(forward.to_json(), allow_nan=False))
    again = Forward.from_json(value)
    assert again.gain == forward.gain
    assert np.allclose(again.transfer, forward.transfer, atol=1e-6)
    for damage in ({"gain": 0.0}, {"transfer": [1.0]}, {"zoom": float("inf")}):
        with pytest.raises(ValueError, match=r"not a number from|damaged"):
            Forward.from_json(value | damage)


def test_white_noise_is_seen_whole_without_resampling_and_less_with() -> None:
    assert fine_share(1.0, 1, registered=False) == pytest.approx(1, rel=0.03)
    assert fine_share(1.0, 2, registered=False) == pytest.approx(1 / 4, rel=0.04)
    assert fine_share(1.0, 2, registered=True) < fine_share(1.0, 2, registered=False)


def test_sums_of_parts_are_those_of_the_whole() -> None:
    first = Sums(2, 28.0, 1.0, 1, 3.0, 4.0, 5.0, 9.0, 6.0, 1.0)
    both = sum([first, first], Sums())
    assert (both.count, both.beyond) == (4, 2)
    assert (both.chi_square, both.chi_square_within) == (14.0, 1.0)
    assert both.rsp == first.rsp
    assert Sums(1, source=1.0, source2=1.0).rsp is None
