import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from crosscope.data.background import measure_background
from crosscope.data.errors import OutputError, PairError, RegistrationError
from crosscope.data.images import Image, write_image
from crosscope.data.landmarks import Landmarks
from crosscope.data.pairs import RawPair, read_pairs
from crosscope.data.registered import (
    RefusedPair,
    RegisteredPair,
    crop_like,
    read_registered,
    record_of,
    write_registered,
)
from crosscope.data.registration.features import measure_finest_period_px
from crosscope.data.registration.fields import OUTLYING
from crosscope.data.registration.folder import register_files
from crosscope.data.registration.pair import register, register_anyway
from crosscope.data.registration.residual import PULL
from crosscope.data.sampling import cut_patches
from crosscope.optics.systems import simulate

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real_images = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")

# --- a microscope that knows the truth ------------------------------------------------------------


def render_beads(
    places_nm: npt.NDArray[Any],
    peaks: npt.NDArray[Any],
    shape: tuple[int, int],
    *,
    fwhm_nm: float,
    pixel_size_nm: float,
) -> npt.NDArray[Any]:
    """Gaussian spots at exact places; pixel centre i lies at (i + 1/2) pixel sizes."""
    y, x = ((np.arange(n) + 0.5) * pixel_size_nm for n in shape)
    sigma_nm = fwhm_nm / 2.3548
    rows = np.exp(-((y - places_nm[:, :1]) ** 2) / (2 * sigma_nm**2))
    columns = np.exp(-((x - places_nm[:, 1:]) ** 2) / (2 * sigma_nm**2))
    return np.einsum("n,ny,nx->yx", peaks, rows, columns, optimize=True)


def as_image(
    light: npt.NDArray[Any], pixel_size_nm: float, name: str, random: np.random.Generator
) -> Image:
    counts = 100 + random.poisson(light + 5.0)
    size = (float(pixel_size_nm), float(pixel_size_nm))
    return Image(counts.astype(np.uint16), "yx", size, name=name, sha256=name)


def make_pair(
    shift_px: Any,
    *,
    side_px: int = 192,
    photons: float = 500.0,
    seed: int = 0,
    turn_deg: float = 0.0,
    scale: float = 1.0,
    source_nm: float = 30.0,
    target_nm: float = 30.0,
    fwhm_nm: tuple[float, float] = (290.0, 110.0),
    unrelated: bool = False,
) -> RawPair:
    """A pair whose source content lies shift_px (target px) below and right of the target's."""
    random = np.random.default_rng(seed)
    shift_nm = np.array(shift_px) * target_nm
    side_nm = side_px * target_nm
    margin_nm = 20 * target_nm + np.abs(shift_nm).max()
    count = round(1.2e-3 * ((side_nm + 2 * margin_nm) / target_nm) ** 2)
    places, elsewhere = random.uniform(-margin_nm, side_nm + margin_nm, (2, count, 2))
    peaks = photons * np.exp(random.normal(0, 0.4, count))
    angle = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = scale * (places - side_nm / 2) @ turn.T + side_nm / 2 + shift_nm
    source_side = round(side_nm / source_nm)
    source = render_beads(
        elsewhere if unrelated else moved,
        peaks,
        (source_side, source_side),
        fwhm_nm=fwhm_nm[0],
        pixel_size_nm=source_nm,
    )
    target = render_beads(
        places, peaks, (side_px, side_px), fwhm_nm=fwhm_nm[1], pixel_size_nm=target_nm
    )
    return RawPair(
        f"beads{seed}",
        as_image(source, source_nm, "source", random),
        as_image(target, target_nm, "target", random),
    )


def swap(pair: RawPair) -> RawPair:
    return replace(pair, source=pair.target, target=pair.source)


# --- translation ----------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.tuples(*[st.floats(-6, 6)] * 2), st.integers(0, 10**6))
def test_a_known_shift_comes_back_at_500_photons(shift_px: tuple[float, float], seed: int) -> None:
    pair = register(make_pair(shift_px, seed=seed))
    assert np.hypot(*np.subtract(pair.shift_px, shift_px)) < 0.05


def test_the_95th_percentile_of_errors_at_50_photons_is_below_an_eighth_of_a_pixel() -> None:
    random = np.random.default_rng(1)
    errors = []
    for seed in range(16):
        shift_px = random.uniform(-6, 6, 2)
        pair = register(make_pair(shift_px, seed=seed, photons=50.0))
        errors.append(np.hypot(*(pair.shift_px - shift_px)))
    assert np.percentile(errors, 95) <= 0.12


