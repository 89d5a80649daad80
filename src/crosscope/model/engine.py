"""How a network is run on this machine: backend, threads and precision, chosen by timing.

More threads are not always faster: where another process is busy, two spinning threads were seven
times slower than one.  And bfloat16 halves the time on processors that have it, and is slow on
those that don't.  So nothing is looked up; a few runs are timed.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from crosscope.data.cores import count_cores, name_processor


@dataclass(frozen=True)
class Engine:
    """Threads of the processor, "float32" or "bfloat16" for convolutions and dense layers, and who
    computes: "torch", on the card where there is one, or "openvino", for prediction only.
    """

    threads: int
    precision: str
    backend: str = "torch"

    def __str__(self) -> str:
        counted = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.backend}, {self.precision}, {counted}"

    def run(self, network: nn.Module, x: Tensor) -> Tensor:
        """Apply a network with PyTorch; what it returns is float32."""
        assert self.backend == "torch", self
        bfloat16 = self.precision == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            result: Tensor = network(x)
        return result

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold PyTorch's threads at this engine's number."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def one_kernel() -> Iterator[None]:
    """Hold the processor to one kernel for all shapes: what it computes no longer depends on them.

    oneDNN chooses among its float32 kernels by an image's shape, and their roundings differ.
    """
    set_flags = torch.backends.mkldnn.set_flags
    before = set_flags(False, _fp32_precision=None)[0]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        set_flags(before, _fp32_precision=None)  # type: ignore[no-untyped-call]


SMALL_PX = 64
HOPELESS = 5.0
"""Times slower on a small part than the fastest."""
ROUNDS = 4


def find_device() -> torch.device:
    """Return the CUDA device where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_engine(
    network: nn.Module,
    x: Tensor,
    *,
    threads: int | None = None,
    precision: str | None = None,
) -> Engine:
    """Choose the fastest engine to train this network on inputs like `x`, b 1 y x, by a few steps.

    What is given is kept. (For prediction see `choice.settle_engine`.)
    """
    candidates = list_torch_engines(x.device, threads, precision)
    if len(candidates) == 1:
        return candidates[0]
    network = copy.deepcopy(network).to(x.device).train()

    def work(engine: Engine, x: Tensor) -> None:
        engine.run(network, x).square().mean().backward()  # type: ignore[no-untyped-call]

    seconds = time_engines({engine: partial(work, engine) for engine in candidates}, x)
    return min(seconds, key=lambda engine: seconds[engine])


def describe_device() -> dict[str, str | None]:
    """Return what, beside versions, decides on the last bit of what is computed here."""
    return {
        "processor": name_processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def list_torch_engines(
    device: torch.device, threads: int | None, precision: str | None
) -> list[Engine]:
    """Return what may be chosen of, what is given being kept."""
    precisions = [precision] if precision else ["float32", "bfloat16"]
    return [Engine(t, p) for t in list_threads(device, threads) for p in precisions]


def list_threads(device: torch.device, threads: int | None) -> Sequence[int]:
    """Return the numbers of threads worth a try: on a card it doesn't matter."""
    if threads:
        return [threads]
    return sorted({1, count_cores()}) if device.type == "cpu" else [1]


def time_engines(
    works: Mapping[Engine, Callable[[Tensor], object]], x: Tensor
) -> dict[Engine, float]:
    """Return the seconds that each engine's work on `x`, b 1 y x, takes; the hopeless are left out.

    By turns: who else is busy changes meanwhile.
    """
    # processors without bfloat16 emulate it, a hundred times slower: a small part tells that
    small = x[:1, :, :SMALL_PX, :SMALL_PX]
    rough = {engine: _seconds(engine, work, small) for engine, work in works.items()}
    worth = [engine for engine in works if rough[engine] <= HOPELESS * min(rough.values())]
    best = dict.fromkeys(worth, math.inf)
    for engine in worth * ROUNDS:
        best[engine] = min(best[engine], _seconds(engine, works[engine], x))
    return best


def _seconds(engine: Engine, work: Callable[[Tensor], object], x: Tensor) -> float:
    with engine.in_use():
        work(x)  # the first run also sets up
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        began = time.perf_counter()
        work(x)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - began
