"""Patches -> batches, drawn by a thread while the network works on the one before.

A batch is a function of the seed and the step's number alone: who draws it, and when, makes no
difference. Every process draws the numbers of the whole batch and takes its own part of it.
"""

import itertools
import shutil
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from crosscope.data.registered import RegisteredPair
from crosscope.data.sampling import Scaling, cut_patches, open_patches
from crosscope.model.plan import TrainingPlan
from crosscope.model.processes import ALONE, Processes

AHEAD = 3  # so many batches are drawn before they are needed
PROCESSOR = torch.device("cpu")
_GRAIN = 1  # so that noise is not of the numbers that choose the patches


@dataclass(frozen=True, eq=False)
class Data:
    """Scaled patches, in memory or mapped from the disk, and the device that batches are for.

    `doubtful` is how many were left out as not surely aligned.
    """

    source: Float[Tensor, "n 1 y x"]
    target: Float[Tensor, "n 1 y x"]
    doubtful: int = 0
    device: torch.device = PROCESSOR


def load(
    fields: Sequence[RegisteredPair],
    plan: TrainingPlan,
    scalings: tuple[Scaling, Scaling],
    device: torch.device,
    *,
    patch_px: int,
    most: int | None = None,
    folder: Path | None = None,
) -> Data:
    """Cut fields into patches, shuffled and scaled; into a folder where there is one for them."""
    patches = cut_patches(
        fields,
        patch_px=patch_px,
        background_share=plan.background_share,
        seed=plan.seed,
        scalings=scalings,
        most=most,
        folder=folder,
    )
    return _data(patches.source, patches.target, device, patches.doubtful)


@contextmanager
def loaded(
    fields: Sequence[RegisteredPair],
    plan: TrainingPlan,
    scalings: tuple[Scaling, Scaling],
    device: torch.device,
    *,
    patch_px: int,
    run: Path | None,
    processes: Processes,
) -> Iterator[Data]:
    """Give the patches to learn from, as long as they are needed.

    With a run they lie in a hidden folder of it, cut by the first process and read by all.
    """
    if run is None:
        yield load(fields, plan, scalings, device, patch_px=patch_px)
        return
    folder = run / ".patches"
    try:
        if processes.first:
            for remains in run.glob(f".{folder.name}.*.part"):  # a killed run's
                shutil.rmtree(remains)
            data = load(fields, plan, scalings, device, patch_px=patch_px, folder=folder)
        processes.wait()
        if not processes.first:
            data = _data(*open_patches(folder), device)
        yield data
        processes.wait()
    finally:
        if processes.first:
            shutil.rmtree(folder, ignore_errors=True)


def _data(
    source: Float32[np.ndarray, "n y x"],
    target: Float32[np.ndarray, "n y x"],
    device: torch.device,
    doubtful: int = 0,
) -> Data:
    return Data(
        torch.from_numpy(source)[:, None], torch.from_numpy(target)[:, None], doubtful, device
    )


def draw_batch(
    data: Data, plan: TrainingPlan, step: int, processes: Processes = ALONE
) -> tuple[Float[Tensor, "b 1 y x"], Float[Tensor, "b 1 y x"]]:
    """Choose patches, crop, turn and flip each at random: by the seed and the step alone.

    The source's background is moved too, where the plan says so; the target's never is. What comes
    back is this process's part: `plan.batch` patches for each of the parts that it accumulates.
    """
    own = plan.batch * plan.accumulate
    whole = own * processes.count
    rng = np.random.default_rng([plan.seed, step, plan.member])
    chosen = rng.integers(len(data.source), size=whole)
    corners = rng.integers(data.source.shape[-1] - plan.patch_px + 1, size=(whole, 2))
    turns = rng.integers(4, size=whole)
    flips = rng.integers(2, size=whole)
    haze = rng.uniform(-plan.haze, plan.haze, (whole, 1, 1, 1)).astype(np.float32)
    part = slice(processes.number * own, (processes.number + 1) * own)
    choices = [values[part].tolist() for values in (chosen, corners, turns, flips)]
    batch = []
    for stack in (data.source.numpy(), data.target.numpy()):  # no threads of PyTorch's beside it
        patches = np.empty((own, 1, plan.patch_px, plan.patch_px), stack.dtype)
        for patch, n, (y, x), turn, flip in zip(patches, *choices, strict=True):
            crop = stack[n, :, y : y + plan.patch_px, x : x + plan.patch_px]
            patch[:] = np.rot90(crop[..., ::-1] if flip else crop, turn, (-2, -1))
        batch.append(patches)
    batch[0] += haze[part]
    source, target = (_bring(torch.from_numpy(patches), data.device) for patches in batch)
    return source, target


def draw_grain(
    plan: TrainingPlan, step: int, device: torch.device, processes: Processes = ALONE
) -> Float[Tensor, "b 1 y x"]:
    """Return white noise of variance 1 for a step's patches, by the seed and the step alone."""
    own = plan.batch * plan.accumulate
    rng = np.random.default_rng([plan.seed, step, plan.member, _GRAIN])
    shape = (own * processes.count, 1, plan.patch_px, plan.patch_px)
    whole = rng.standard_normal(shape, dtype=np.float32)
    part = whole[processes.number * own : (processes.number + 1) * own]
    return _bring(torch.from_numpy(part), device)


def _bring(batch: Float[Tensor, "b 1 y x"], device: torch.device) -> Float[Tensor, "b 1 y x"]:
    if device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)


def draw_ahead(
    data: Data, plan: TrainingPlan, first: int, processes: Processes = ALONE
) -> Generator[tuple[Float[Tensor, "b 1 y x"], Float[Tensor, "b 1 y x"]], None, None]:
    """Yield the batches of step `first` and all that follow; close it to end its thread."""
    with ThreadPoolExecutor(1, "batches") as thread:
        ordered = deque(
            thread.submit(draw_batch, data, plan, first + n, processes) for n in range(AHEAD)
        )
        try:
            for step in itertools.count(first + AHEAD):
                batch = ordered.popleft().result()
                ordered.append(thread.submit(draw_batch, data, plan, step, processes))
                yield batch
        finally:
            thread.shutdown(cancel_futures=True)