def test_a_pair_registered_to_itself_gives_the_identity() -> None:
    image = make_pair((0.0, 0.0)).target
    pair = register(RawPair("self", image, image))
    np.testing.assert_allclose(pair.transform.matrix, np.eye(2, 3), atol=1e-6)
    np.testing.assert_allclose(pair.source.pixels, pair.target.pixels, rtol=1e-4)
    assert pair.residual_px == pytest.approx(0, abs=1e-3)
    assert pair.correlation_before == pytest.approx(1)
    assert pair.correlation_after == pytest.approx(1)


def test_swapping_source_and_target_inverts_the_transform() -> None:
    points = np.array([[10.0, 20.0], [100.0, 150.0]])
    off = []
    for seed in range(5):
        raw = make_pair((3.3, -1.7), seed=seed)
        forth, back = register(raw), register(swap(raw))
        off.append(np.abs(back.to_source(forth.to_source(points)) - points).max())
    assert np.median(off) <= 0.02


@pytest.mark.parametrize(("source_nm", "target_nm"), [(650.0, 325.0), (65.0, 32.5), (40.0, 32.0)])
def test_grids_of_different_pixel_sizes_share_their_corner(
    source_nm: float, target_nm: float
) -> None:
    shift_px = (2.4, -1.3)
    widths = (2.5 * target_nm, 1.3 * target_nm)
    raw = make_pair(shift_px, source_nm=source_nm, target_nm=target_nm, fwhm_nm=widths, seed=2)
    pair = register(raw)
    assert np.hypot(*np.subtract(pair.shift_px, shift_px)) < 0.06
    assert pair.source.pixel_size_nm == pair.target.pixel_size_nm == (target_nm, target_nm)
    assert pair.source_pixel_size_nm == (source_nm, source_nm)
    # a place of the sample, on both raw grids
    place_nm = 50 * target_nm
    on_target = np.full((1, 2), place_nm / target_nm - 0.5)
    on_source = (place_nm + np.array([shift_px]) * target_nm) / source_nm - 0.5
    np.testing.assert_allclose(pair.to_source(on_target), on_source, atol=0.06)


@pytest.mark.parametrize("shift_px", [(50.0, -50.0), (0.4, 70.3)])
def test_large_shifts_are_found(shift_px: tuple[float, float]) -> None:
    pair = register(make_pair(shift_px, side_px=256, photons=100.0))
    assert np.hypot(*np.subtract(pair.shift_px, shift_px)) < 0.1
    assert pair.correlation_before is not None
    assert pair.correlation_after is not None
    assert pair.correlation_after > pair.correlation_before + 0.3


def test_the_target_may_be_a_crop_of_the_source() -> None:
    raw = make_pair((0.0, 0.0), side_px=256)
    part = raw.target.with_pixels(raw.target.pixels[60:220, 40:230])
    pair = register(replace(raw, target=part))
    np.testing.assert_allclose(pair.shift_px, (60, 40), atol=0.05)
    assert pair.target.pixels.shape == (160, 190)
    assert pair.origin_yx_px == (0, 0)


# --- the registered images ------------------------------------------------------------------------


def test_both_images_show_the_same_field_and_the_target_is_only_cropped() -> None:
    raw = make_pair((5.5, -4.25))
    pair = register(raw)
    top, left = pair.origin_yx_px
    height, width = pair.target.pixels.shape
    assert pair.source.pixels.shape == (height, width)
    assert pair.source.pixels.dtype == np.float32
    np.testing.assert_array_equal(
        pair.target.pixels, raw.target.pixels[top : top + height, left : left + width]
    )
    # neither a pixel that was made up nor one too many is lost: 5.5 and 4.25, and the kernel's 2
    assert (height, width) == (192 - 6 - 1, 192 - 5 - 1)
    assert crop_like(raw.target, pair).pixels.tolist() == pair.target.pixels.tolist()


