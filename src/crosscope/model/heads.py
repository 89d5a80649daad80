"""Features of a frozen generator -> two widths a pixel: how far the target may lie below and above.

    w = floor + softplus(Conv1{LReLU[Conv1{LReLU[Conv1{(features, output)}]}]})

All convolutions are 1 x 1: what a pixel is computed from stays what it was, and so do the tiles'
halos. The generator is not changed, and its output stays the same to the last bit. Pinball loss:
Koenker and Bassett, Econometrica 46, 33 (1978), doi 10.2307/1913643.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crosscope.model.generator import FastGenerator, PaperGenerator, lrelu

HIDDEN = 32
FLOOR = 1e-3  # of a bright structure: no width is 0, so that every error can be covered


class Heads(nn.Module):
    """Two widths for each pixel, scaled as the target; never below `FLOOR`.

    Parameters
    ----------
    channels : int
        Of the generator's features.
    cell_px : int
        Side of what one place of them stands for: 2 where the features have half the resolution.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, channels: int, cell_px: int) -> None:
        super().__init__()
        self.cell_px = cell_px
        seen = channels + cell_px**2
        self.register_buffer("middle", torch.zeros(seen))  # of what it sees, when it was trained
        self.register_buffer("spread", torch.ones(seen))
        self.first = nn.Conv2d(seen, HIDDEN, 1)
        self.second = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.last = nn.Conv2d(HIDDEN, 2 * cell_px**2, 1)

    def gather(
        self, features: Float[Tensor, "b c v u"], output: Float[Tensor, "b 1 y x"]
    ) -> Float[Tensor, "b d v u"]:
        """Return what the convolutions see: the features, and the output's pixels beside them."""
        return torch.cat((features.float(), F.pixel_unshuffle(output, self.cell_px)), dim=1)

    def forward(self, seen: Float[Tensor, "b d v u"]) -> Float[Tensor, "b 2 y x"]:
        x = (seen - self.middle[:, None, None]) / self.spread[:, None, None]
        x = self.last(lrelu(self.second(lrelu(self.first(x)))))  # b 8 y/2 x/2
        return FLOOR + F.softplus(F.pixel_shuffle(x.float(), self.cell_px))


def build_heads(network: str, base: int) -> Heads:
    """Build the heads of the network that a model names: "paper" or "fast"."""
    if network == "paper":
        return Heads(base // 2, 1)
    if network == "fast":
        return Heads(base, 2)
    raise ValueError(f"{network!r} is not a network")


class Bound(nn.Module):
    """A generator's output moved by a multiple of one of the widths: b 1 y x, scaled, as it.

    Parameters
    ----------
    generator : PaperGenerator or FastGenerator
    heads : Heads
    times : float
        Below 0 the width below is taken, else that above.
    """

    def __init__(
        self, generator: PaperGenerator | FastGenerator, heads: Heads, times: float
    ) -> None:
        super().__init__()
        self.stride = generator.stride
        self.generator, self.heads, self.times = generator, heads, times

    def forward(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y x"]:
        features = self.generator.features(x)
        output = self.generator.finish(x, features)
        widths = self.heads(self.heads.gather(features, output))
        side = 0 if self.times < 0 else 1
        return output + self.times * widths[:, side : side + 1]


def pinball(
    target: Float[Tensor, "*shape"], bound: Float[Tensor, "*shape"], quantile: float
) -> Float[Tensor, ""]:
    """Return the loss that is least where the bound is this quantile of the target."""
    above = target - bound
    return torch.maximum(quantile * above, (quantile - 1) * above).mean()
