"""How time and memory grow: image side, tiles, planes, workers -> results/scale.json.

    python benchmarks/scale.py [OUT] [--only NAME ...]

Every line is a process of its own, for its peak memory; what is done is not done again. The image
is a simulated field of beads, repeated. 30,000 px take about six minutes on two cores and 6 GB of
disk, all together about an hour. OUT keeps images and what was found, by default in `scale`.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import zarr
from machine import describe_machine, peak_mib

import crosscope as cs

RESULT = Path(__file__).parent / "results" / "scale.json"
MODEL = "confocal-sted-beads"
PIXEL_NM = 30.0
SIDES = (512, 1000, 2048, 4096, 8192, 10_000, 16_384)
LARGEST = 30_000
TILES = (256, 512, 1024, 1536, 2048)
TILED_PX, SPREAD_PX, WARM_PX = 4096, 6144, 2048
ROUNDS = 5
SOURCE_CHUNK_PX = 1024


def jobs() -> dict[str, dict[str, Any]]:
    """Name everything that is measured, with the arguments of `predict`."""
    return {
        **{f"{side} px": {"side": side} for side in SIDES},
        f"{LARGEST} px, OME-Zarr": {"side": LARGEST, "kind": "zarr"},
        **{f"tiles of {px} px": {"side": TILED_PX, "tile_px": px} for px in TILES},
        **{
            f"{planes} planes of {side} px": {"side": side, "planes": planes}
            for planes, side in ((256, 64), (64, 128), (16, 256))
        },
        **{
            f"{n} workers, round {i}": {"side": SPREAD_PX, "kind": "zarr", "workers": n}
            for i in range(ROUNDS)
            for n in (1, 2)
        },
        "start": {},
    }


def main() -> None:
    """Do what is not done, each in a process of its own, and gather what is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("scale"))
    parser.add_argument("--only", nargs="*", help="names, or how they begin")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.child:
        print(json.dumps(start_up() if asked.child == "start" else predict(asked.out, asked.child)))
        return
    for name in jobs():
        result = asked.out / f"{name}.json"
        if result.exists() or (asked.only and not name.startswith(tuple(asked.only))):
            continue
        if name != "start":  # here: what making them takes is not the child's
            make_sources(asked.out, name)
        command = [sys.executable, __file__, str(asked.out), "--child", name]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result.write_text(found.stdout.splitlines()[-1])
        print(name, result.read_text(), flush=True)
    earlier = json.loads(RESULT.read_text())["jobs"] if RESULT.exists() else {}
    done = {p.stem: json.loads(p.read_text()) for p in asked.out.glob("*.json")}
    ordered = {name: (earlier | done)[name] for name in jobs() if name in earlier | done}
    RESULT.write_text(json.dumps({"machine": describe_machine(), "jobs": ordered}, indent=1) + "\n")


def predict(out: Path, name: str) -> dict[str, Any]:
    """Predict once and return seconds, processor seconds and peak memory, this process's."""
    asked = jobs()[name]
    kind, workers = asked.get("kind", "tif"), asked.get("workers")
    source, first, few = make_sources(out, name)
    target = out / f"predicted.{kind}"
    model = cs.Model.load(MODEL)
    plan = cs.PredictionPlan(**{k: v for k, v in asked.items() if k == "tile_px"})
    small = asked["side"] <= SIDES[1] or "planes" in asked
    seconds, cpu_s = [], []
    # the first run chooses the engine
    settled = cs.predict_files(model, first, target, overwrite=True, plan=plan).outputs[0]["plan"]
    plan = replace(plan, precision=settled["precision"], engine=settled["engine"])
    plan = replace(plan, threads=None if workers else settled["threads"])
    remove(target)
    with cs.connect(workers=workers) if workers else nullcontext() as cluster, Watch() as watch:
        if cluster:  # workers have imported and compiled before the clock starts
            cs.predict_files(model, few, target, plan=plan, overwrite=True, cluster=cluster)
        for _ in range(ROUNDS if small else 1):
            began, cpu = time.perf_counter(), cpu_time()
            cs.predict_files(model, source, target, plan=plan, overwrite=True, cluster=cluster)
            seconds.append(time.perf_counter() - began)
            cpu_s.append(cpu_time() - cpu)
    remove(target)
    megapixels = asked["side"] ** 2 * asked.get("planes", 1) / 1e6
    return {
        "megapixels": megapixels,
        "wall_s_per_mp": statistics.median(seconds) / megapixels,
        "cpu_s_per_mp": statistics.median(cpu_s) / megapixels,
        "peak_mib": watch.peak_mib,
        "first_half_mib": watch.half_mib(0),
        "second_half_mib": watch.half_mib(1),
        "plan": settled,
    }