def test_resampling_keeps_intensities_and_does_not_ring() -> None:
    """Beside the truth without noise: what the kernel of Keys does, and what others would do."""
    random = np.random.default_rng(0)
    places = random.uniform(0, 6000, (60, 2))
    peaks = np.full(60, 1000.0)
    shift_px = np.array([0.5, 0.5])
    render = partial(render_beads, shape=(200, 200), fwhm_nm=290.0, pixel_size_nm=30.0)
    target, source = render(places, peaks), render(places + shift_px * 30, peaks)
    images = [
        Image(pixels.astype(np.float32), "yx", (30.0, 30.0), name=name)
        for pixels, name in ((source, "source"), (target, "target"))
    ]
    pair = register(RawPair("noiseless", images[0], images[1]))
    wanted = crop_like(images[1], pair).pixels
    assert np.abs(pair.source.pixels - wanted).max() < 3  # of 1000
    assert pair.source.pixels.sum() == pytest.approx(wanted.sum(), rel=1e-4)
    linear = crop_like(images[1].with_pixels(ndimage.shift(source, -shift_px, order=1)), pair)
    assert np.abs(linear.pixels - wanted).max() > 15


def test_a_hot_pixel_reaches_two_pixels_far_and_no_farther() -> None:
    raw = make_pair((2.5, 1.5), side_px=128)
    hot = raw.source.pixels.copy()
    hot[60, 70] = 30000
    with_hot = register(replace(raw, source=raw.source.with_pixels(hot)))
    y, x = np.nonzero(with_hot.source.pixels > 5000)
    assert np.ptp(y) <= 1
    assert np.ptp(x) <= 1
    clean = register(raw)
    assert clean.origin_yx_px == with_hot.origin_yx_px
    # the displacement itself moves by little, the grey values elsewhere by less than the noise
    far = np.ones(clean.source.pixels.shape, bool)
    far[y.min() - 4 : y.max() + 5, x.min() - 4 : x.max() + 5] = False
    change = np.abs(with_hot.source.pixels - clean.source.pixels)[far]
    assert change.max() < 60


# --- what is left ---------------------------------------------------------------------------------


