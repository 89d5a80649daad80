"""What the fast check costs beside the prediction -> results/quality/cost.json.

    python benchmarks/quality/cost.py

The same image is predicted from file to file without and with the check, in turn. Asked: at most a
quarter of the prediction's time. What was measured on other processors is kept: where matrices of
bfloat16 have units of their own, the prediction is so fast that the check weighs more.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from fields import RESULTS
from machine import describe_machine

import crosscope as cs

MODEL, SIDES, ROUNDS, FIELD_PX = "confocal-sted-beads", (1024, 2048, 4096), 5, 1024


def main() -> None:
    """Time and write."""
    model = cs.Model.load(MODEL)
    pair = next(iter(cs.simulate("confocal-sted", pairs=1, size_px=FIELD_PX, seed=11)))
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in SIDES:
            times = side // FIELD_PX
            image = pair.source.with_pixels(np.tile(pair.source.pixels, (times, times)))
            cs.write_image(image, folder / "image.tif", overwrite=True)
            took: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
            for _ in range(1 + ROUNDS):
                for way, inspector in (("without", None), ("with", cs.Inspector())):
                    began, cpu = time.perf_counter(), time.process_time()
                    cs.predict_files(
                        model,
                        folder / "image.tif",
                        folder / "sharp.tif",
                        overwrite=True,
                        inspector=inspector,
                    )
                    took[way].append((time.perf_counter() - began, time.process_time() - cpu))
            rounds = list(zip(took["without"][1:], took["with"][1:], strict=True))
            shares = [[b[n] / a[n] - 1 for a, b in rounds] for n in (0, 1)]
            found[f"{side} px"] = {
                "predict_cpu_s": statistics.median(a[1] for a, _ in rounds),
                "check_cpu_s": statistics.median(b[1] - a[1] for a, b in rounds),
                "share_wall": statistics.median(shares[0]),
                "share_cpu": statistics.median(shares[1]),
            }
            print(side, found[f"{side} px"], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path, machine = RESULTS / "cost.json", describe_machine()
    known = json.loads(path.read_text())["processors"] if path.exists() else {}
    known[machine["processor"]] = {"machine": machine, "rounds": ROUNDS, "sides": found}
    path.write_text(json.dumps({"processors": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