def cpu_time() -> float:
    """Return the processor time of this process, its threads and its workers, s."""
    own = psutil.Process()
    every = [own, *own.children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in every)


class Watch:
    """Reads this process's memory ten times a second while it is entered."""

    def __enter__(self) -> "Watch":
        self.seen_mib: list[float] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.over.wait(0.1):
            self.seen_mib.append(psutil.Process().memory_info().rss / 2**20)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    @property
    def peak_mib(self) -> float:
        """The most that this process has had, by the system's count."""
        return peak_mib()

    def half_mib(self, which: int) -> float | None:
        """The most that was seen in the first or the second half."""
        middle = len(self.seen_mib) // 2
        half = self.seen_mib[middle:] if which else self.seen_mib[:middle]
        return max(half, default=None)


def make_sources(out: Path, name: str) -> tuple[Path, Path, Path]:
    """Write what a job reads, once: its image, a small one, and one of its kind to warm up on."""
    asked = jobs()[name]
    kind = asked.get("kind", "tif")
    return (
        make_source(out, asked["side"], kind, asked.get("planes")),
        make_source(out, 512, "tif", None),
        make_source(out, WARM_PX, kind, None),
    )


def make_source(out: Path, side: int, kind: str, planes: int | None) -> Path:
    """Write the image that is predicted, once."""
    path = out / f"source-{side}-{planes or 1}.{kind}"
    if path.exists():
        return path
    pair = next(iter(cs.simulate("confocal-sted", pairs=1, size_px=SOURCE_CHUNK_PX, seed=11)))
    field = pair.source.pixels
    part = path.with_name("part-" + path.name)
    if kind == "zarr":
        group = zarr.open_group(part, mode="w")
        array = group.create_array(
            "0", shape=(side, side), chunks=(SOURCE_CHUNK_PX,) * 2, dtype=field.dtype
        )
        for y in range(0, side, SOURCE_CHUNK_PX):
            for x in range(0, side, SOURCE_CHUNK_PX):
                height, width = min(SOURCE_CHUNK_PX, side - y), min(SOURCE_CHUNK_PX, side - x)
                array[y : y + height, x : x + width] = field[:height, :width]
        axes: list[Any] = [{"name": a, "type": "space", "unit": "nanometer"} for a in "yx"]
        scale = [{"type": "scale", "scale": [PIXEL_NM, PIXEL_NM]}]
        datasets = [{"path": "0", "coordinateTransformations": scale}]
        multiscales: list[Any] = [{"axes": axes, "datasets": datasets, "name": "beads"}]
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    else:
        times = -(-side // SOURCE_CHUNK_PX)
        rows = np.tile(field, (1, times))[:, :side]
        shape = (planes, side, side) if planes else (side, side)
        pixels = tifffile.memmap(
            part, shape=shape, dtype=field.dtype, ome=True, metadata=_said(planes), bigtiff=True
        )
        for y in range(0, side, SOURCE_CHUNK_PX):
            height = min(SOURCE_CHUNK_PX, side - y)
            pixels[..., y : y + height, :] = rows[:height]
        pixels.flush()
    part.rename(path)
    return path


def _said(planes: int | None) -> dict[str, Any]:
    sizes = {f"PhysicalSize{a}": PIXEL_NM for a in "YX"}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "YX"}
    return {"axes": "TYX" if planes else "YX"} | sizes | units


def remove(path: Path) -> None:
    """Delete an output and its sidecar."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.with_name(path.name + ".json").unlink(missing_ok=True)


def start_up() -> dict[str, float]:
    """Return how long the import and the help take, s, medians."""

    def took(*command: str) -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    program = Path(sys.executable).parent / "crosscope"
    nothing = statistics.median(took(sys.executable, "-c", "") for _ in range(2 * ROUNDS))
    imported = [took(sys.executable, "-c", "import crosscope") for _ in range(2 * ROUNDS)]
    helped = [took(str(program), "--help") for _ in range(2 * ROUNDS)]
    return {
        "python_s": nothing,
        "import_s": statistics.median(imported) - nothing,
        "help_s": statistics.median(helped),
    }


if __name__ == "__main__":
    main()