def test_the_stated_residual_of_a_translation_is_within_a_20th_of_a_pixel_of_the_truth() -> None:
    random = np.random.default_rng(2)
    for seed in range(6):
        shift_px = random.uniform(-6, 6, 2)
        pair = register(make_pair(shift_px, seed=seed))
        true_px = np.hypot(*(pair.shift_px - shift_px))
        assert abs(pair.residual_px - true_px) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_turn_comes_back_and_its_residual_is_honest(seed: int) -> None:
    side_px, turn_deg = 256, 1.0
    pair = register(make_pair((1.0, 2.0), turn_deg=turn_deg, side_px=side_px, seed=seed))
    points = np.indices((side_px, side_px))[:, ::8, ::8].reshape(2, -1).T.astype(float)
    middle, angle = (side_px - 1) / 2, np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    truth = (points - middle) @ turn.T + middle + (1.0, 2.0)
    off_px = np.hypot(*(pair.to_source(points) - truth).T)
    assert np.percentile(off_px, 95) < 0.1
    assert pair.residual_px == pytest.approx(np.sqrt((off_px**2).mean()), abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_stated_residual_of_what_is_not_mended_is_within_30_percent_of_the_truth(
    seed: int,
) -> None:
    side_px, scale = 256, 1.01
    raw = make_pair((0.0, 0.0), side_px=side_px, seed=seed, scale=scale)
    pair = register_anyway(raw, rigid=True)
    y, x = np.indices((side_px, side_px)) - (side_px - 1) / 2
    true_px = (scale - 1) * np.sqrt((y**2 + x**2).mean())
    assert true_px > 1
    assert pair.residual_px == pytest.approx(true_px, rel=0.3)
    assert pair.reason is not None
    with pytest.raises(RegistrationError, match="above the limit"):
        register(raw, rigid=True)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_unrelated_images_are_refused(seed: int) -> None:
    with pytest.raises(RegistrationError, match="don't match"):
        register(make_pair((0.0, 0.0), seed=seed, unrelated=True))


def test_noise_is_refused() -> None:
    random = np.random.default_rng(0)
    images = [as_image(np.full((128, 128), 20.0), 30.0, name, random) for name in "ab"]
    with pytest.raises(RegistrationError, match="don't match"):
        register(RawPair("noise", images[0], images[1]))


def test_constant_images_are_refused() -> None:
    raw = make_pair((0.0, 0.0), side_px=64)
    flat = raw.source.with_pixels(np.full((64, 64), 7, np.uint16))
    for pair in (replace(raw, source=flat), replace(raw, target=flat)):
        with pytest.raises(RegistrationError, match="constant"):
            register(pair)


def test_pixels_without_a_value_are_refused() -> None:
    raw = make_pair((0.0, 0.0), side_px=64)
    pixels = raw.source.pixels.astype(np.float32)
    pixels[3, 3] = np.nan
    with pytest.raises(RegistrationError, match="without a value"):
        register(replace(raw, source=raw.source.with_pixels(pixels)))


def test_a_missing_pixel_size_is_found_by_the_other() -> None:
    raw = make_pair((1.0, -2.0), side_px=256, source_nm=60.0, seed=4)
    blind = replace(raw, source=replace(raw.source, pixel_size_nm=None))
    pair = register(blind)
    assert pair.source_pixel_size_nm == pytest.approx((60.0, 60.0), rel=2e-3)
    assert "magnification was searched, 2.00" in pair.source.assumed[-1]
    points = np.array([[20.0, 30.0], [200.0, 90.0]])
    np.testing.assert_allclose(pair.to_source(points), register(raw).to_source(points), atol=0.05)


def test_without_any_pixel_size_nothing_is_said_in_nm(tmp_path: Path) -> None:
    raw = make_pair((1.0, -2.0), side_px=192, seed=4)
    images = [replace(image, pixel_size_nm=None) for image in (raw.source, raw.target)]
    pair = register(RawPair("blind", images[0], images[1]))
    np.testing.assert_allclose(pair.shift_px, (1.0, -2.0), atol=0.1)
    record = write_registered([pair], tmp_path / "out")["pairs"][0]
    assert record["residual_nm"] is None
    assert record["residual_px"] is not None
    (again,) = read_registered(tmp_path / "out")
    with pytest.raises(PairError, match="without any pixel size"):
        _ = again.pixel_sizes_nm


def test_fields_of_hardly_anything_in_common_are_refused() -> None:
    small = make_pair((0.0, 0.0), side_px=24)
    with pytest.raises(RegistrationError, match="24 x 24 px"):
        register(small)
    with pytest.raises(RegistrationError):
        register(make_pair((0.0, 150.0), side_px=192))


# --- background -----------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.5, 3.0, 40.0])
def test_level_and_noise_are_measured_beside_structures(noise: float) -> None:
    raw = make_pair((0.0, 0.0), photons=1000.0)
    clean = raw.target.pixels * 0.0 + 200.0
    clean[40:60, 40:60] += 1000.0
    random = np.random.default_rng(0)
    background = measure_background(clean + random.normal(0, noise, clean.shape))
    assert background.level == pytest.approx(200, abs=0.5 * noise)
    assert background.noise == pytest.approx(noise, rel=0.05)


# --- folders --------------------------------------------------------------------------------------


# --- what lies otherwise --------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_a_camera_may_be_turned_or_mirrored(quarters: int, mirrored: bool) -> None:
    raw = make_pair((1.5, -2.25), side_px=192, seed=5)
    upright = register(raw)
    pixels = np.rot90(raw.source.pixels, quarters)
    pixels = pixels[:, ::-1] if mirrored else pixels
    turned = register(replace(raw, source=raw.source.with_pixels(np.ascontiguousarray(pixels))))
    # the same target points, seen in the turned image
    y, x = np.indices(raw.source.pixels.shape, dtype=float)
    places = [np.rot90(axis, quarters) for axis in (y, x)]
    places = [axis[:, ::-1] if mirrored else axis for axis in places]
    points = np.array([[40.0, 50.0], [120.0, 60.0], [90.0, 150.0]])
    seen = turned.to_source(points).T
    back = [ndimage.map_coordinates(axis, seen, order=1) for axis in places]
    np.testing.assert_allclose(np.transpose(back), upright.to_source(points), atol=0.05)
    assert record_of(turned)["mirrored"] == mirrored


def bent(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A smooth field of up to 1.5 px, in px."""
    y, x = points.T / 70
    return 1.5 * np.stack([np.sin(y + 1) * np.cos(x), np.cos(y) * np.sin(x - 1)], axis=1)


def make_bent_pair(seed: int, side_px: int = 384) -> RawPair:
    random = np.random.default_rng(seed)
    places = random.uniform(-20, side_px + 20, (round(4e-3 * side_px**2), 2)) * 30.0
    peaks = 500 * np.exp(random.normal(0, 0.4, len(places)))
    render = partial(render_beads, peaks=peaks, shape=(side_px, side_px), pixel_size_nm=30.0)
    moved = places + 30 * bent(places / 30 - 0.5)
    return RawPair(
        "bent",
        as_image(render(moved, fwhm_nm=290.0), 30.0, "source", random),
        as_image(render(places, fwhm_nm=110.0), 30.0, "target", random),
    )


def test_a_bend_comes_back_and_is_written_and_read_again(tmp_path: Path) -> None:
    pair = register(make_bent_pair(1))
    assert pair.transform.bend is not None
    points = np.indices((384, 384))[:, 20:-20:8, 20:-20:8].reshape(2, -1).T.astype(float)
    off_px = np.hypot(*(pair.to_source(points) - points - bent(points)).T)
    assert np.percentile(off_px, 95) < 0.1
    assert pair.residual_px == pytest.approx(np.sqrt((off_px**2).mean()), abs=0.05)
    write_registered([pair], tmp_path / "out")
    (again,) = read_registered(tmp_path / "out")
    np.testing.assert_array_equal(again.to_source(points), pair.to_source(points))
    # rigid, the bend is left, and said to be
    rigid = register_anyway(make_bent_pair(1), rigid=True)
    assert rigid.transform.bend is None
    left_px = np.hypot(*(rigid.to_source(points) - points - bent(points)).T)
    assert rigid.residual_px == pytest.approx(np.sqrt((left_px**2).mean()), rel=0.3)


def test_landmarks_decide_where_the_images_cannot_and_lead_where_they_can() -> None:
    points = np.array([[20.0, 30.0], [150.0, 40.0], [60.0, 170.0], [170.0, 160.0], [90.0, 90.0]])
    raw = make_pair((30.0, -20.0), seed=3)
    led = register(raw, landmarks=Landmarks(np.add(points, (30.6, -19.5)), points))
    assert np.hypot(*np.subtract(led.shift_px, (30.0, -20.0))) < 0.06  # better than the landmarks
    noise = make_pair((0.0, 0.0), seed=3, unrelated=True)
    alone = register(noise, landmarks=Landmarks(np.add(points, (3.0, -2.0)), points))
    np.testing.assert_allclose(alone.to_source(points), np.add(points, (3.0, -2.0)), atol=1e-6)
    assert alone.residual_px == pytest.approx(0.0, abs=1e-6)


def test_the_stated_residual_of_dim_pairs_is_the_true_one_in_the_mean() -> None:
    shift_px = (2.3, -1.4)
    pairs = [register(make_pair(shift_px, photons=20.0, seed=seed)) for seed in range(12)]
    off = [np.hypot(*np.subtract(pair.shift_px, shift_px)) for pair in pairs]
    stated = [pair.residual_px or 0.0 for pair in pairs]
    assert np.mean(np.square(stated)) == pytest.approx(np.mean(np.square(off)), rel=0.6)


def test_the_finest_period_is_where_the_structure_ends_and_not_where_the_images_agree() -> None:
    random = np.random.default_rng(0)
    spectrum = np.fft.rfft2(random.normal(size=(256, 256)))
    spectrum[np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)) > 1 / 8] = 0
    image = np.fft.irfft2(spectrum) + random.normal(0, 0.02, (256, 256))
    assert measure_finest_period_px(image) == pytest.approx(8, rel=0.1)
    # two fields of nuclei: some turn makes the coarse shapes alike
    first, second = simulate("widefield-20x", pairs=2, seed=931, size_px=256)
    with pytest.raises(RegistrationError, match="is above the limit of 0"):
        register(RawPair("unrelated", first.source, second.target))


def test_the_pull_of_cauchys_weight_is_what_normal_noise_makes_it() -> None:
    square = np.random.default_rng(0).chisquare(2, 1_000_000)  # of normal deviations, two axes
    weight = 1 / (1 + square / OUTLYING)
    slope = weight - square / OUTLYING * weight**2  # of weight x deviation, mean of both axes
    assert slope.mean() / weight.mean() == pytest.approx(PULL, abs=0.005)


def test_patches_that_are_not_surely_aligned_are_left_out() -> None:
    pair = register(make_bent_pair(1))
    assert pair.residual_map is not None
    corner = np.multiply(pair.residual_map.corner_yx_px, -1)
    map_ = replace(pair.residual_map, expected_px=np.full((6, 6), 0.01))
    good = cut_patches(
        [replace(pair, residual_map=map_)], patch_px=64, background_share=0.0, seed=0
    )
    assert good.doubtful == 0
    map_.expected_px[:3] = 100.0  # the upper half
    some = cut_patches(
        [replace(pair, residual_map=map_)], patch_px=64, background_share=0.0, seed=0
    )
    assert some.doubtful > 0
    assert len(some.source) < len(good.source)
    lower = pair.target.pixels[int(192 - corner[0]) :].astype(np.float32)
    rows = {
        row.tobytes()
        for row in np.lib.stride_tricks.sliding_window_view(lower, (1, 64)).reshape(-1, 64)
    }
    assert all(patch[0].tobytes() in rows for patch in some.target)
    kept = replace(pair, residual_map=map_, reason="kept by the user")
    assert cut_patches([kept], patch_px=64, background_share=0.0, seed=0).doubtful == 0


@pytest.fixture(scope="module")
def registered() -> RegisteredPair:
    return register(make_pair((1.5, -2.5), side_px=96))


def test_what_is_written_is_read_again(tmp_path: Path, registered: RegisteredPair) -> None:
    refused = RefusedPair("bad", "the images don't match", "12", "34")
    written = write_registered([registered, refused], tmp_path / "out")
    on_disk = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert on_disk == written
    good, bad = written["pairs"]
    assert good["accepted"]
    assert not bad["accepted"]
    assert bad["reason"] == "the images don't match"
    assert bad["residual_px"] is bad["shift_px"] is None
    assert set(bad) <= set(good)
    assert good["shift_px"] == pytest.approx([1.5, -2.5], abs=0.1)
    assert good["residual_nm"] == pytest.approx(30 * good["residual_px"])
    assert (good["rotation_deg"], good["scale"]) == pytest.approx((0, 1))
    (again,) = read_registered(tmp_path / "out")
    for field in ("name", "origin_yx_px", "source_pixel_size_nm", "residual_px", "source_sha256"):
        assert getattr(again, field) == getattr(registered, field), field
    np.testing.assert_array_equal(again.source.pixels, registered.source.pixels)
    np.testing.assert_array_equal(again.target.pixels, registered.target.pixels)
    np.testing.assert_array_equal(again.transform.matrix, registered.transform.matrix)
    assert again.target.pixel_size_nm == registered.target.pixel_size_nm


def test_scale_and_rotation_are_those_of_the_sample_not_of_the_pixels(tmp_path: Path) -> None:
    raw = make_pair((0.7, 0.2), source_nm=60.0, side_px=128)
    record = write_registered([register(raw)], tmp_path / "out")["pairs"][0]
    assert (record["rotation_deg"], record["scale"]) == pytest.approx((0, 1))


def test_in_folders_what_can_be_registered_is_and_the_rest_is_listed(tmp_path: Path) -> None:
    raw = [make_pair((0.0, 1.0), side_px=96, seed=1), make_pair((0.0, 0.0), side_px=24, seed=2)]
    for pair in raw:
        write_image(pair.source, tmp_path / "source" / f"{pair.name}.tif")
        write_image(pair.target, tmp_path / "target" / f"{pair.name}.tif")
    for folder in ("source", "target"):
        (tmp_path / folder / "damaged.tif").write_bytes(folder.encode())
    done = register_files(tmp_path / "source", tmp_path / "target", tmp_path / "out")
    assert {pair["name"]: pair["accepted"] for pair in done.pairs} == {
        "beads1": True,
        "beads2": False,
        "damaged": False,
    }
    assert [file.name for file in (tmp_path / "out" / "source").iterdir()] == ["beads1.tif"]
    assert len(done.failures) == 1
    assert done.exit_code == 2  # for the file that is no image


def test_one_pair_that_cannot_be_registered_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    pair = make_pair((0.0, 0.0), side_px=24)
    write_image(pair.source, tmp_path / "a.tif")
    write_image(pair.target, tmp_path / "b.tif")
    with pytest.raises(RegistrationError):
        register_files(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_where_writing_fails_and_nothing_is_overwritten(
    tmp_path: Path, registered: RegisteredPair
) -> None:
    with pytest.raises(OutputError):
        write_registered([registered, registered], tmp_path / "out")
    assert not list(tmp_path.iterdir())
    write_registered([registered], tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        write_registered([registered], tmp_path / "out")
    write_registered([], tmp_path / "out", overwrite=True)
    assert read_registered(tmp_path / "out") == []


def test_images_aligned_elsewhere_are_read_without_numbers(
    tmp_path: Path, registered: RegisteredPair
) -> None:
    for folder in ("source", "target"):
        image = getattr(registered, folder)
        write_image(image, tmp_path / folder / "cell.tif")
    (pair,) = read_registered(tmp_path)
    np.testing.assert_array_equal(pair.transform.matrix, np.eye(2, 3))
    assert pair.residual_px is pair.correlation_after is None
    assert pair.source_pixel_size_nm == (30.0, 30.0)
    written = write_registered([pair], tmp_path / "out")["pairs"][0]
    assert written["residual_px"] is written["residual_nm"] is None


def test_images_aligned_elsewhere_must_fit(tmp_path: Path, registered: RegisteredPair) -> None:
    write_image(registered.source, tmp_path / "source" / "cell.tif")
    short = registered.target.with_pixels(registered.target.pixels[:50])
    write_image(short, tmp_path / "target" / "cell.tif")
    with pytest.raises(PairError, match="its target"):
        read_registered(tmp_path)
    other = replace(registered.target, pixel_size_nm=(60.0, 60.0))
    write_image(other, tmp_path / "target" / "cell.tif", overwrite=True)
    with pytest.raises(PairError, match="60"):
        read_registered(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pairs": [{"accepted": true}]}', "\x00"])
def test_a_broken_listing_is_named(tmp_path: Path, registered: RegisteredPair, text: str) -> None:
    write_registered([registered], tmp_path / "out")
    (tmp_path / "out" / "pairs.json").write_text(text)
    with pytest.raises(PairError, match=r"pairs\.json: is not a list"):
        read_registered(tmp_path / "out")


def test_a_transform_that_is_no_number_is_named(tmp_path: Path, registered: RegisteredPair) -> None:
    record = write_registered([registered], tmp_path / "out")
    record["pairs"][0]["transform"][0][2] = float("nan")
    (tmp_path / "out" / "pairs.json").write_text(json.dumps(record))
    with pytest.raises(PairError, match=r"pairs\.json: is not a list"):
        read_registered(tmp_path / "out")


def test_a_listing_never_leads_out_of_its_folder(
    tmp_path: Path, registered: RegisteredPair
) -> None:
    record = write_registered([registered], tmp_path / "out")
    record["pairs"][0]["file"] = f"../../{registered.name}.tif"
    (tmp_path / "out" / "pairs.json").write_text(json.dumps(record))
    assert len(read_registered(tmp_path / "out")) == 1


def test_a_folder_of_another_kind_says_how_to_make_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(PairError, match="crosscope register"):
            read_registered(folder)


def test_a_truth_too_small_for_its_pair_is_named(registered: RegisteredPair) -> None:
    small = registered.target.with_pixels(registered.target.pixels[:40, :40])
    with pytest.raises(RegistrationError, match="40 x 40 px"):
        crop_like(small, registered)


# --- real images ----------------------------------------------------------------------------------


@needs_real_images
def test_a_crop_of_real_microtubules_is_found_without_any_size() -> None:
    folder = REAL / "microtubule_widefield_storm"
    (raw,) = read_pairs(folder / "microtubule_widefield.tif", folder / "microtubule_STORM.tif")
    corners = register(raw).to_source(np.array([[-0.5, -0.5], [1279.5, 1279.5]])) + 0.5
    np.testing.assert_allclose(corners, [[50, 48], [306, 304]], atol=1)


@needs_real_images
def test_the_drift_of_a_real_confocal_is_the_same_on_the_way_round_over_its_repeat() -> None:
    ring = ("AU20", "AU04", "AU04_", "AU20_", "AU20")
    point = np.array([[255.5, 255.5]])
    for target, source in pairwise(REAL / "pinhole_confocal" / f"FRC_GaAsP_{n}.nd2" for n in ring):
        (raw,) = read_pairs(source, target)
        point = register(raw).to_source(point)
    np.testing.assert_allclose(point, [[255.5, 255.5]], atol=0.1)
