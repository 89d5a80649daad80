import itertools
import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from crosscope.metrics.ssim import ssim as numpy_ssim
from crosscope.model.losses import (
    adversarial_loss,
    compare_spectra,
    discriminator_loss,
    mse_loss,
    ring_power,
    spectrum_loss,
    ssim,
    ssim_loss,
)


def test_adversarial_loss_by_hand() -> None:
    # D = 1/2 and D = 3/4: the mean of log 2 and log 4/3
    logits = torch.tensor([0.0, math.log(3)])
    assert float(adversarial_loss(logits)) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_discriminator_loss_by_hand() -> None:
    # D(y) = 3/4, D(G(x)) = 1/5: log 4/3 + log 5/4
    real, fake = torch.tensor([math.log(3)]), torch.tensor([-math.log(4)])
    expected = math.log(4 / 3) + math.log(5 / 4)
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected)


def test_losses_of_logits_are_finite_where_a_sigmoid_is_0() -> None:
    for z in (-1000.0, 1000.0):
        logit = torch.tensor([z], requires_grad=True)
        loss = adversarial_loss(logit) + discriminator_loss(logit, logit)
        loss.backward()  # type: ignore[no-untyped-call]
        assert float(loss.detach()) == pytest.approx(1000 if z > 0 else 2000)
        assert logit.grad is not None
        assert torch.isfinite(logit.grad).all()


def test_mse_by_hand() -> None:
    output, target = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    output[0, 0, 0, 0], target[1, 0, 1, 1] = 4.0, 2.0
    assert float(mse_loss(output, target)) == (16 + 4) / 8


def test_ssim_loss_of_equal_images_is_0() -> None:
    image = torch.rand(2, 1, 16, 16)
    assert float(ssim_loss(ssim(image, image, data_range=1.0))) == pytest.approx(0, abs=1e-6)


def test_ssim_loss_of_constant_images_by_hand() -> None:
    similarity = (2 * 0.3 * 0.1 + 1e-4) / (0.09 + 0.01 + 1e-4)
    output, target = torch.full((1, 1, 11, 11), 0.3), torch.full((1, 1, 11, 11), 0.1)
    loss = ssim_loss(ssim(output, target, data_range=1.0))
    assert float(loss) == pytest.approx(-math.log((1 + similarity) / 2), rel=1e-4)


@pytest.mark.parametrize("data_range", [1.0, 2.0, 255.0])
@pytest.mark.parametrize("shape", [(11, 11), (40, 29)])
def test_ssim_equals_scikit_image_and_our_own(shape: tuple[int, int], data_range: float) -> None:
    random = np.random.default_rng(0)
    target = random.uniform(0, data_range, shape)
    output = target + random.normal(0, data_range / 5, shape)
    got = float(
        ssim(
            torch.from_numpy(output)[None, None],
            torch.from_numpy(target)[None, None],
            data_range=data_range,
        )
    )
    _, whole = structural_similarity(
        output,
        target,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
        full=True,
    )
    assert got == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-7)
    assert got == pytest.approx(numpy_ssim(output, target, data_range=data_range), abs=1e-7)


