"""Image -> logit: was it taken by the target microscope, or made by the generator?

It sees the image alone, not the source beside it.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Discriminator(nn.Module):
    """The discriminator of the slides: a convolution, five blocks, the mean, two dense layers.

    z_k = LReLU[Conv{LReLU[Conv{z_{k-1}}]}], the second convolution of stride 2.
    The sigmoid is left to the losses, which are exact where log(sigmoid) is not.
    """

    def __init__(self, base: int = 64) -> None:
        super().__init__()
        channels = [base * 2**k for k in range(6)]  # 64 ... 2048
        self.first = nn.Conv2d(1, base, 3, padding=1)
        self.keep = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c in channels[:-1])
        self.halve = nn.ModuleList(
            nn.Conv2d(c, 2 * c, 3, stride=2, padding=1) for c in channels[:-1]
        )
        self.dense = nn.Linear(channels[-1], channels[-1])
        self.last = nn.Linear(channels[-1], 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=(2 / (9 * layer.out_channels)) ** 0.5)
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, y: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b"]:
        z = F.leaky_relu(self.first(y), 0.1)  # b 64 y x
        for keep, halve in zip(self.keep, self.halve, strict=True):
            z = F.leaky_relu(keep(z), 0.1)
            z = F.leaky_relu(halve(z), 0.1)  # b 128 y/2 x/2 ... b 2048 y/32 x/32
        z = F.leaky_relu(self.dense(z.mean(dim=(2, 3))), 0.1)
        logits: Float[Tensor, "b"] = self.last(z)[:, 0].float()
        return logits
