import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crosscope.model.discriminator import Discriminator
from crosscope.model.generator import (
    FastGenerator,
    PaperGenerator,
    build_generator,
    pad_channels,
    three_convs,
)


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(("base", "expected"), [(64, 22306753), (32, 5578273), (16, 1395361)])
def test_the_paper_generator_has_the_parameters_of_the_slides(base: int, expected: int) -> None:
    assert count(PaperGenerator(base)) == expected


def test_each_block_of_the_paper_generator_has_its_parameters() -> None:
    with torch.device("meta"):
        network = PaperGenerator(64)
    assert [count(block) for block in network.down] == [28064, 249152, 995968, 3982592]
    assert count(network.centre) == 2359808
    assert [count(block) for block in network.up] == [11060736, 2765568, 691584, 172992]
    assert count(network.last) == 289


@pytest.mark.parametrize(("base", "expected"), [(64, 41916865), (32, 10481889)])
def test_the_discriminator_has_the_parameters_of_the_slides(base: int, expected: int) -> None:
    with torch.device("meta"):
        assert count(Discriminator(base)) == expected


def test_the_discriminator_gives_a_logit_an_image_of_any_size() -> None:
    network = Discriminator(2)
    assert network(torch.rand(3, 1, 32, 32)).shape == (3,)
    assert network(torch.rand(2, 1, 64, 96)).dtype == torch.float32


@pytest.mark.parametrize(("name", "stride"), [("paper", 16), ("fast", 8)])
def test_the_output_has_the_size_of_the_input(name: str, stride: int) -> None:
    network = build_generator(name, 4)
    assert network.stride == stride
    for height, width in ((stride, stride), (3 * stride, 5 * stride)):
        assert network(torch.rand(2, 1, height, width)).shape == (2, 1, height, width)


def test_channels_of_a_block_go_halfway_in_between() -> None:
    convolutions = [layer for layer in three_convs(64, 128) if isinstance(layer, nn.Conv2d)]
    sizes = [(layer.in_channels, layer.out_channels) for layer in convolutions]
    assert sizes == [(64, 96), (96, 96), (96, 128)]


def test_added_channels_are_empty_and_come_last() -> None:
    x = torch.rand(2, 3, 4, 5)
    padded = pad_channels(x, 7)
    assert torch.equal(padded[:, :3], x)
    assert not padded[:, 3:].any()
    assert padded.shape == (2, 7, 4, 5)


def convolve_by_hand(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Sum over channels and the 3 x 3 neighbours, zeros beyond the border."""
    c, height, width = x.shape
    padded = np.zeros((c, height + 2, width + 2))
    padded[:, 1:-1, 1:-1] = x
    result = np.tile(bias[:, None, None], (1, height, width)).astype(float)
    for i in range(3):
        for j in range(3):
            part = padded[:, i : i + height, j : j + width]
            result += np.einsum("oc,cyx->oyx", weight[:, :, i, j], part)
    return result


def test_a_paper_down_block_is_its_equation() -> None:
    network = PaperGenerator(4)
    caught: list[torch.Tensor] = []
    network.down[1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    network.down[2].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        network(torch.rand(1, 1, 16, 32))
    x, after = (tensor[0].double().numpy() for tensor in caught)
    z = x
    for layer in network.down[1].children():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            z = convolve_by_hand(z, weight, bias)
            z = np.maximum(0, z) - 0.1 * np.maximum(0, -z)
    z[: len(x)] += x
    pooled = (z[:, ::2, ::2] + z[:, 1::2, ::2] + z[:, ::2, 1::2] + z[:, 1::2, 1::2]) / 4
    assert after == pytest.approx(pooled, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("network", [PaperGenerator(8), Discriminator(8)])
def test_convolutions_begin_at_the_stated_width(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 20000:
            expected = (2 / (9 * layer.out_channels)) ** 0.5
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.05)
            assert layer.bias is not None
            assert not layer.bias.any()


def test_the_fast_network_begins_as_the_identity() -> None:
    x = torch.randn(2, 1, 24, 16)
    assert torch.equal(FastGenerator(4)(x), x)


def test_the_fast_networks_last_sum_is_float32() -> None:
    network = FastGenerator(4)
    nn.init.normal_(network.last.weight, std=0.01)
    x = 100 + torch.rand(1, 1, 16, 16)  # here bfloat16 has steps of 0.5
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = network(x)
    assert output.dtype == torch.float32
    change = output.double() - x.double()
    rounded = change.bfloat16().double()
    assert change.abs().max() > 0
    assert F.l1_loss(change, rounded) < 1e-5  # a bfloat16 number was added, in float32


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="vit"):
        build_generator("vit", 8)
