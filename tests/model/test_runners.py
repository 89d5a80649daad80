import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crosscope.model.engine import Engine
from crosscope.model.generator import FastGenerator, build_generator
from crosscope.model.runners import GRAPHS, openvino_precisions, prepare, ready

BACKENDS = ["torch", "openvino"] if openvino_precisions() else ["torch"]
SHAPES = [(16, 16), (128, 48), (64, 144)]


def roused(name: str, base: int = 4) -> nn.Module:
    """Return a network whose residuals, which begin at zero, are at work."""
    torch.manual_seed(0)
    network = build_generator(name, base)
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.05)
    return network.eval()


def draw(shape: tuple[int, int]) -> np.ndarray:
    """Return two tiles."""
    return np.random.default_rng([*shape]).random((2, *shape), dtype=np.float32)


def apply(network: nn.Module, tiles: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = network(torch.from_numpy(tiles)[:, None])[:, 0].numpy()
    return result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["fast", "paper"])
def test_one_preparation_serves_all_shapes(name: str, backend: str) -> None:
    network = roused(name)
    expected = [apply(network, draw(shape)) for shape in SHAPES]
    run = prepare(Engine(1, "float32", backend), network)
    for shape, should in zip(SHAPES, expected, strict=True):
        made = run(draw(shape))
        assert made.dtype == np.float32
        assert np.abs(made - should).max() <= 1e-4 * np.ptp(should)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_sum_is_float32_in_bfloat16_too(backend: str) -> None:
    network = roused("fast")
    assert isinstance(network, FastGenerator)
    nn.init.constant_(network.last.weight, 1e-4)  # a small change ...
    nn.init.constant_(network.last.bias, 2**-8)  # type: ignore[arg-type]
    tile = draw((64, 64)) + 1000  # ... of large numbers, which bfloat16 would round to 4
    change = prepare(Engine(1, "bfloat16", backend), network)(tile) - tile
    expected = apply(network, tile) - tile
    assert np.ptp(expected) > 0
    assert np.abs(change - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_is_used_where_asked_for(backend: str) -> None:
    if backend == "openvino" and "bfloat16" not in openvino_precisions():
        pytest.skip("OpenVINO has no bfloat16 on this processor")
    network, tile = roused("paper"), draw((64, 64))
    fine, coarse = (prepare(Engine(1, p, backend), network)(tile) for p in ("float32", "bfloat16"))
    assert 0 < np.abs(fine - coarse).max() < 0.1 * np.ptp(fine)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_input_is_left_as_it_was(backend: str) -> None:
    tile = draw((32, 32))
    before = tile.copy()
    first = prepare(Engine(1, "float32", backend), roused("fast"))
    made = first(tile)
    kept = made.copy()
    first(tile + 1)
    assert np.array_equal(tile, before)
    assert np.array_equal(made, kept)  # a later tile does not write over it


@pytest.mark.parametrize("failures", [1, 99])
def test_an_output_without_pixels_is_asked_for_again(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    infer, left = openvino.CompiledModel.infer_new_request, iter([True] * failures)

    def fail_at_first(self: Any, inputs: Any) -> Any:
        nothing = {0: np.empty((1, 0, 0, 0), np.float32)}
        return nothing if next(left, False) else infer(self, inputs)

    network, tiles = roused("fast"), draw((32, 32))
    expected = apply(network, tiles)
    run = prepare(Engine(1, "float32", "openvino"), network)
    monkeypatch.setattr(openvino.CompiledModel, "infer_new_request", fail_at_first)
    if failures > 1:
        with pytest.raises(RuntimeError, match="computed nothing"):
            run(tiles)
    else:
        assert np.abs(run(tiles) - expected).max() <= 1e-4 * np.ptp(expected)


def test_what_is_compiled_is_kept_as_long_as_its_network() -> None:
    pytest.importorskip("openvino")
    network, engine = roused("fast", 2), Engine(1, "float32", "openvino")
    run = ready(engine, network)
    assert ready(engine, network) is run
    assert ready(Engine(2, "float32", "openvino"), network) is not run
    gone = weakref.ref(network)
    del network, run
    gc.collect()
    assert gone() is None


ASK = """
import sys
from crosscope.model.engine import Engine
from crosscope.model.generator import build_generator
from crosscope.model.runners import prepare
prepare(Engine(1, "float32", "openvino"), build_generator("fast", 2).eval())
print(sys.modules["openvino_telemetry"])
"""


def test_openvino_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", ASK], env=os.environ | home, capture_output=True, text=True
    )
    assert result.stdout.split() == ["None"], result.stderr
    assert not list(tmp_path.iterdir())  # its telemetry keeps a number of the user's there


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["fast", "paper"])
def test_captured_graphs_of_several_shapes_do_not_mix(name: str, precision: str) -> None:
    network = roused(name)
    run = prepare(Engine(1, precision), network)
    shapes = [(64, 32 * n) for n in range(1, GRAPHS + 3)]
    tolerance = 1e-4 if precision == "float32" else 0.05
    for shape in [*shapes, *reversed(shapes)]:
        should = apply(network, draw(shape))
        assert np.abs(run(draw(shape)) - should).max() <= tolerance * np.ptp(should)
