import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from crosscope.metrics.ssim import ssim as numpy_ssim
from crosscope.model.losses import (
    adversarial_loss,
    discriminator_loss,
    mse_loss,
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
