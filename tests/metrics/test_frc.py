from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import fft

import crosscope as cs
from crosscope.metrics.frc import (
    RingCorrelation,
    find_resolution,
    fourier_ring_correlation,
    frc_single,
    local_frc,
    one_seventh,
    three_sigma,
)

REAL = Path(__file__).parents[3] / "shared" / "data" / "pinhole_confocal"
needs_real_images = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")

# --- images whose resolution is known -------------------------------------------------------------


def field(
    shape: tuple[int, int], *, cutoff: float, seed: int = 0, smooth: bool = False
) -> np.ndarray:
    """Structure up to a frequency (cycles per px), mean 1 and deviation 0.25."""
    frequency = np.hypot(fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1]))
    transfer = np.exp(-((frequency / cutoff) ** 2)) if smooth else frequency < cutoff
    spectrum = fft.fft2(np.random.default_rng(seed).normal(size=shape)) * transfer
    spectrum[0, 0] = 0
    structure = fft.ifft2(spectrum).real
    return np.maximum(1 + 0.25 * structure / structure.std(), 0)


def photographs(light: np.ndarray, photons: float, *, seed: int = 0, n: int = 2) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.poisson(photons * light, (n, *light.shape)).astype(np.float64)


def true_resolution(shape: tuple[int, int], cutoff: float, photons: float) -> float:
    """Where S / (S + N) of a smooth field is 1/7, in px per period."""
    frequency = np.hypot(fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1]))
    mean_power = np.exp(-2 * (frequency / cutoff) ** 2).mean()
    # S = (photons / 4)^2 exp(-2 f^2 / c^2) / mean_power and N = photons; S / N = 1/6
    return float(1 / (cutoff * np.sqrt(np.log(6 * photons / 16 / mean_power) / 2)))


# --- two images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (65, 101), (16, 200)])
def test_an_image_agrees_with_itself_everywhere(shape: tuple[int, int]) -> None:
    (image,) = photographs(field(shape, cutoff=0.2), 50.0, n=1)
    curve = fourier_ring_correlation(image, image)
    assert_allclose(curve.correlation, 1, atol=1e-12)
    assert_allclose(curve.error, 0, atol=1e-7)
    resolution = find_resolution(curve)
    assert resolution.period_px is None
    assert "no noise" in str(resolution.reason)


@pytest.mark.parametrize("shape", [(512, 512), (401, 487), (384, 600)])
@pytest.mark.parametrize("cutoff", [0.14, 0.2, 0.33])
def test_a_cut_off_is_found_within_5_percent(shape: tuple[int, int], cutoff: float) -> None:
    first, second = photographs(field(shape, cutoff=cutoff), 200.0)
    curve = fourier_ring_correlation(first, second)
    for threshold in (one_seventh, three_sigma):
        resolution = find_resolution(curve, threshold=threshold)
        assert resolution.period_px == pytest.approx(1 / cutoff, rel=0.05)


@pytest.mark.parametrize("photons", [100.0, 1000.0])
@pytest.mark.parametrize("shape", [(256, 256), (211, 300)])
def test_signal_and_noise_decide_as_theory_says(shape: tuple[int, int], photons: float) -> None:
    truth_px = true_resolution(shape, 0.15, photons)
    found = []
    for seed in range(5):
        light = field(shape, cutoff=0.15, smooth=True, seed=seed)
        curve = fourier_ring_correlation(*photographs(light, photons, seed=seed))
        found.append(find_resolution(curve).period_px)
    assert np.mean(np.array(found, float)) == pytest.approx(truth_px, rel=0.03)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth_px = true_resolution((192, 192), 0.15, 100)
    held = []
    for seed in range(25):
        light = field((192, 192), cutoff=0.15, smooth=True, seed=seed)
        curve = fourier_ring_correlation(*photographs(light, 100.0, seed=seed))
        found = find_resolution(curve, seed=seed)
        assert found.period_px is not None
        assert found.low_px is not None
        assert found.high_px is not None
        assert found.low_px <= found.period_px <= found.high_px
        held.append(found.low_px <= truth_px <= found.high_px)
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize("taper", [1.0, 0.5])
def test_the_errors_and_the_samples_are_those_of_repeats(taper: float) -> None:
    lights = [field((128, 128), cutoff=0.15, smooth=True, seed=seed) for seed in range(60)]
    curves = [
        fourier_ring_correlation(*photographs(light, 100.0, seed=seed), taper=taper)
        for seed, light in enumerate(lights)
    ]
    for rings in (slice(10, 24), slice(24, 38), slice(50, 64)):
        stated, scatter, chance = errors(curves, rings)
        assert stated / scatter == pytest.approx(1.1, abs=0.25)
    assert scatter / chance == pytest.approx(0.9, abs=0.2)  # nothing but noise in the last


