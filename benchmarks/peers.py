"""Ours beside CAREamics' CARE and scikit-image's Richardson-Lucy -> results/peers.json.

    python benchmarks/peers.py [OUT] [--careamics PYTHON] [--seeds 1000 1001 1002] [--minutes 8]

Beads, confocal to STED, the pairs of `examples/beads_confocal_to_sted.py`: its training pairs for
all, the same of them held out for validation, and its test pairs against the noise-free truth, by
the measures of `crosscope evaluate`. Ours is trained for `--minutes` of processor time, then CARE
for what ours took, both by `--threads` threads. Richardson-Lucy has the blur between the two
modalities, estimated from the training pairs, and the iteration count with the highest PSNR on
some of them, against their truth. Nothing is chosen by the test pairs.

Costs are those of fresh processes, by turns: a first image, then the one that counts; and the peak
memory where nothing is done but to load a model and to predict one image. Of CARE there are the
whole image at once and two sizes of tiles, and each comparison is with the best of them.

CAREamics lives in an environment of its own, beside ours or where `--careamics` says; without it
nothing is measured:

    python3 -m venv .venv-careamics
    .venv-careamics/bin/pip install torch==2.13.0
    .venv-careamics/bin/pip install -r benchmarks/peers_careamics.txt
    .venv-careamics/bin/pip install --no-deps torchvision==0.28.0 careamics==0.3.5

What is done is kept in OUT, by default `peers`, and isn't done again. `--small` is a trial on very
little, and writes no result.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from machine import cpu_seconds, describe_machine
from peers_cost import lucy_richardson

import crosscope as cs
from crosscope.data.registered import crop_like
from crosscope.deconvolution import estimate_kernel_fwhm
from crosscope.metrics.error import fit_intensity, psnr_db
from crosscope.prediction.tiling import sharpen
from crosscope.report.figures import Field, measure_field, summarise
from crosscope.report.structures import Structures

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from beads_confocal_to_sted import BEADS
from recipes import Size, take

HERE = Path(__file__).parent
RESULT = HERE / "results" / "peers.json"
CAREAMICS = HERE.parent / ".venv-careamics" / "bin" / "python"
PROBES = (100, 300)  # steps of two short trainings, which tell what a step takes
LADDER = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640)
PAST = 2  # counts without a better PSNR after which the search ends
LADDER_FIELDS = 4
ROUNDS = 5
COST_PX, MEMORY_PX = 1024, 2048
TILES_PX = (None, 512, 256)
METHODS = ("input", "lucy_richardson", "careamics", "output", "target")
ASKED = {
    "careamics": ("psnr_db", "f1", "cpu_s_per_mp", "peak_mib"),
    "lucy_richardson": ("psnr_db", "cpu_s_per_mp"),
}
FIGURES = ("psnr_db", "ssim", "fwhm_nm", "spots", "resolved_nm", "sample", "background")


Pairs = Sequence[cs.RegisteredPair]


@dataclass(frozen=True)
class Scripts:
    """Runs the scripts beside this one, each in a process of its own."""

    careamics: Path
    threads: int

    def ask_careamics(self, command: str, *words: object) -> dict[str, Any]:
        """Run `peers_careamics.py` by its Python."""
        words = (command, *words, "--threads", self.threads)
        return self._ask(self.careamics, "peers_careamics.py", words)

    def ask_cost(self, method: str, *words: object) -> dict[str, Any]:
        """Run `peers_cost.py` by ours."""
        return self._ask(Path(sys.executable), "peers_cost.py", (method, *words))

    def _ask(self, python: Path, script: str, words: Sequence[object]) -> dict[str, Any]:
        """Show what a script says, and return its last line, a JSON object."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        command = [str(python.absolute()), str(HERE / script), *map(str, words)]
        last = ""
        with subprocess.Popen(
            command, env=os.environ | threads, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            for last in running.stdout:
                print(last, end="", flush=True)
        if running.returncode:
            raise SystemExit(f"{script} {words[0]} failed, see above; what is done is kept")
        answer: dict[str, Any] = json.loads(last)
        return answer


def main() -> None:
    """Measure each seed, then the costs, and write all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("peers"))
    parser.add_argument("--careamics", type=Path, default=CAREAMICS, help="its Python")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000])
    parser.add_argument("--minutes", type=float, default=8.0, help="of processor time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", help="on the machine's state, kept with the result")
    parser.add_argument("--small", action="store_true", help="a trial, and no result")
    asked = parser.parse_args()
    if not asked.careamics.exists():
        print(
            f"Skipped: there is no Python of CAREamics at {asked.careamics}. "
            "benchmarks/peers.py says how to make one; pass it by --careamics."
        )
        return
    size = Size(training=4, test=2, size_px=256) if asked.small else Size()
    size = replace(size, threads=asked.threads)
    choices = asdict(size) | {"minutes": asked.minutes}
    del choices["steps"]  # the processor time ends a training
    require_same(asked.out, choices)
    scripts = Scripts(asked.careamics, asked.threads)
    folders = {seed: asked.out / f"seed-{seed}" for seed in asked.seeds}
    seeds = [
        measure_seed(seed, size, folder, minutes=asked.minutes, scripts=scripts)
        for seed, folder in folders.items()
    ]
    first = folders[asked.seeds[0]]
    cost = keep(first / "cost.json", lambda: measure_costs(first, seeds[0], scripts))
    result = {
        "machine": describe_machine(),
        "note": asked.note,
        "choices": choices | {"scikit_image": version("scikit-image")},
        "median": medians(seeds),
        "asked": judge(medians(seeds), cost),
        "cost": cost,
        "seeds": seeds,
    }
    print(json.dumps({name: result[name] for name in ("median", "asked", "cost")}, indent=1))
    if not asked.small:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


def require_same(out: Path, choices: dict[str, Any]) -> None:
    """Refuse a folder that holds what was measured with other choices."""
    out.mkdir(parents=True, exist_ok=True)
    earlier = keep(out / "choices.json", lambda: choices)
    if earlier != choices:
        raise SystemExit(
            f"{out} holds what was measured with {earlier}, now it is {choices}: name another OUT"
        )


def keep(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what is in a file, or do the work and write it there."""
    if not path.exists():
        print(f"{time.strftime('%H:%M:%S')} {path}", flush=True)
        found = work()
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n")
        part.replace(path)
    answer: dict[str, Any] = json.loads(path.read_text())
    return answer


# --- what is learnt, and what it is worth ---------------------------------------------------------


def measure_seed(
    seed: int, size: Size, folder: Path, *, minutes: float, scripts: Scripts
) -> dict[str, Any]:
    """Train both on one seed's pairs, choose a count on them, and judge on the next seed's."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "figures.json").exists():
        pairs: Pairs = ()  # all is done
        truth: Mapping[str, cs.Image] = {}
    else:
        pairs, truth = take(BEADS, pairs=size.training, size_px=size.size_px, seed=2 * seed)
    ours = keep(
        folder / "ours.json", lambda: train_ours(pairs, size, seed, folder, cpu_s=60 * minutes)
    )
    careamics = keep(
        folder / "careamics.json",
        lambda: train_careamics(pairs, seed, folder, cpu_s=ours["cpu_s"], scripts=scripts),
    )
    richardson = keep(folder / "lucy_richardson.json", lambda: choose_count(pairs, truth))
    figures = keep(
        folder / "figures.json", lambda: compare(size, seed, folder, richardson, scripts=scripts)
    )
    training = {"ours": ours, "careamics": careamics, "lucy_richardson": richardson}
    return {"seed": seed, "training": training, "figures": figures}


def train_ours(
    pairs: Pairs, size: Size, seed: int, folder: Path, *, cpu_s: float
) -> dict[str, Any]:
    """Train for so many steps as the processor time allows, by two short trainings.

    Rates fall along the run, so that it must know its length.
    """
    plan = cs.TrainingPlan(threads=size.threads, seed=seed)

    def train(steps: int) -> tuple[cs.Model, float]:
        began = cpu_seconds()
        chosen = replace(plan, minutes=None, steps=steps)
        model = cs.train(pairs, chosen, watch=tell, say=print)
        return model, cpu_seconds() - began

    short, long = (train(steps)[1] for steps in PROBES)
    step = (long - short) / (PROBES[1] - PROBES[0])
    steps = max(PROBES[0], PROBES[0] + round((cpu_s - short) / step))
    print(f"{step:.3f} CPU-s a step: {steps} steps", flush=True)
    wall = time.perf_counter()
    model, took = train(steps)
    wall = time.perf_counter() - wall
    model.save(folder / "ours.zip", overwrite=True, half=True)
    return {
        "cpu_s": round(took, 1),
        "wall_s": round(wall, 1),
        "steps": model.training["steps"],
        "parameters": sum(weight.numel() for weight in model.generator.parameters()),
        "plan": model.plan,
    }


def tell(moment: cs.Moment) -> None:
    """Print now and then where a training stands."""
    if moment.step % 100 == 0:
        print(moment.text, flush=True)


def train_careamics(
    pairs: Pairs, seed: int, folder: Path, *, cpu_s: float, scripts: Scripts
) -> dict[str, Any]:
    """Train CARE on the same fields, with the same ones held out."""
    parts = {field.name: field.part for field in cs.Model.load(folder / "ours.zip").fields}
    images: dict[str, Any] = {
        f"{parts[pair.name]}-{what}-{n:02}": image.pixels.astype(np.float32)
        for n, pair in enumerate(pairs)
        for what, image in (("source", pair.source), ("target", pair.target))
    }
    np.savez(folder / "pairs.npz", **images)
    out = folder / "careamics"
    words = (folder / "pairs.npz", out, "--cpu-s", cpu_s, "--seed", seed)
    return scripts.ask_careamics("train", *words)


def choose_count(pairs: Pairs, truth: Mapping[str, cs.Image]) -> dict[str, Any]:
    """Return the blur between the modalities, and the count that is best on training fields."""
    kernel_px = estimate_kernel_fwhm(
        [pair.source.pixels for pair in pairs], [pair.target.pixels for pair in pairs]
    )
    fields = [(p.source.pixels, exact_truth(truth, p)) for p in pairs[:LADDER_FIELDS]]
    ladder: dict[int, float] = {}
    for count in LADDER:
        found = []
        for source, reference in fields:
            image = lucy_richardson(source, kernel_px=kernel_px, iterations=count)
            fitted = fit_intensity(image, reference).apply(image)
            found.append(psnr_db(fitted, reference, data_range=float(np.ptp(reference))))
        ladder[count] = statistics.mean(found)
        if len(ladder) - 1 - int(np.argmax(list(ladder.values()))) >= PAST:
            break
    best = max(ladder, key=lambda count: ladder[count])
    return {"kernel_px": kernel_px, "iterations": best, "psnr_db_by_iterations": ladder}


def compare(
    size: Size, seed: int, folder: Path, richardson: Mapping[str, Any], *, scripts: Scripts
) -> dict[str, Any]:
    """Judge all by the measures of `crosscope evaluate`, on test pairs against their truth."""
    test, truth = take(BEADS, pairs=size.test, size_px=size.size_px, seed=2 * seed + 1)
    sources: dict[str, Any] = {p.name: p.source.pixels.astype(np.float32) for p in test}
    np.savez(folder / "test.npz", **sources)
    words = (folder / "careamics", folder / "test.npz", folder / "careamics.npz")
    scripts.ask_careamics("predict", *words)
    model = cs.Model.load(folder / "ours.zip")
    engine = cs.fastest_engine(model, test[0].source, plan=cs.PredictionPlan(threads=size.threads))
    with np.load(folder / "careamics.npz") as stored:
        careamics = {pair.name: stored[pair.name] for pair in test}
    fields = []
    for pair in test:
        source = sources[pair.name]
        images = {
            "input": source,
            "lucy_richardson": lucy_richardson(
                source, kernel_px=richardson["kernel_px"], iterations=richardson["iterations"]
            ),
            "careamics": careamics[pair.name],
            "output": sharpen(model, source[None], engine=engine)[0],
            "target": pair.target.pixels,
        }
        ordered = {method: np.asarray(images[method], np.float64) for method in METHODS}
        fields.append(Field(pair.name, ordered, exact_truth(truth, pair)))
    kernel_px = estimate_kernel_fwhm(
        [pair.source.pixels for pair in test], [pair.target.pixels for pair in test]
    )
    _, (pixel_nm, _) = test[0].pixel_sizes_nm
    structures = Structures([field.reference for field in fields], kernel_px, pixel_nm)
    entries = []
    for field in fields:
        entries.append(measure_field(field, pixel_nm=pixel_nm, kernel_fwhm_px=kernel_px))
        structures.add(structures.measure(field))
        print(f"{field.name} is measured", flush=True)
    summary = summarise(entries, METHODS) | structures.summarise(METHODS)
    return {"precision": engine.precision} | {name: summary[name] for name in FIGURES}


def exact_truth(
    truth: Mapping[str, cs.Image], pair: cs.RegisteredPair
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the noise-free target of a pair."""
    return crop_like(truth[pair.name], pair).pixels.astype(np.float64)


def medians(seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return the figures that are compared, by method: medians over the seeds."""

    def median(*path: str) -> float | None:
        found = []
        for seed in seeds:
            value: Any = seed["figures"]
            for name in path:
                value = value[name]
            found.append(value)
        return None if None in found else statistics.median(found)

    return {
        method: {
            **{name: median(name, method, "median") for name in ("psnr_db", "ssim", "fwhm_nm")},
            **{name: median("spots", method, name) for name in ("f1", "missed", "invented")},
            "resolved_nm": median("resolved_nm", method),
        }
        for method in METHODS
    }


# --- what it costs --------------------------------------------------------------------------------


def measure_costs(folder: Path, seed: Mapping[str, Any], scripts: Scripts) -> dict[str, Any]:
    """Return processor and wall time per megapixel, median of five by turns, and peak memory."""
    with np.load(folder / "test.npz") as stored:
        field = stored[sorted(stored)[0]]
    images = {}
    for side_px in (COST_PX, MEMORY_PX):
        repeats = -(-side_px // min(field.shape))
        images[side_px] = folder / f"{side_px}.npy"
        np.save(images[side_px], np.tile(field, (repeats, repeats))[:side_px, :side_px])
    richardson, precision = seed["training"]["lucy_richardson"], seed["figures"]["precision"]

    def ours(side_px: int, runs: int) -> dict[str, Any]:
        words = ("--precision", precision, "--threads", scripts.threads, "--runs", runs)
        return scripts.ask_cost("ours", folder / "ours.zip", images[side_px], *words)

    def lucy(side_px: int, runs: int) -> dict[str, Any]:
        words = ("--kernel-px", richardson["kernel_px"], "--iterations", richardson["iterations"])
        return scripts.ask_cost("lucy-richardson", images[side_px], *words, "--runs", runs)

    def careamics(side_px: int, runs: int, tile_px: int | None) -> dict[str, Any]:
        words = (folder / "careamics", images[side_px], "--runs", runs)
        tiles = () if tile_px is None else ("--tile-px", tile_px)
        return scripts.ask_careamics("cost", *words, *tiles)

    methods: dict[str, Callable[[int, int], dict[str, Any]]] = {
        "output": ours,
        "lucy_richardson": lucy,
        **{
            "careamics" + (f", tiles of {tile_px} px" if tile_px else ", whole"): partial(
                careamics, tile_px=tile_px
            )
            for tile_px in TILES_PX
        },
    }
    rounds = [
        {name: measure(COST_PX, 2) for name, measure in methods.items()} for _ in range(ROUNDS)
    ]
    found = {}
    for name, measure in methods.items():
        times = ("cpu_s_per_mp", "wall_s_per_mp")
        memory = measure(MEMORY_PX, 1)
        found[name] = {key: statistics.median(one[name][key] for one in rounds) for key in times}
        found[name] |= {key: memory[key] for key in ("loaded_mib", "peak_mib")}
        found[name]["cpu_s_per_mp_of_rounds"] = [one[name]["cpu_s_per_mp"] for one in rounds]
    return found


def judge(
    found: Mapping[str, Mapping[str, float | None]], cost: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return ours beside each peer, and whether it is better."""
    asked: dict[str, Any] = {}
    for peer, names in ASKED.items():
        asked[peer] = {}
        for name in names:
            if name in found[peer]:
                ours, theirs = found["output"][name], found[peer][name]
                better = None if ours is None or theirs is None else ours > theirs
            else:
                ours = cost["output"][name]
                theirs = min(each[name] for key, each in cost.items() if key.startswith(peer))
                better = ours < theirs
            asked[peer][name] = {"ours": ours, "theirs": theirs, "better": better}
    return asked


if __name__ == "__main__":
    main()
