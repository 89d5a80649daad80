"""How a network is run on this machine: device, threads and precision, chosen by timing.

More threads are not always faster: where another process is busy, two spinning threads were seven
times slower than one.  And bfloat16 halves the time on processors that have it, and is slow on
those that don't.  So nothing is looked up; a few runs are timed.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crosscope.data.cores import count_cores


@dataclass(frozen=True)
class Engine:
    """Threads of the processor, and "float32" or "bfloat16" for convolutions and dense layers."""

    threads: int
    precision: str

    def run(self, network: nn.Module, x: Tensor) -> Tensor:
        """Apply a network; what it returns is float32."""
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
    training: bool,
    threads: int | None = None,
    precision: str | None = None,
) -> Engine:
    """Choose the fastest engine for this network on inputs like `x`, b 1 y x, by a few runs.

    What is given is kept; `training` times the backward pass too.
    """
    candidates = [
        Engine(t, p)
        for t in ([threads] if threads else _thread_counts(x.device))
        for p in ([precision] if precision else ["float32", "bfloat16"])
    ]
    if len(candidates) == 1:
        return candidates[0]
    network = copy.deepcopy(network).to(x.device).train(training)

    def seconds(engine: Engine, x: Tensor, runs: int) -> float:
        def work() -> None:
            with torch.set_grad_enabled(training):
                output = engine.run(network, x)
            if training:
                output.square().mean().backward()  # type: ignore[no-untyped-call]

        return _seconds(engine, work, x.device, runs)

    # processors without bfloat16 emulate it, a hundred times slower: a small part tells that
    small = x[:1, :, :SMALL_PX, :SMALL_PX]
    rough = {engine: seconds(engine, small, 2) for engine in candidates}
    worth = [engine for engine in candidates if rough[engine] <= HOPELESS * min(rough.values())]
    best = dict.fromkeys(worth, math.inf)
    for engine in worth * ROUNDS:  # by turns: who else is busy changes meanwhile
        best[engine] = min(best[engine], seconds(engine, x, 2))
    return min(best, key=lambda engine: best[engine])


def _thread_counts(device: torch.device) -> Sequence[int]:
    if device.type != "cpu":
        return [1]
    return sorted({1, count_cores()})


def _seconds(engine: Engine, work: Callable[[], None], device: torch.device, runs: int) -> float:
    seconds = []
    with engine.in_use():
        for _ in range(runs):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
    return min(seconds[1:])  # the first run also sets up