@pytest.mark.parametrize("height", [1.0, 100.0, 1e4])
def test_the_gradient_is_finite_where_images_are_opposite(height: float) -> None:
    # means equal, so that the two signs don't cancel: SSIM is about -1
    y, x = np.indices((32, 32))
    wave = torch.from_numpy(np.sin(2 * y) * np.sin(2 * x)).float()[None, None]
    target = height * (0.1 + wave)
    output = (height * (0.1 - wave)).requires_grad_()
    loss = ssim_loss(ssim(output, target, data_range=1.0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert loss > math.log(2)
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blurred(image: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """Return white noise's image as a microscope shows it: no power at high frequencies."""
    f = torch.hypot(
        *torch.meshgrid(*(torch.fft.fftfreq(n) for n in image.shape[-2:]), indexing="ij")
    )
    otf = torch.exp(-2 * (math.pi * sigma_px * f) ** 2)
    return torch.fft.ifft2(torch.fft.fft2(image) * otf).real


def test_white_noise_has_its_variance_in_every_ring() -> None:
    power = ring_power(0.3 * noise(400, 1, 32, 32), rings=16)
    assert len(power) == 23  # 16 up to half a period per pixel, and the corners
    assert power[1:].numpy() == pytest.approx(0.09, rel=0.1)


def test_a_wave_is_in_its_ring() -> None:
    _, x = np.indices((64, 64))
    wave = torch.from_numpy(np.cos(2 * np.pi * (12.5 * x) / 64)).float()[None, None]
    power = ring_power(wave, rings=32)
    assert int(power.argmax()) == 12
    assert power[2:9].max() < 1e-3 * power[12]


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_spectrum_is_of_the_power_and_not_of_the_background(level: float) -> None:
    target = blurred(noise(8, 1, 64, 64), 1.0)
    assert float(spectrum_loss(compare_spectra(target + level, target))) < 1e-4
    twice = spectrum_loss(compare_spectra(2 * target, target))
    assert float(twice) == pytest.approx(math.log(4) ** 2, rel=0.01)


@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_a_spectrum_is_off_where_fine_structure_is_too_weak_or_too_strong(strength: float) -> None:
    target = blurred(noise(8, 1, 64, 64), 1.0)
    coarse = blurred(target, 3.0)
    output = (coarse + strength * (target - coarse)).requires_grad_()
    loss = spectrum_loss(compare_spectra(output, target))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss > 0.01
    assert output.grad is not None
    step = 0.1 * loss.detach() / output.grad.square().sum()
    better = output.detach() - step * output.grad
    fine, wanted, mended = (ring_power(i, rings=32)[20] for i in (output.detach(), target, better))
    assert abs(mended / wanted - 1) < abs(fine / wanted - 1)


def test_a_targets_noise_is_not_asked_for() -> None:
    clean = blurred(noise(100, 1, 64, 64), 1.5)
    taken = clean + 0.03 * noise(100, 1, 64, 64, seed=1)
    lowest = ring_power(taken, rings=32).min()
    assert float(lowest) == pytest.approx(0.03**2, rel=0.2)
    assert float(spectrum_loss(compare_spectra(clean, taken))) < 0.02


@pytest.mark.parametrize("size_px", [32, 64])
@pytest.mark.parametrize("seed", range(4))
def test_where_nothing_but_noise_is_there_is_nothing_to_be_right(seed: int, size_px: int) -> None:
    shape = (60, 1, size_px, size_px)
    output = blurred(noise(*shape), 1.5)
    assert float(spectrum_loss(compare_spectra(output, noise(*shape, seed=seed)))) == 0


def test_a_noise_free_target_has_rings_of_no_account() -> None:
    target = blurred(noise(8, 1, 64, 64), 2.0)
    output = target + 1e-3 * noise(8, 1, 64, 64, seed=1)
    assert float(spectrum_loss(compare_spectra(output, target))) < 0.05


def test_spectra_of_parts_are_averaged() -> None:
    output, target = noise(8, 1, 32, 32), noise(8, 1, 32, 32, seed=1)
    parts = [compare_spectra(*both) for both in zip(output.chunk(4), target.chunk(4), strict=True)]
    whole = compare_spectra(output, target)
    assert torch.stack(parts).mean(dim=0).numpy() == pytest.approx(
        whole.numpy(), rel=1e-5, abs=1e-6
    )


def test_a_constant_output_has_a_finite_gradient() -> None:
    target = blurred(noise(4, 1, 64, 64), 1.0)
    for output, wanted in itertools.product(
        (torch.zeros_like(target), target), (target, 0 * target)
    ):
        output = output.clone().requires_grad_()
        loss = spectrum_loss(compare_spectra(output, wanted))
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss)
        assert output.grad is not None
        assert torch.isfinite(output.grad).all()
