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


def ssim_loss(
    output: Float[Tensor, "b 1 y x"], target: Float[Tensor, "b 1 y x"], *, data_range: float
) -> Float[Tensor, ""]:
    """-log[(1 + SSIM) / 2]: 0 for equal images, log 2 for unrelated ones."""
    return dissimilarity(ssim(output, target, data_range=data_range))


def dissimilarity(ssim: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """-log[(1 + SSIM) / 2], from the SSIM of a batch, or of a larger one that it is a part of."""
    return -torch.log((1 + ssim) / 2)


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
    distance = torch.arange(-5, 6, dtype=image.dtype, device=image.device)
    window = torch.exp(-(distance**2) / (2 * 1.5**2))
    window = window / window.sum()
    return F.conv2d(F.conv2d(image, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))
