"""Several processes train one model: which one this is, what they average, whose word counts.

torchrun starts the processes, on one machine or several, and tells each its number. Each computes
the gradient of its part of the batch; the mean of these is the whole batch's. All processes hold
the same weights and take the same steps; only the first writes and speaks. Where torchrun did not
start this process it is alone, and nothing here does anything.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from crosscope.data.errors import InputError
from crosscope.model.engine import find_device


@dataclass(frozen=True)
class Processes:
    """The processes of a training: the number of this one, from 0, and how many there are."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.number == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes: all get the same bits."""
        if self.count == 1:
            return
        whole = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message, not a hundred
        with _together():
            distributed.all_reduce(whole)
        whole /= self.count
        parts = torch.split(whole, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def mean(self, numbers: Sequence[int | float]) -> list[float]:
        """Return the means of numbers over the processes."""
        if self.count == 1:
            return [float(number) for number in numbers]
        means = torch.tensor(numbers, dtype=torch.float64, device=find_device())
        self.average([means])
        return means.tolist()

    def agree(self, numbers: Sequence[int | float]) -> list[float]:
        """Return the first process's numbers."""
        if self.count == 1:
            return [float(number) for number in numbers]
        spoken = torch.tensor(numbers, dtype=torch.float64, device=find_device())
        with _together():
            distributed.broadcast(spoken, src=0)
        return spoken.tolist()

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.agree([0.0])


ALONE = Processes()


def join_processes() -> Processes:
    """Join the processes that torchrun started with this one; alone where it started none.

    They speak through NCCL where there are GPUs, one a process, else through Gloo.
    """
    if not distributed.is_available():
        return ALONE
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched():
            return ALONE
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        with _together():
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(distributed.destroy_process_group)
    return Processes(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "training",
            "another of its processes has ended, or cannot be reached",
            "See what that one said, then go on by --resume",
        ) from error
