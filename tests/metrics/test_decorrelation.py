from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import fft

from crosscope.data.images import read_image
from crosscope.metrics.decorrelation import Decorrelation, measure_decorrelation

REAL = Path(__file__).parents[3] / "shared" / "data" / "pinhole_confocal"
needs_real_images = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")
SHAPES = [(256, 256), (201, 320)]

Transfer = Callable[[np.ndarray], np.ndarray]


def incoherent(v: np.ndarray) -> np.ndarray:
    """Transfer function of a wide-field microscope; v = 1 at its cut-off."""
    v = np.minimum(v, 1)
    return 2 / np.pi * (np.arccos(v) - v * np.sqrt(1 - v**2))


def sharp(v: np.ndarray) -> np.ndarray:
    """Full transfer up to its cut-off, but for a soft edge of a tenth."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(10 * (v - 0.9), 0, 1))


def points(
    transfer: Transfer,
    period_px: float,
    *,
    photons: float,
    seed: int,
    shape: tuple[int, int] = (256, 256),
) -> np.ndarray:
    """Point emitters seen through a transfer function that ends at 1 / period_px, with noise."""
    random = np.random.default_rng(seed)
    sample = np.where(random.random(shape) < 0.01, random.exponential(1, shape), 0)
    v = period_px * np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1]))
    light = fft.irfft2(fft.rfft2(sample) * transfer(v), shape)
    # Lifted, not cut at zero, which would make new frequencies.
    light = (light - light.min()) / np.ptp(light)
    return random.poisson(10 + photons * light).astype(np.float64)


def period_of(result: Decorrelation) -> float:
    assert result.period_px is not None
    assert result.reason is None
    return result.period_px


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("period_px", [2.5, 3.0, 4.0, 6.0, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_cut_off_comes_back(shape: tuple[int, int], period_px: float, seed: int) -> None:
    image = points(sharp, period_px, photons=1000, seed=seed, shape=shape)
    assert period_of(measure_decorrelation(image)) == pytest.approx(period_px, rel=0.1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("period_px", [2.5, 4.0, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fading_transfer_gives_what_theory_says(
    shape: tuple[int, int], period_px: float, seed: int
) -> None:
    # White structure, no noise, finest filter (f^2): d(r) ~ integral of v^2 OTF(v) v dv, over r.
    v = np.linspace(0, 1, 10001)[1:]
    expected = period_px / v[(np.cumsum(v**3 * incoherent(v)) / v).argmax()]
    assert expected == pytest.approx(1.137 * period_px, rel=1e-3)
    image = points(incoherent, period_px, photons=10000, seed=seed, shape=shape)
    assert period_of(measure_decorrelation(image)) == pytest.approx(expected, rel=0.04)


def test_a_fading_transfer_is_told_less_far_the_less_light_there_is() -> None:
    periods = [
        np.mean(
            [
                period_of(measure_decorrelation(points(incoherent, 3, photons=photons, seed=seed)))
                for seed in range(4)
            ]
        )
        for photons in (1000, 200, 100)
    ]
    assert 3 < periods[0] < periods[1] < periods[2] < 4


@pytest.mark.parametrize(("gain", "offset"), [(7.0, 0.0), (1.0, 32768.0), (1e-6, 3.0), (1e12, 0.0)])
def test_gain_and_offset_do_not_matter(gain: float, offset: float) -> None:
    image = points(incoherent, 5, photons=300, seed=0)
    plain, scaled = measure_decorrelation(image), measure_decorrelation(gain * image + offset)
    assert period_of(scaled) == pytest.approx(period_of(plain), rel=1e-6)
    assert scaled.height == pytest.approx(plain.height, rel=1e-6)
    assert scaled.contrast == pytest.approx(plain.contrast, rel=1e-6)


def test_an_image_turned_or_in_single_precision_is_the_same() -> None:
    image = points(incoherent, 5, photons=300, seed=0, shape=(201, 320))
    period_px = period_of(measure_decorrelation(image))
    assert period_of(measure_decorrelation(image.T)) == pytest.approx(period_px, rel=1e-6)
    assert period_of(measure_decorrelation(image.astype(np.float32))) == pytest.approx(
        period_px, rel=1e-6
    )


def test_the_curves_are_those_of_the_definition() -> None:
    """d against masks in the whole plane, one after the other, as the paper writes it."""
    image = points(incoherent, 4, photons=300, seed=0, shape=(64, 101))
    result = measure_decorrelation(image)
    fade = [
        0.5 - 0.5 * np.cos(np.pi * np.clip((np.minimum(i, n - 1 - i) + 0.5) / (n / 8), 0, 1))
        for n in image.shape
        for i in [np.arange(n)]
    ]
    window = np.outer(*fade)
    spectrum = np.fft.fft2((image - np.average(image, weights=window)) * window)
    spectrum[0, 0] = 0
    f = np.maximum(np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(101)), 1e-9)
    phase = np.where(spectrum != 0, spectrum / np.maximum(np.abs(spectrum), 1e-300), 0)
    assert len(result.curves) == 21
    for curve in result.curves[:: len(result.curves) // 4]:
        passed = (1 - np.exp(-2 * (np.pi * curve.sigma_px * f) ** 2)) * spectrum * (f < 0.5)
        for n in (10, 30, 49):
            disc = phase * (f < curve.frequency_per_px[n])
            norm = np.linalg.norm(passed) * np.linalg.norm(disc)
            # Rings of 1 / 808 of the plane; a few frequencies fall on the other side.
            expected = (passed * disc.conj()).sum().real / norm
            assert curve.correlation[n] == pytest.approx(expected, rel=0.02)
        if curve.peak is not None:
            assert curve.height == curve.correlation[curve.peak]
            assert curve.cutoff_per_px == curve.frequency_per_px[curve.peak]


def test_the_result_is_the_farthest_peak() -> None:
    result = measure_decorrelation(points(incoherent, 4, photons=300, seed=0))
    plain, refined = result.curves[0], result.curves[11:]
    best = max([plain, *refined], key=lambda curve: curve.cutoff_per_px)
    assert period_of(result) == 1 / best.cutoff_per_px
    assert result.height == best.height
    assert result.contrast == plain.height
    assert np.isinf(plain.sigma_px)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (64, 64), (101, 64), (256, 256)])
def test_noise_alone_has_no_resolution(shape: tuple[int, int]) -> None:
    for seed in range(10):
        random = np.random.default_rng(seed)
        for noise in (random.normal(0, 1, shape), 1.0 * random.poisson(20, shape)):
            result = measure_decorrelation(noise)
            assert result.period_px is result.height is result.contrast is None
            assert "nothing stands out of the noise" in str(result.reason)
            assert result.curves


def spoilt(value: float) -> np.ndarray:
    image = points(incoherent, 5, photons=300, seed=0)
    image[10, 10] = value
    return image


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((64, 64)), "constant"),
        (np.full((64, 64), 1000.1), "constant"),
        (1e6 + 1e-10 * np.random.default_rng(0).normal(0, 1, (64, 64)), "constant"),
        (np.ones((31, 200)), "31 x 200 px, at least 32 px"),
        (spoilt(np.nan), "not finite"),
        (spoilt(-np.inf), "not finite"),
    ],
)
def test_what_cannot_be_analysed_says_why(image: np.ndarray, reason: str) -> None:
    result = measure_decorrelation(image)
    assert result.period_px is result.height is result.contrast is None
    assert reason in str(result.reason)
    assert result.curves == ()


@needs_real_images
@pytest.mark.parametrize("pinhole", ["AU04", "AU12", "AU20"])
def test_real_exposures_agree_with_each_other_and_nearly_with_ring_correlation(
    pinhole: str,
) -> None:
    # 216, 226 and 243 nm; the ring correlation of two exposures gives 170 to 190 nm. As an OTF that
    # fades makes the one 14 % longer than its cut-off, this is what to expect.
    pytest.importorskip("nd2")
    first, second = (read_image(REAL / f"FRC_GaAsP_{pinhole}{name}.nd2") for name in ("", "_"))
    nm = [
        period_of(measure_decorrelation(image.pixels.astype(np.float64))) * 51.79
        for image in (first, second)
    ]
    assert nm[0] == pytest.approx(nm[1], rel=0.1)
    assert 180 < np.mean(nm) < 1.4 * 180
