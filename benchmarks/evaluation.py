"""What an evaluation costs: ten fields of 1024 x 1024 px with all controls.

    python benchmarks/evaluation.py [--fields 10] [--out FILE]

The model is trained for a few steps only: what its images are worth does not change what it takes
to measure them.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from machine import describe_machine

import crosscope as cs

RESULTS = Path(__file__).parent / "results" / "evaluation.json"
SIZE_PX = 1024


def main() -> None:
    """Simulate, register, train a little, evaluate, and write what the last took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    simulated = list(
        cs.simulate("confocal-sted", pairs=asked.fields + 1, seed=300, size_px=SIZE_PX)
    )
    truth = {str(n): each.truth.image for n, each in enumerate(simulated)}
    raw = [cs.RawPair(str(n), each.source, each.target) for n, each in enumerate(simulated)]
    pairs = [cs.register(pair) for pair in raw]
    model = cs.train(pairs[-1:], cs.TrainingPlan(steps=30))
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, cpu = time.perf_counter(), time.process_time()
    report = cs.evaluate(model, pairs[:-1], truth=truth)
    with tempfile.TemporaryDirectory() as folder:
        report.save(Path(folder) / "report")
        page_mb = (Path(folder) / "report" / "report.html").stat().st_size / 1e6
    found = {
        "machine": describe_machine(),
        "fields": asked.fields,
        "size_px": SIZE_PX,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_before_mib": before_mib,
        "page_mb": page_mb,
    }
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
