"""CPU-seconds per megapixel of `fast` beside the plain paper network -> results/prediction.json.

    python benchmarks/prediction.py

Both see the same 512 x 512 image. `fast` runs as `predict` runs it, the engine chosen by
measurement; `paper` at base 64 runs in plain eager float32. The runs alternate; what counts is the
median of the ratios.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine

import crosscope as cs
from crosscope.data.sampling import Scaling
from crosscope.model.generator import build_generator
from crosscope.model.reach import Reach

RESULT = Path(__file__).parent / "results" / "prediction.json"
SIDE_PX, ROUNDS = 512, 5


def main() -> None:
    """Time both in turn and write the ratio."""
    pixels = np.random.default_rng(0).poisson(100, (SIDE_PX, SIDE_PX)).astype(np.uint16)
    image = cs.Image(pixels, "yx", (30.0, 30.0))
    model = cs.Model(
        "fast",
        32,
        build_generator("fast", 32).eval(),
        None,
        Scaling(0.0, 1.0),
        Scaling(0.0, 1.0),
        (30.0, 30.0),
        (30.0, 30.0),
        Reach(96, 72, 40),
    )
    engine = cs.fastest_engine(model, image)
    plan = cs.PredictionPlan(
        engine=engine.library, threads=engine.threads, precision=engine.precision
    )
    paper = build_generator("paper", 64).eval()
    scaled = torch.from_numpy(pixels.astype(np.float32))[None, None]

    def run_paper() -> None:
        with torch.inference_mode():
            paper(scaled)

    rows = []
    for _ in range(ROUNDS):
        fast = measure(lambda: cs.predict(model, image, plan=plan))
        rows.append({"fast": fast, "paper": measure(run_paper)})
    ratio = statistics.median(
        row["paper"]["cpu_s_per_mp"] / row["fast"]["cpu_s_per_mp"] for row in rows
    )
    result = {
        "machine": describe_machine(),
        "engine": asdict(engine),
        "paper_over_fast_cpu": round(ratio, 1),
        "rounds": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["paper_over_fast_cpu"]))


def measure(work: Callable[[], object]) -> dict[str, float]:
    """Return CPU and wall seconds per megapixel, after one run that sets up."""
    work()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    megapixels = SIDE_PX**2 / 1e6
    return {
        "cpu_s_per_mp": round((time.process_time() - cpu) / megapixels, 3),
        "wall_s_per_mp": round((time.perf_counter() - wall) / megapixels, 3),
    }


if __name__ == "__main__":
    main()
