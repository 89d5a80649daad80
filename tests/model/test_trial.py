import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import crosscope as cs
from crosscope.model.engine import Engine
from crosscope.model.generator import build_generator
from crosscope.model.runners import openvino_precisions, prepare
from crosscope.model.trial import cut_tile, find_error, random_tile

ENGINES = [Engine(1, p, "torch") for p in ("float32", "bfloat16")]
ENGINES += [Engine(1, p, "openvino") for p in openvino_precisions()]
COARSE = [engine for engine in ENGINES if engine.precision == "bfloat16"]


def add_noise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.mul_(1 + 0.03 * torch.randn(weight.shape, generator=generator))


def lose_a_bias(network: nn.Module) -> None:
    network.get_parameter("first.bias").zero_()


def mirror_a_kernel(network: nn.Module) -> None:
    weight = network.get_parameter("down1.0.a.weight")
    weight.copy_(weight.flip(-1))


HARMS = [add_noise, lose_a_bias, mirror_a_kernel]


@pytest.fixture(scope="module", params=["confocal-sted-nuclei", "widefield-20x-dapi"])
def model(request: pytest.FixtureRequest) -> cs.Model:
    """The two whose tiles tell the least of the harms."""
    loaded = cs.Model.load(request.param)
    loaded.generator.requires_grad_(False)
    return loaded


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_every_engine_is_right(model: cs.Model, engine: Engine) -> None:
    run = prepare(engine, model.generator)
    assert find_error(run, model.generator, model.tile, precision=engine.precision) is None


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("base", [2, 8])
def test_every_engine_is_right_about_the_papers_network(engine: Engine, base: int) -> None:
    torch.manual_seed(base)
    network = build_generator("paper", base).eval()
    run = prepare(engine, network)
    assert find_error(run, network, random_tile(), precision=engine.precision) is None


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("harm", HARMS)
def test_weights_that_are_slightly_wrong_are_noticed(
    model: cs.Model, engine: Engine, harm: Callable[[nn.Module], None]
) -> None:
    harmed = copy.deepcopy(model.generator)
    harm(harmed)
    run = prepare(engine, harmed)
    wrong = find_error(run, model.generator, model.tile, precision=engine.precision)
    assert wrong is not None
    assert "of the output's range" in wrong


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_a_missing_input_in_the_last_sum_is_noticed(model: cs.Model, engine: Engine) -> None:
    run = prepare(engine, model.generator)
    wrong = find_error(
        lambda tile: run(tile) - tile, model.generator, model.tile, precision=engine.precision
    )
    assert wrong is not None


def test_coarse_results_do_not_pass_for_fine_ones(model: cs.Model) -> None:
    for engine in COARSE:
        run = prepare(engine, model.generator)
        assert find_error(run, model.generator, model.tile, precision="float32") is not None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nan_is_never_right(precision: str) -> None:
    network = build_generator("fast", 2).eval()
    wrong = find_error(lambda tile: tile * np.nan, network, random_tile(), precision=precision)
    assert wrong is not None


def test_the_check_leaves_the_network_alone() -> None:
    network = build_generator("fast", 2).eval()
    before = copy.deepcopy(network.state_dict())
    find_error(lambda tile: tile, network, random_tile(), precision="bfloat16")
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())
    assert not any(part._forward_hooks for part in network.modules())
    assert all(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("shape", [(300, 200), (128, 128), (128, 500), (40, 300), (7, 3)])
def test_the_tile_is_cut_where_there_is_signal(shape: tuple[int, int]) -> None:
    field = np.zeros(shape)
    y, x = shape[0] * 3 // 4, shape[1] * 3 // 4
    field[y, x] = 5
    tile = cut_tile(field)
    assert tile.shape == (128, 128)
    assert tile.dtype == np.float32
    assert tile.max() == 5


def test_a_flat_field_has_a_tile_too() -> None:
    assert np.array_equal(cut_tile(np.full((150, 140), 0.25)), np.full((128, 128), 0.25))
