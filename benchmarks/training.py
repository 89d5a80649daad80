"""Steps a second of `crosscope train`, and how long it waits for data -> results/training.json.

    python benchmarks/training.py [--steps 480]

On 2 threads, on simulated beads that lie on the disk as a run's do: `fast` alone in batches of
8 x 64 x 64, and with discriminators of base 16 and 32 in batches of 12 x 64 x 64, in bfloat16; the
same in float32 for scale. What is timed is `train` itself, from step to step; what lies between
the steps now and then (validation, checkpoints) is left out of the blocks, but not of the share of
waiting. Processor time is that of all threads. Medians over blocks of steps, with the spread.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import describe_machine

import crosscope as cs
from crosscope.model.training import MOMENTS

RESULT = Path(__file__).parent / "results" / "training.json"
# the generator's rate is so low that no alarm of the adversarial phase ends it early
ADVERSARIAL: dict[str, Any] = {"batch": 12, "warm_share": 0.05, "adversarial_rate": 1e-9}
CASES: dict[str, dict[str, Any]] = {
    "generator": {"batch": 8, "warm_share": 1.0},
    "discriminator 16": ADVERSARIAL | {"discriminator_base": 16},
    "discriminator 32": ADVERSARIAL | {"discriminator_base": 32},
}
THREADS = 2
SIZE_PX, PAIRS = 256, 6
LEAST_BLOCKS = 5


def main() -> None:
    """Time all cases and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=480, help="of each case, at least 96")
    steps = max(parser.parse_args().steps, 4 * MOMENTS)
    raw = cs.simulate("confocal-sted", pairs=PAIRS, size_px=SIZE_PX, seed=0)
    pairs = [cs.register(cs.RawPair(pair.name, pair.source, pair.target)) for pair in raw]
    rows = {
        f"{name}, {precision}": measure(
            pairs, cs.TrainingPlan(steps=steps, threads=THREADS, precision=precision, **case)
        )
        for name, case in CASES.items()
        for precision in ("bfloat16", "float32")
    }
    result = {"machine": describe_machine(), "threads": THREADS, "cases": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in rows.items():
        print(f"{name}: {row['steps_per_s']['median']} steps/s")


def measure(pairs: Sequence[cs.RegisteredPair], plan: cs.TrainingPlan) -> dict[str, Any]:
    """Train once, and return what its last phase took, block by block."""
    assert plan.steps is not None
    ticks: list[tuple[float, float]] = []

    def watch(_: cs.Moment) -> None:
        ticks.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        model = cs.train(pairs, plan, run=Path(folder) / "run", watch=watch)
    last_phase = [line for line in model.log if line["phase"] == model.log[-1]["phase"]]
    moments = [line["step"] for line in last_phase]
    walls, processors = [], []
    for first, last in itertools.pairwise(moments):
        # ticks[n] is the end of step n + 1; the first step after a moment has its work in it
        if last - first < 3:
            continue
        (began, began_cpu), (ended, ended_cpu) = ticks[first], ticks[last - 1]
        walls.append((last - 1 - first) / (ended - began))
        processors.append((ended_cpu - began_cpu) / (last - 1 - first))
    assert len(walls) >= LEAST_BLOCKS, "take more steps"
    return {
        "batch": [plan.batch, plan.patch_px, plan.patch_px],
        "blocks": len(walls),
        "steps_per_s": spread(walls),
        "processor_s_per_step": spread(processors),
        "waiting_share": model.training["waiting_share"],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the extremes."""
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
    }


if __name__ == "__main__":
    main()
