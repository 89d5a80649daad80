import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscope.model.generator import build_generator
from crosscope.model.reach import ROUNDED_TOLERANCE, TOLERANCE, measure_reach

FIELD = np.random.default_rng(0).random((200, 230), dtype=np.float32)


class Stack(nn.Module):
    """Three convolutions of 5, 3 and 1 px: it sees 2 + 1 + 0 px far; `stride` only rounds it."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 5, padding=2), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


class Pooled(nn.Module):
    """A 3 px convolution on cells of 4 px: one whole cell to every side."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.layer(F.avg_pool2d(x, 4)), scale_factor=4)


class FarSighted(nn.Module):
    """41 px to one side only: further than the first guess."""

    stride = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, (1, 42))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(F.pad(x, (41, 0)))
        return output


@pytest.mark.parametrize(
    ("network", "expected_px"), [(Stack(1), 3), (Stack(2), 4), (Pooled(), 4), (FarSighted(), 42)]
)
def test_the_reach_of_a_network_that_can_be_counted(network: nn.Module, expected_px: int) -> None:
    assert measure_reach(network, FIELD).exact_px == expected_px


def test_a_weight_of_zero_counts_too() -> None:
    network = Stack(1)
    for weight in network.parameters():
        nn.init.zeros_(weight)
    assert measure_reach(network, FIELD).exact_px == 3


def roused(name: str, base: int) -> nn.Module:
    """Return a network whose residuals, which begin at zero, are at work."""
    torch.manual_seed(0)
    network = build_generator(name, base)
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.05)
    return network.eval()


@pytest.mark.parametrize(("name", "exact_px"), [("fast", 96), ("paper", 128)])
@pytest.mark.parametrize("base", [2, 4])
def test_the_reach_of_our_networks(name: str, exact_px: int, base: int) -> None:
    assert measure_reach(roused(name, base), FIELD).exact_px == exact_px


@pytest.mark.parametrize("shape", [(200, 230), (31, 500), (8, 8)])
def test_the_halo_leaves_no_more_than_the_tolerance(shape: tuple[int, int]) -> None:
    network = roused("fast", 4)
    field = np.random.default_rng(1).random(shape, dtype=np.float32)
    reach = measure_reach(network, field)
    assert reach.halo_px % 8 == 0
    assert 0 < reach.halo_px < reach.exact_px
    x = torch.from_numpy(np.random.default_rng(2).random((1, 1, 256, 256), dtype=np.float32))
    with torch.no_grad():
        whole = network(x)[..., 104:152, 104:152]
        near, far = 104 - reach.halo_px, 152 + reach.halo_px
        tile = network(x[..., near:far, near:far])
    tile = tile[..., reach.halo_px : -reach.halo_px, reach.halo_px : -reach.halo_px]
    # another place and other pixels than it was measured on: hence not one tolerance but three
    assert (tile - whole).abs().max() <= 3 * TOLERANCE * (whole.max() - whole.min())


def test_the_halo_for_bfloat16_leaves_its_own_tolerance() -> None:
    network = roused("fast", 4)
    reach = measure_reach(network, FIELD)
    assert reach.rounded_px % 8 == 0
    assert 0 < reach.rounded_px < reach.halo_px
    x = torch.from_numpy(np.random.default_rng(3).random((1, 1, 320, 320), dtype=np.float32))
    with torch.no_grad():
        whole = network(x)[..., 128:192, 128:192]
        near, far = 128 - reach.rounded_px, 192 + reach.rounded_px
        tile = network(x[..., near:far, near:far])
    inner = slice(reach.rounded_px, -reach.rounded_px)
    error = (tile[..., inner, inner] - whole).abs().max() / (whole.max() - whole.min())
    assert TOLERANCE < error <= 3 * ROUNDED_TOLERANCE


def test_measuring_changes_no_weight_and_keeps_no_gradient() -> None:
    network = roused("fast", 2)
    before = [weight.clone() for weight in network.parameters()]
    measure_reach(network, FIELD)
    for weight, old in zip(network.parameters(), before, strict=True):
        assert torch.equal(weight, old)
        assert weight.grad is None
