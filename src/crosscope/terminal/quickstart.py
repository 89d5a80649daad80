"""The whole path on a simulated microscope: simulate, register, train, evaluate, predict."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crosscope as cs

SYSTEM = "confocal-sted"
TRAINING_PAIRS, TEST_PAIRS, SIZE_PX = 16, 4, 512

Watch = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Journey:
    """What the path led to."""

    model: cs.Model
    report: cs.Report


def travel(out: Path, *, minutes: float, seed: int, watch: Callable[[str], Any]) -> Journey:
    """Walk the path in the folder OUT; `watch(work)` is a context that takes the progress."""
    folders = {name: out / name for name in ("raw", "pairs", "test-raw", "test-pairs")}
    for name, pairs, stream in (("", TRAINING_PAIRS, 2 * seed), ("test-", TEST_PAIRS, 2 * seed + 1)):
        raw, registered = folders[f"{name}raw"], folders[f"{name}pairs"]
        with watch(f"simulate {raw.name}") as tell:
            simulated = cs.simulate(SYSTEM, pairs=pairs, size_px=SIZE_PX, seed=stream)
            cs.write_simulation(
                simulated, raw, progress=lambda n, of=pairs: tell(n / of, f"{n} pairs")
            )
        with watch(f"register {registered.name}") as tell:
            ...
    return Journey(model, report)
