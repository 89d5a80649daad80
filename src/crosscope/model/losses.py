"""Images and logits -> the terms of the two objectives, one function an equation.

L(G; D) = -log D(G(x)) + lambda MSE(G(x), y) - nu log[(1 + SSIM(G(x), y)) / 2]
L(D; G) = -log D(y) - log[1 - D(G(x))]

Wang et al., Nature Methods 16, 103 (2019), doi 10.1038/s41592-018-0239-0. D is the sigmoid of a
logit z, so -log D = softplus(-z) and -log(1 - D) = softplus(z): no logarithm of zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


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
