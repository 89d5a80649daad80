"""Images and logits -> the terms of the two objectives, one function an equation.

L(G; D) = -log D(G(x)) + lambda MSE(G(x), y) - nu log[(1 + SSIM(G(x), y)) / 2] + mu S(G(x), y)
L(D; G) = -log D(y) - log[1 - D(G(x))]

Wang et al., Nature Methods 16, 103 (2019), doi 10.1038/s41592-018-0239-0. D is the sigmoid of a
logit z, so -log D = softplus(-z) and -log(1 - D) = softplus(z): no logarithm of zero.

S, which is ours, asks for the target's power at every spatial frequency: least squares leave it out
where the source says nothing, and an adversary is slow to put it there.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LEAST = 1e-6  # power of no account: a thousandth of a typical structure


def adversarial_loss(fake: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """-log D(G(x)), from the logits of generated images."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Float[Tensor, "b"], fake: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """-log D(y) - log[1 - D(G(x))], from the logits of real and generated images."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def mse_loss(
    output: Float[Tensor, "b 1 y x"], target: Float[Tensor, "b 1 y x"]
) -> Float[Tensor, ""]:
    """Mean over pixels and images of (output - target)^2."""
    return F.mse_loss(output, target)


def ssim_loss(similarity: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """-log[(1 + SSIM) / 2], from the mean SSIM of a batch: 0 for equal images, log 2 for unrelated.

    The logarithm is not linear: a batch in parts is the mean of their SSIM, not of their losses.
    """
    return -torch.log((1 + similarity) / 2)


def ssim(
    output: Float[Tensor, "b 1 y x"], target: Float[Tensor, "b 1 y x"], *, data_range: float
) -> Float[Tensor, ""]:
    """Mean structural similarity: 11 x 11 Gaussian window, sigma 1.5 px, borders left out.

    Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi 10.1109/TIP.2003.819861.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y, xx, yy, xy = (
        _window_mean(product) for product in (output, target, output**2, target**2, output * target)
    )
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    covariance = xy - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similarity / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean()


def compare_spectra(
    output: Float[Tensor, "b 1 y x"], target: Float[Tensor, "b 1 y x"]
) -> Float[Tensor, "both r"]:
    """Return the power of both in rings of spatial frequency, as means over a batch.

    What `spectrum_loss` is of: the logarithm is not linear, but these are, so that parts of a batch
    are averaged.
    """
    rings = min(output.shape[-2:]) // 2
    return torch.stack([ring_power(image, rings=rings) for image in (output, target)])


def spectrum_loss(powers: Float[Tensor, "both r"]) -> Float[Tensor, ""]:
    """Mean over rings of log^2(P_output / P_target), from what `compare_spectra` gives.

    The target's power is less its noise. That is white, so it is at most what the ring of least
    power has, be it in a corner of the spectrum, and as structures may reach there, half of that is
    taken off. Rings of less than twice the least don't count, nor do the corners and the first two
    rings, whose periods are half as long as the patch and more.
    """
    output, target = powers
    least = target[2:-2].min().clamp(min=LEAST)  # the last are of few frequencies
    seen = target > 2 * least
    seen[:2] = False
    seen[int(len(seen) / 2**0.5) :] = False
    ratio = output[seen].clamp(min=LEAST) / (target[seen] - least / 2)
    return ratio.log().square().sum() / seen.sum().clamp(min=1)


def ring_power(images: Float[Tensor, "b 1 y x"], *, rings: int) -> Float[Tensor, "r"]:
    """Return the mean power in rings of spatial frequency, and in those of the corners.

    So many rings are between none and half a period per pixel, about a 1.4th of what is returned;
    the border is faded out by a Hann window.
    """
    window, mean_of_ring = _rings(*images.shape[-2:], rings, images.device)
    change = images - images.mean(dim=(-2, -1), keepdim=True)
    power = torch.fft.fft2(change * window).abs().square().mean(dim=(0, 1))
    return mean_of_ring @ power.flatten()


@cache
def _rings(
    height: int, width: int, rings: int, device: torch.device
) -> tuple[Float[Tensor, "y x"], Float[Tensor, "r pixels"]]:
    """Return the window, and the matrix that takes the mean of each ring of what it lets through.

    A matrix, for sums at places that are looked up are not of the same bits twice on a GPU.
    """
    sides = (height, width)
    window = torch.outer(*(torch.hann_window(side, periodic=False) for side in sides))
    frequency = torch.hypot(*torch.meshgrid(*map(torch.fft.fftfreq, sides), indexing="ij"))
    ring = (2 * rings * frequency).long().flatten()
    inside = (ring == torch.arange(int(ring.max()) + 1)[:, None]).float()
    mean = inside / inside.sum(dim=1, keepdim=True) / window.square().sum()
    return window.to(device), mean.to(device)


def _window_mean(image: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y-10 x-10"]:
    """Return the mean under the window, as two products of matrices.

    A convolution of one channel is slow: the five with their gradients took a fifth of a step.
    """
    rows, columns = (_band(size, image) for size in image.shape[-2:])
    return rows @ image @ columns.T


def _band(size: int, like: Tensor) -> Float[Tensor, "shorter size"]:
    """Return the matrix that takes the Gaussian mean of every 11 neighbours."""
    middle = torch.arange(5, size - 5, dtype=like.dtype, device=like.device)[:, None]
    distance = torch.arange(size, dtype=like.dtype, device=like.device) - middle
    window = torch.exp(-(distance**2) / (2 * 1.5**2)) * (distance.abs() <= 5)
    return window / window.sum(dim=1, keepdim=True)