def errors(curves: list[RingCorrelation], rings: slice) -> tuple[float, float, float]:
    """The error of the mean over rings: as stated, as it scatters, and of noise alone."""
    count = curves[0].correlation[rings].size
    stated = np.mean([(curve.error[rings] ** 2).sum() for curve in curves])
    scatter = np.std([curve.correlation[rings].mean() for curve in curves])
    chance = (0.5 / curves[0].samples[rings]).sum()
    return float(np.sqrt(stated) / count), float(scatter), float(np.sqrt(chance) / count)


def test_a_plain_loop_over_the_rings_agrees() -> None:
    for shape in ((64, 64), (45, 70)):
        first, second = photographs(field(shape, cutoff=0.2), 50.0)
        curve = fourier_ring_correlation(first, second)
        frequency, correlation = by_loop(first, second)
        assert_allclose(curve.frequency, frequency)
        assert_allclose(curve.correlation, correlation, atol=1e-10)


def by_loop(
    a: np.ndarray, b: np.ndarray, *, leave_out: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The definition, ring by ring; without what is near the y axis beyond a frequency."""
    height, width = a.shape
    # Hann, as wide as the image and a pixel more
    rows, columns = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, n + 1) / (n + 1)) for n in a.shape)
    window = rows[:, None] * columns
    spectra = []
    for image in (a, b):
        mean = (image * window).sum() / window.sum()
        spectra.append(np.fft.fftshift(np.fft.fft2((image - mean) * window)))
    y, x = np.indices(a.shape)
    fy, fx = (y - height // 2) / height, (x - width // 2) / width
    modulus = np.sqrt(fy**2 + fx**2)
    wedge = (modulus > leave_out) & (np.abs(fx) < leave_out)
    frequency, correlation = [], []
    side = min(height, width)
    for k in range(1, side):
        place = modulus * side - k + 1e-9
        ring = (place >= -0.5) & (place < 0.5) & (modulus <= 0.5 + 1e-9) & ~wedge
        if ring.any():
            p, q = (spectrum[ring] for spectrum in spectra)
            norm = np.sqrt((np.abs(p) ** 2).sum() * (np.abs(q) ** 2).sum())
            frequency.append(modulus[ring].mean())
            correlation.append((p * q.conj()).sum().real / norm)
    return np.array(frequency), np.array(correlation)


@settings(max_examples=12, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3), st.booleans())
def test_gain_and_offset_of_either_do_not_matter(gain: float, offset: float, swap: bool) -> None:
    first, second = photographs(field((48, 60), cutoff=0.2), 50.0)
    if swap:
        first, second = second, first
    curve = fourier_ring_correlation(first, second)
    again = fourier_ring_correlation(gain * (first + offset), second)
    assert_allclose(again.correlation, curve.correlation, atol=1e-8)
    assert_allclose(again.error, curve.error, atol=1e-8)
    period_px = find_resolution(curve).period_px
    assert find_resolution(again).period_px == pytest.approx(period_px, rel=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (256, 200)])
def test_unrelated_noise_has_no_resolution(shape: tuple[int, int]) -> None:
    for seed in range(15):
        first, second = np.random.default_rng(seed).normal(size=(2, *shape))
        for threshold in (one_seventh, three_sigma):
            resolution = find_resolution(
                fourier_ring_correlation(first, second), threshold=threshold
            )
            assert resolution.period_px is resolution.low_px is resolution.high_px is None
            assert resolution.reason == "The images are no more alike than unrelated noise."


def test_unrelated_structure_has_no_resolution() -> None:
    first, second = (field((128, 128), cutoff=0.1, seed=seed) for seed in (1, 2))
    assert find_resolution(fourier_ring_correlation(first, second)).period_px is None


def test_a_crossing_is_linear_and_what_rises_again_is_not_followed() -> None:
    frequency = np.linspace(0.01, 0.5, 50)
    correlation = np.clip(1.2 - 4 * frequency, 0, 1)
    correlation[35:] = 0.5
    samples, error = np.full(50, 100.0), np.zeros(50)
    found = find_resolution(RingCorrelation(frequency, correlation, samples, error))
    crossing_px = 4 / (1.2 - 1 / 7)
    assert found.period_px == pytest.approx(crossing_px)
    assert (found.low_px, found.high_px) == pytest.approx((crossing_px, crossing_px))
    correlation[10] = 0.0  # one ring by chance
    dip = find_resolution(RingCorrelation(frequency, correlation, samples, error))
    assert dip.period_px == pytest.approx(crossing_px)
    # above chance in all, but in no ring above its own three sigma
    weak = RingCorrelation(frequency, np.full(50, 0.2), samples, error)
    assert "never rises" in str(find_resolution(weak, threshold=three_sigma).reason)


def test_two_high_rings_after_the_crossing_do_not_hide_it() -> None:
    frequency = np.arange(1, 41) / 80
    correlation = np.where(np.arange(40) < 20, 0.9, 0.0)
    correlation[[23, 24]] = 0.6
    curve = RingCorrelation(frequency, correlation, np.full(40, 200.0), np.full(40, 0.02))
    resolution = find_resolution(curve)
    assert resolution.period_px is not None, resolution.reason
    assert frequency[19] <= 1 / resolution.period_px <= frequency[25]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda image: image[:40], "The images differ in size: 40 x 50 px and 48 x 50 px."),
        (lambda image: np.full_like(image, 3.0), "The first image is constant."),
        (lambda image: np.where(image == image.max(), np.nan, image), "no finite numbers"),
        (lambda image: np.where(image == image.max(), np.inf, image), "no finite numbers"),
        (lambda image: image[:10, :15], "10 x 15 px"),
        (lambda image: image[:0], "0 x 50 px"),
    ],
)
def test_what_cannot_be_measured_says_why(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    first, second = photographs(field((48, 50), cutoff=0.2), 50.0)
    curves = [fourier_ring_correlation(change(first), second)]
    if "differ" not in reason:
        if " px" in reason:
            curves = [fourier_ring_correlation(change(first), change(second))]
        curves.append(frc_single(change(first)))
    for curve in curves:
        assert curve.frequency.size == curve.correlation.size == curve.error.size == 0
        resolution = find_resolution(curve)
        assert resolution.period_px is None
        assert reason.replace("first", "") in str(resolution.reason).replace("first", "").replace(
            "only", ""
        )
    assert np.isfinite(local_frc(change(first), second, block_px=32).period_px.compressed()).all()


# --- one image ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(256, 256), (243, 300)])
@pytest.mark.parametrize("cutoff", [0.09, 0.13])
def test_one_image_tells_what_two_would(shape: tuple[int, int], cutoff: float) -> None:
    single, double = [], []
    for seed in range(4):
        light = field(shape, cutoff=cutoff, smooth=True, seed=seed)
        first, second = photographs(light, 100.0, seed=seed)
        double.append(find_resolution(fourier_ring_correlation(first, second)).period_px)
        single.append(find_resolution(frc_single(first)).period_px)
    truth_px = true_resolution(shape, cutoff, 100)
    assert np.mean(np.array(double, float)) == pytest.approx(truth_px, rel=0.05)
    assert np.mean(np.array(single, float)) == pytest.approx(truth_px, rel=0.1)


def test_the_split_curve_has_no_bias_and_its_stated_error() -> None:
    light = field((128, 128), cutoff=0.12, smooth=True)
    images = photographs(light, 100.0, n=60)
    single = [frc_single(image) for image in images]
    double = [
        fourier_ring_correlation(a, b) for a, b in zip(images[::2], images[1::2], strict=True)
    ]
    n = single[0].frequency.size - 6  # the last rings are partial
    mean = np.mean([curve.correlation for curve in single], axis=0)
    expected = np.mean([curve.correlation for curve in double], axis=0)
    assert_allclose(mean[8:n], expected[8:n], atol=0.1)
    for rings in (slice(8, 20), slice(n - 12, n)):
        stated, scatter, chance = errors(single, rings)
        assert stated / scatter == pytest.approx(1.1, abs=0.25)
    assert scatter / chance == pytest.approx(0.9, abs=0.2)


def test_rows_that_are_correlated_along_themselves_do_not_matter_to_one_image() -> None:
    light = 100 * field((256, 256), cutoff=0.1, smooth=True)
    white = np.random.default_rng(0).normal(0, 10, (256, 257))
    noise = (white[:, 1:] + white[:, :-1]) / np.sqrt(2)
    white_px = find_resolution(frc_single(light + white[:, 1:])).period_px
    assert find_resolution(frc_single(light + noise)).period_px == pytest.approx(white_px, rel=0.1)


def test_noise_alone_has_no_resolution_in_one_image_either() -> None:
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(size=(128, 128))
        assert find_resolution(frc_single(noise)).period_px is None


# --- a map ----------------------------------------------------------------------------------------


def test_a_map_tells_the_sharp_half_from_the_blurred_and_the_empty_third() -> None:
    sharp = field((192, 300), cutoff=0.2, smooth=True)
    blurred = field((192, 300), cutoff=0.08, smooth=True)
    x = np.arange(300)
    light = np.where(x < 100, sharp, np.where(x < 200, blurred, 1.0))
    local = local_frc(*photographs(light, 400.0), block_px=64)
    assert local.reason is None
    assert local.period_px.shape == (local.centre_y_px.size, local.centre_x_px.size)
    assert local.centre_y_px[0] == 31.5
    assert local.centre_y_px[-1] == 191 - 31.5
    assert local.centre_x_px[-1] == 299 - 31.5
    assert not np.isnan(local.period_px.data[~np.ma.getmaskarray(local.period_px)]).any()
    left, middle = (
        local.period_px[:, np.abs(local.centre_x_px - centre) < 17] for centre in (50, 150)
    )
    assert 1.5 * np.median(left.compressed()) < np.median(middle.compressed())
    empty = local.period_px[:, local.centre_x_px > 232]
    assert np.ma.getmaskarray(empty).all()


def test_a_small_field_has_no_map_and_a_nan_masks_its_blocks_only() -> None:
    first, second = photographs(field((128, 128), cutoff=0.15, smooth=True), 400.0)
    assert local_frc(first[:60], second[:60], block_px=64).period_px.size == 0
    assert "60 x 128 px" in str(local_frc(first[:60], second[:60], block_px=64).reason)
    first[3, 3] = np.nan
    mask = np.ma.getmaskarray(local_frc(first, second, block_px=64).period_px)
    assert mask[0, 0]
    assert mask.sum() == 1


# --- real images ----------------------------------------------------------------------------------


def real_pair(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    images = [cs.read_image(REAL / f"FRC_GaAsP_{name}{end}.nd2") for end in ("", "_")]
    assert images[0].pixel_size_nm is not None
    first, second = (image.pixels.astype(np.float64) for image in images)
    return first, second, images[0].pixel_size_nm[0]


@needs_real_images
@pytest.mark.parametrize("name", ["AU20", "AU12", "AU04"])
def test_repeats_of_a_real_confocal_agree_to_170_to_190_nm(name: str) -> None:
    first, second, pixel_nm = real_pair(name)
    found = find_resolution(fourier_ring_correlation(first, second))
    assert found.period_px is not None
    assert 170 < found.period_px * pixel_nm < 190


@needs_real_images
@pytest.mark.parametrize("name", ["AU20", "AU12", "AU04"])
def test_one_real_image_tells_what_two_do_but_for_the_jitter_of_rows(name: str) -> None:
    # Both repeats show the same jitter of the scan's rows: they correlate at low f_x up to the
    # highest f_y. Neighbouring rows don't share it.
    first, second, _ = real_pair(name)
    frequency, correlation = by_loop(first, second, leave_out=0.15)
    whole = fourier_ring_correlation(first, second)
    assert_allclose(frequency, whole.frequency, atol=3e-3)
    double = find_resolution(
        RingCorrelation(frequency, correlation, whole.samples, 0 * whole.error)
    )
    assert double.period_px is not None
    for image in (first, second):
        assert find_resolution(frc_single(image)).period_px == pytest.approx(
            double.period_px, rel=0.2
        )
