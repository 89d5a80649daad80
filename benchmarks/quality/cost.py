"""What checking costs beside the prediction -> results/quality/cost.json.

    python benchmarks/quality/cost.py [--sides 1024 2048 ...] [--rounds 5] [--out PATH]

The same image is predicted from file to file without a check, with the fast one and with the full
one, in turn. Asked: at most a quarter of the prediction's time for the fast one; the full one lets
the twin predict, too. The largest memory is that of a process of its own, for each side and way;
from 8192 px on, where images are done part by part, nothing else is measured, of a file in tiles
and of one in strips. Other sides, and what was measured on other processors, are kept: where
matrices of bfloat16 have units of their own, the prediction is so fast that the check weighs more.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from fields import RESULTS
from machine import describe_machine, peak_mib

import crosscope as cs
from crosscope.data.slides import write_slide
from crosscope.prediction.slides import VERSION
from crosscope.prediction.tiling import TILE_PX

MODEL, ROUNDS, FIELD_PX = "confocal-sted-beads", 5, 1024
SIDES = (1024, 2048, 4096, 8192, 16384)
BY_PARTS_PX = 8192
WAYS = {"without": None, "with": cs.Inspector(), "full": cs.Inspector("full")}
REMEMBERED = "without", "with"
"""The ways whose memory is measured."""


def main() -> None:
    """Time and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS / "cost.json")
    parser.add_argument("--peak", nargs=2, metavar=("WAY", "IMAGE"), help="of this process, in MiB")
    asked = parser.parse_args()
    if asked.peak:
        way, image = asked.peak
        predict(cs.Model.load(MODEL), Path(image), way)
        print(peak_mib())
        return
    model = cs.Model.load(MODEL)
    pair = next(iter(cs.simulate("confocal-sted", pairs=1, size_px=FIELD_PX, seed=11)))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "image.tif"
        for side in asked.sides:
            times = -(-side // FIELD_PX)
            pixels = np.tile(pair.source.pixels, (times, times))[:side, :side]
            image = pair.source.with_pixels(pixels)
            if side < BY_PARTS_PX:
                cs.write_image(image, path, overwrite=True)
                found[f"{side} px"] = measure(model, path, asked.rounds) | peaks_of(path)
            else:
                write_tiled(image, path)
                found[f"{side} px"] = peaks_of(path)
                cs.write_image(image, path, overwrite=True)
                found[f"{side} px, in strips"] = peaks_of(path)
            print(json.dumps(found), flush=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    known = json.loads(asked.out.read_text())["processors"] if asked.out.exists() else {}
    sides = known.get(machine["processor"], {}).get("sides", {}) | found
    known[machine["processor"]] = {"machine": machine, "rounds": asked.rounds, "sides": sides}
    asked.out.write_text(json.dumps({"processors": known}, indent=1) + "\n")


def measure(model: cs.Model, image: Path, rounds: int) -> dict[str, Any]:
    """Return what an image costs: processor seconds, and shares of the prediction's."""
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(1 + rounds):
        for way in WAYS:
            wall, cpu = time.perf_counter(), time.process_time()
            predict(model, image, way)
            took[way].append((time.perf_counter() - wall, time.process_time() - cpu))
    alone = took["without"][1:]  # the first of all warms up
    found: dict[str, Any] = {"predict_cpu_s": statistics.median(cpu for _, cpu in alone)}
    for way, name in (("with", ""), ("full", "full_")):
        both = list(zip(alone, took[way][1:], strict=True))
        found[f"check_{name}cpu_s"] = statistics.median(b[1] - a[1] for a, b in both)
        for n, clock in enumerate(("wall", "cpu")):
            found[f"share_{name}{clock}"] = statistics.median(b[n] / a[n] - 1 for a, b in both)
    return found


def predict(model: cs.Model, image: Path, way: str) -> None:
    """Predict from file to file, and check it in one way.

    Forced: of one field laid out many times the crops that the gate looks at may be much the same.
    """
    plan = cs.PredictionPlan(force=True)
    output = image.with_name("sharp.tif")
    cs.predict_files(model, image, output, plan=plan, overwrite=True, inspector=WAYS[way])


def write_tiled(image: cs.Image, path: Path) -> None:
    """Write an image in tiles, as slides are."""
    write_slide(
        image,
        path,
        lambda part: image.pixels[part.y, part.x],
        version=VERSION,
        tile_px=TILE_PX,
        overwrite=True,
    )


def peaks_of(image: Path) -> dict[str, Any]:
    """Return the largest memory of each way, in MiB."""
    return {"peak_mib": {way: peak_of(way, image) for way in REMEMBERED}}


def peak_of(way: str, image: Path) -> float:
    """Return the largest memory of a process that does nothing else, in MiB."""
    command = [sys.executable, str(Path(__file__)), "--peak", way, str(image)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(done.stdout.split()[-1]), 1)


if __name__ == "__main__":
    main()
