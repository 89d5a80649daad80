"""Seconds per megapixel of every engine, beside a matrix product -> results/engines.json.

    python benchmarks/engines.py [--small]

Networks: `fast` as it comes with the program, `paper` at base 64 and 32 with random weights. Each
runs on 2 threads in plain eager PyTorch, float32, as its authors would run it, and by every engine
of the machine as `predict` runs it; all see the same 512 x 512 px. Beside them the same number of
multiply-adds, counted at the convolutions, in the machine's fastest bfloat16 matrix product. All of
it alternates in rounds; what counts are medians of CPU and wall seconds, and of ratios in a round.

Asked: the best engine of `fast` takes at most 1.8 times the matrix product, eager `paper` at base
64 at least 30 times the best of `fast`, the best engine of `paper` at most 0.45 of its eager time;
and the beads' width changes by less than 0.5 % from eager float32 to the fastest engine. That is
measured with `fast` here, on fields that it has not seen; with `paper` by paper_widths.py, which
trains some first.

int8 is not offered: without calibration it cost 4 dB.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from torch import nn

import crosscope as cs
from crosscope.model.choice import list_engines
from crosscope.model.engine import Engine
from crosscope.model.generator import build_generator
from crosscope.model.runners import load_openvino, prepare
from crosscope.prediction.tiling import sharpen

RESULT = Path(__file__).parent / "results" / "engines.json"
MODEL = "confocal-sted-beads"
THREADS, SIDE_PX, ROUNDS, BEAD_FIELDS = 2, 512, 5, 4
MATRIX_SIDES = (512, 1024, 2048, 3072)
EAGER, MATRIX = "eager float32", "matrix product"
CLOCKS = ("cpu", "wall")


@dataclass(frozen=True)
class Work:
    """Something to be timed, and how much of it is done: megapixels, or multiply-adds."""

    run: Callable[[], object]
    amount: float


def main() -> None:
    """Time everything in turn, measure beads, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="that it works; nothing is written")
    small = parser.parse_args().small
    side_px, rounds, fields = (64, 2, 1) if small else (SIDE_PX, ROUNDS, BEAD_FIELDS)
    networks = find_networks(bases=(8, 4) if small else (64, 32))
    tile = np.random.default_rng(0).random((side_px, side_px), dtype=np.float32)
    works = {
        f"{name}, {way}": Work(run, tile.size / 1e6)
        for name, network in networks.items()
        for way, run in find_ways(network, tile).items()
    }
    works |= {f"{MATRIX}, {side}": product_of(side) for side in MATRIX_SIDES}
    with Engine(THREADS, "float32").in_use():
        for work in works.values():
            work.run()  # the first run also sets up
        rows = [{name: measure(work) for name, work in works.items()} for _ in range(rounds)]
    products = {name: count_products(network) for name, network in networks.items()}
    result = {
        "machine": describe_machine(),
        "openvino": version("openvino") if load_openvino() else None,
        "threads": THREADS,
        "side_px": side_px,
        "rounds": rounds,
        "products_per_px": products,
        **{clock: summarise(rows, products, clock) for clock in CLOCKS},
        "beads": {"model": MODEL} | measure_beads(cs.Model.load(MODEL), fields),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if not small:
        RESULT.write_text(text + "\n")


def find_networks(*, bases: tuple[int, int]) -> dict[str, nn.Module]:
    """Return `fast` as it is shipped, and `paper` of two bases, from a seed."""
    networks: dict[str, nn.Module] = {"fast 32": cs.Model.load(MODEL).generator}
    torch.manual_seed(0)
    return networks | {f"paper {base}": build_generator("paper", base).eval() for base in bases}


def find_ways(network: nn.Module, tile: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return every way to run a network on a tile."""
    eager = copy.deepcopy(network)
    x = torch.from_numpy(tile)[None, None]

    def run_eager() -> None:
        with torch.inference_mode():
            eager(x)

    ways: dict[str, Callable[[], object]] = {EAGER: run_eager}
    for engine in list_engines(threads=THREADS):
        run = prepare(engine, copy.deepcopy(network))
        ways[f"{engine.backend} {engine.precision}"] = partial(run, tile[None])
    return ways


def product_of(side: int) -> Work:
    """Return a product of square bfloat16 matrices, repeated so that it lasts as the others do."""
    a, b = (torch.rand(side, side).bfloat16() for _ in range(2))
    times = max(1, MATRIX_SIDES[-1] ** 3 // side**3 // 4)

    def multiply() -> None:
        for _ in range(times):
            torch.mm(a, b)

    return Work(multiply, times * side**3)


def measure(work: Work) -> dict[str, float]:
    """Return CPU and wall seconds for a megapixel, or for a multiply-add."""
    cpu, wall = time.process_time(), time.perf_counter()
    work.run()
    return {
        "cpu": (time.process_time() - cpu) / work.amount,
        "wall": (time.perf_counter() - wall) / work.amount,
    }


def count_products(network: nn.Module) -> float:
    """Return the multiply-adds of the convolutions for one pixel."""
    side_px = 64
    counted = 0

    def count(part: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal counted
        if isinstance(part, nn.Conv2d):  # each output is a sum over a kernel
            counted += output.numel() * part.weight[0].numel()
        elif isinstance(part, nn.ConvTranspose2d):  # each input is spread over a kernel
            counted += inputs[0].numel() * part.weight[0].numel()

    network = copy.deepcopy(network)
    for part in network.modules():
        part.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 1, side_px, side_px))
    return counted / side_px**2


def summarise(
    rows: list[dict[str, dict[str, float]]], products: dict[str, float], clock: str
) -> dict[str, Any]:
    """Return medians over the rounds, and the medians of the asked ratios, by one clock."""
    median = {name: statistics.median(row[name][clock] for row in rows) for name in rows[0]}

    def ratio(a: str, b: str) -> float:
        return statistics.median(row[a][clock] / row[b][clock] for row in rows)

    def fastest(kind: str) -> str:
        ways = (name for name in median if name.startswith(kind) and not name.endswith(EAGER))
        return min(ways, key=lambda name: median[name])

    fast, *papers = products
    best, matrix = {name: fastest(name) for name in products}, fastest(MATRIX)
    ratios = {"fast_over_matrix_product": ratio(best[fast], matrix) / (1e6 * products[fast])}
    for paper in papers:
        ratios[f"eager_{paper}_over_fast"] = ratio(f"{paper}, {EAGER}", best[fast])
        ratios[f"{paper}_over_its_eager"] = ratio(best[paper], f"{paper}, {EAGER}")
    return {
        "s_per_mp": {name: s for name, s in median.items() if not name.startswith(MATRIX)},
        "products_per_s": {name: 1 / s for name, s in median.items() if name.startswith(MATRIX)},
        "matrix_product_s_per_mp": {n: 1e6 * p * median[matrix] for n, p in products.items()},
        "best": best,
        "ratios": ratios,
    }


def measure_beads(model: cs.Model, fields: int) -> dict[str, Any]:
    """Return the median bead width in float32 and by the fastest engine, field by field."""
    fine = Engine(THREADS, "float32")
    rows = []
    simulated = cs.simulate("confocal-sted", sample="beads", pairs=fields, seed=2001)
    for pair in simulated:
        fast = cs.fastest_engine(model, pair.source, plan=cs.PredictionPlan(threads=THREADS))
        row: dict[str, Any] = {"engine": str(fast)}
        for name, engine in (("float32", fine), ("fastest", fast)):
            pixels = sharpen(model, pair.source.pixels[None], engine=engine)[0]
            sharp = pair.source.with_pixels(pixels)
            row[f"{name}_fwhm_nm"] = cs.measure("psf", sharp).value
        row["change"] = row["fastest_fwhm_nm"] / row["float32_fwhm_nm"] - 1
        rows.append(row)
    largest = max(abs(row["change"]) for row in rows)
    return {"largest_change": largest, "fields": rows}


if __name__ == "__main__":
    main()
