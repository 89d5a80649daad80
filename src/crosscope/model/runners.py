"""Engine + network -> a function, scaled source tiles -> scaled target tiles, n y x.

torch       the network as it is, channels last; convolutions in bfloat16 where asked for
the card    the same as a captured graph for each shape of tile: launching its kernels one by one
            would take longer than they do
openvino    the network traced once, and compiled for any height and width

All add the last residual, where a network has one, in float32: rounded to bfloat16 it invented
beads. int8 is not offered: it cost 4 dB.
"""

import copy
import functools
import importlib
import importlib.util
import sys
import warnings
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from crosscope.model.engine import Engine, find_device
from crosscope.model.generator import FastGenerator
from crosscope.model.trial import Run

ATTEMPTS = 3  # seen once, in the first call of a new process: an output without pixels
GRAPHS = 4  # kept at once: the tiles of a row have three shapes
TRACED_PX = 32  # of the example that is traced: any multiple of the stride will do
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_READY: WeakKeyDictionary[nn.Module, dict[Engine, Run]] = WeakKeyDictionary()


def ready(engine: Engine, network: nn.Module) -> Run:
    """Return what `prepare` does, kept while the network lives: its weights must not change."""
    if engine.backend == "torch" and find_device().type == "cpu":
        return prepare(engine, network)  # takes no time; kept, it would hold the network
    kept = _READY.setdefault(network, {})
    if engine not in kept:
        kept.clear()  # one engine a network: the memory of others is given back
        kept[engine] = prepare(engine, network)
    return kept[engine]


def prepare(engine: Engine, network: nn.Module) -> Run:
    """Make a network ready to be run by an engine, on tiles of any shape that its stride divides.

    The caller sees to `engine.in_use()`. One thread may call the result at a time.

    Raises ImportError or RuntimeError where OpenVINO is not there or cannot do it.
    """
    if engine.backend == "openvino":
        return _compile(engine, network)
    if find_device().type == "cuda":
        return _Graphs(engine, network)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(tiles: Float32[np.ndarray, "n y x"]) -> Float32[np.ndarray, "n y x"]:
        with torch.inference_mode():
            output = engine.run(network, torch.from_numpy(tiles)[:, None])
        result: Float32[np.ndarray, "n y x"] = output[:, 0].numpy()
        return result

    return run


@functools.cache
def load_openvino() -> Any | None:
    """Import OpenVINO where it is installed; it asks no network, its telemetry being left out."""
    if importlib.util.find_spec("openvino") is None:
        return None
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if not installed
    try:
        return importlib.import_module("openvino")
    except (ImportError, OSError):  # libraries that this system lacks
        return None


def openvino_precisions() -> list[str]:
    """Return what OpenVINO computes in on this processor; nothing where it is not installed."""
    openvino = load_openvino()
    if openvino is None:
        return []
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["float32", *(["bfloat16"] if "BF16" in able else [])]


class _Change(nn.Module):
    """A `fast` network without its last sum."""

    def __init__(self, network: FastGenerator) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y x"]:
        return self.network.change(x)


def _compile(engine: Engine, network: nn.Module) -> Run:
    openvino = load_openvino()
    if openvino is None:
        raise ImportError("OpenVINO is not installed")
    plain = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    plain = plain.requires_grad_(False).eval()
    adds = isinstance(plain, FastGenerator)
    example = torch.zeros(1, 1, TRACED_PX, TRACED_PX)
    # tracing is deprecated, but torch.export takes ten times as long, and warns as well
    with warnings.catch_warnings(action="ignore"), Engine(1, "float32").in_use():
        inner = _Change(plain) if adds else plain
        traced = torch.jit.trace(inner, example, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, example_input=example, input=[-1, 1, -1, -1])
    hints = {
        "INFERENCE_PRECISION_HINT": _HINTS[engine.precision],
        "INFERENCE_NUM_THREADS": engine.threads,
        "ENABLE_CPU_PINNING": False,  # two pinned processes wait for one another
    }
    compiled = openvino.Core().compile_model(model, "CPU", hints)

    def run(tiles: Float32[np.ndarray, "n y x"]) -> Float32[np.ndarray, "n y x"]:
        x = tiles[:, None]
        for _ in range(ATTEMPTS):
            made = compiled.infer_new_request({0: x})[0]
            if made.shape == x.shape:
                break
        else:
            raise RuntimeError(f"OpenVINO computed nothing ({made.shape} for {x.shape})")
        output = made[:, 0]
        result: Float32[np.ndarray, "n y x"] = tiles + output if adds else output
        return result

    return run


class _Graphs:
    """A network on the card, and the graphs of the newest shapes of tile, all in one memory."""

    def __init__(self, engine: Engine, network: nn.Module) -> None:
        self.engine = engine
        copied = copy.deepcopy(network).requires_grad_(False)
        self.network = copied.to(find_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.memory = torch.cuda.graph_pool_handle()
        self.graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, tiles: Float32[np.ndarray, "n y x"]) -> Float32[np.ndarray, "n y x"]:
        x = torch.from_numpy(tiles)[:, None].to(find_device())
        if tiles.shape not in self.graphs:
            while len(self.graphs) >= GRAPHS:
                del self.graphs[next(iter(self.graphs))]  # the oldest
            self.graphs[tiles.shape] = self._capture(x)
        graph, given, made = self.graphs[tiles.shape]
        given.copy_(x)
        graph.replay()
        result: Float32[np.ndarray, "n y x"] = made[:, 0].cpu().numpy()
        return result

    def _capture(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """Record what the network does to `given`, which is written over before each replay."""
        given = x.clone()
        # cuDNN's float32 is by default TensorFloat-32, of 10 bits
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # cuDNN chooses its kernels before, not within
                for _ in range(2):
                    self._apply(given)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.memory):
                made = self._apply(given)
        return graph, given, made

    def _apply(self, x: Tensor) -> Tensor:
        bfloat16 = self.engine.precision == "bfloat16"
        # without the cache of cast weights: it would outlive the graph's memory
        with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16, cache_enabled=False):
            output: Tensor = self.network(x)
        return output
