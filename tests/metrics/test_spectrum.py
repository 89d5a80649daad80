import numpy as np
import pytest

from crosscope.metrics.spectrum import radial_spectrum


@pytest.mark.parametrize("shape", [(128, 128), (100, 151)])
@pytest.mark.parametrize("pixel_size_nm", [(30.0, 30.0), (60.0, 30.0)])
def test_a_wave_peaks_at_its_frequency(
    shape: tuple[int, int], pixel_size_nm: tuple[float, float]
) -> None:
    x_um = np.arange(shape[1]) * pixel_size_nm[1] / 1000
    wave = np.broadcast_to(100 + np.sin(2 * np.pi * 5.0 * x_um), shape)
    spectrum = radial_spectrum(wave, pixel_size_nm=pixel_size_nm)
    step_per_um = spectrum.frequency_per_um[0]
    assert abs(spectrum.frequency_per_um[spectrum.power.argmax()] - 5.0) <= step_per_um


def test_frequencies_run_from_one_period_across_the_field_to_nyquist() -> None:
    spectrum = radial_spectrum(np.eye(200, 100), pixel_size_nm=(50.0, 50.0))
    np.testing.assert_allclose(spectrum.frequency_per_um[[0, -1]], [1 / 5, 10])
    assert len(spectrum.power) == len(spectrum.frequency_per_um) == 50


def test_white_noise_has_its_variance_everywhere() -> None:
    noise = np.random.default_rng(0).normal(1000, 3, (256, 200))
    power = radial_spectrum(noise, pixel_size_nm=(30.0, 30.0)).power
    np.testing.assert_allclose(power[20:], 9, rtol=0.4)
    assert power[20:].mean() == pytest.approx(9, rel=0.02)


def test_a_level_image_has_no_power() -> None:
    power = radial_spectrum(np.full((64, 64), 7.0), pixel_size_nm=(30.0, 30.0)).power
    np.testing.assert_allclose(power, 0, atol=1e-20)
