"""Source image -> target image: the slides' U-net, and a compact one made for laptops.

Both take and give scaled images of one channel on the target's grid, b 1 y x, sides a multiple of
`stride`. Wang et al., Nature Methods 16, 103 (2019), doi 10.1038/s41592-018-0239-0.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def lrelu(x: Tensor) -> Tensor:
    """max(0, x) - 0.1 max(0, -x)."""
    return F.leaky_relu(x, 0.1)


class PaperGenerator(nn.Module):
    """The generator of the slides: four blocks down, four up; `base` channels after the first.

    down    x_k = x_{k-1} + LReLU[Conv{LReLU[Conv{LReLU[Conv{x_{k-1}}]}]}], then average pooling
    centre  y_0 = LReLU[Conv{x_4}]
    up      y_k = LReLU[Conv{LReLU[Conv{LReLU[Conv{Concat(x_{5-k}, y_{k-1})}]}]}]
    """

    stride = 16

    def __init__(self, base: int = 64) -> None:
        super().__init__()
        c = base
        self.down = nn.ModuleList(
            three_convs(a * c or 1, b * c) for a, b in ((0, 1), (1, 2), (2, 4), (4, 8))
        )
        self.centre = nn.Conv2d(8 * c, 8 * c, 3, padding=1)
        self.up = nn.ModuleList(three_convs(n * c, n * c // 4) for n in (16, 8, 4, 2))
        self.last = nn.Conv2d(c // 2, 1, 3, padding=1)
        for convolution in self.modules():
            if isinstance(convolution, nn.Conv2d):
                std = (2 / (9 * convolution.out_channels)) ** 0.5
                nn.init.trunc_normal_(convolution.weight, std=std)
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def encode(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b c v u"]:
        """Return the bottleneck, y_0."""
        return self._down(x)[0]

    def _down(self, x: Float[Tensor, "b 1 y x"]) -> tuple[Float[Tensor, "b c v u"], list[Tensor]]:
        skips = []
        for block in self.down:
            x = pad_channels(x, block[-2].out_channels) + block(x)  # type: ignore[index]
            skips.append(x)  # b 64 y x, b 128 y/2 x/2, b 256 y/4 x/4, b 512 y/8 x/8
            x = F.avg_pool2d(x, 2)
        return lrelu(self.centre(x)), skips  # b 512 y/16 x/16

    def forward(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y x"]:
        return self.finish(x, self.features(x))

    def features(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b c y x"]:
        """Return what the last layer sees, y_4."""
        y, skips = self._down(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
            y = block(torch.cat((skip, y), dim=1))  # b 256 y/8 x/8 ... b 32 y x
        return y

    def finish(
        self, x: Float[Tensor, "b 1 y x"], features: Float[Tensor, "b c y x"]
    ) -> Float[Tensor, "b 1 y x"]:
        """Return the output, by the input's features."""
        del x  # what another network adds to
        output: Float[Tensor, "b 1 y x"] = self.last(features).float()
        return output


def three_convs(c_in: int, c_out: int) -> nn.Sequential:
    """Build LReLU[Conv{LReLU[Conv{LReLU[Conv{.}]}]}], halfway from c_in to c_out in between."""
    c_mid = (c_in + c_out) // 2
    layers: list[nn.Module] = []
    for a, b in ((c_in, c_mid), (c_mid, c_mid), (c_mid, c_out)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def pad_channels(x: Float[Tensor, "b c y x"], channels: int) -> Float[Tensor, "b d y x"]:
    """Add empty channels, so that a residual sum of unequal blocks is defined."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


class FastGenerator(nn.Module):
    """The same idea at a twentieth of the cost: space to depth, three levels, residual blocks.

    output = x + U(x): the network starts as the identity and adds what the target has more.
    The last sum is taken in float32, whatever precision the convolutions run in: rounding it to
    bfloat16 invented beads.
    """

    stride = 8

    def __init__(self, base: int = 32) -> None:
        super().__init__()
        c = base
        self.first = nn.Conv2d(4, c, 3, padding=1)
        self.down1 = blocks(c)
        self.shrink1 = nn.Conv2d(c, 2 * c, 2, stride=2)
        self.down2 = blocks(2 * c)
        self.shrink2 = nn.Conv2d(2 * c, 4 * c, 2, stride=2)
        self.centre = blocks(4 * c)
        self.grow2 = nn.ConvTranspose2d(4 * c, 2 * c, 2, stride=2)
        self.up2 = blocks(2 * c)
        self.grow1 = nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.up1 = blocks(c)
        self.last = nn.Conv2d(c, 4, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y x"]:
        return self.finish(x, self.features(x))

    def encode(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b c v u"]:
        """Return the bottleneck."""
        x1 = self.down1(self.first(F.pixel_unshuffle(x, 2)))
        deepest: Tensor = self.centre(self.shrink2(self.down2(self.shrink1(x1))))
        return deepest  # b 128 y/8 x/8

    def change(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y x"]:
        """U(x)."""
        return F.pixel_shuffle(self.last(self.features(x)), 2)

    def finish(
        self, x: Float[Tensor, "b 1 y x"], features: Float[Tensor, "b c v u"]
    ) -> Float[Tensor, "b 1 y x"]:
        """Return x + U(x), by the input's features."""
        return x + F.pixel_shuffle(self.last(features), 2).float()

    def features(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b c v u"]:
        """Return what the last layer sees."""
        x1 = self.down1(self.first(F.pixel_unshuffle(x, 2)))  # b 32 y/2 x/2
        x2 = self.down2(self.shrink1(x1))  # b 64 y/4 x/4
        y = self.grow2(self.centre(self.shrink2(x2)))  # b 128 y/8 x/8, back to b 64 y/4 x/4
        y = self.grow1(self.up2(x2 + y))  # b 32 y/2 x/2
        seen: Tensor = self.up1(x1 + y)  # b 32 y/2 x/2
        return seen


class ResidualBlock(nn.Module):
    """x + Conv{LReLU[Conv{LReLU[x]}]}."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(c, c, 3, padding=1)
        self.b = nn.Conv2d(c, c, 3, padding=1)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        # in place where nobody else needs what was there: a fifth of the memory
        change: Tensor = self.b(F.leaky_relu(self.a(lrelu(x)), 0.1, inplace=True))
        return change.add_(x)


def blocks(c: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(c), ResidualBlock(c))


def build_generator(network: str, base: int) -> PaperGenerator | FastGenerator:
    """Build the network that a plan or a model file names: "paper" or "fast"."""
    if network == "paper":
        return PaperGenerator(base)
    if network == "fast":
        return FastGenerator(base)
    raise ValueError(f"{network!r} is not a network")
