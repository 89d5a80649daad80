"""Do intervals hold what they promise? python benchmarks/quality/intervals.py [--pool 200]

T3 and T4, on the bead model that comes with the program and on a small one trained here. Heads are
learnt on the pairs that the model was trained on, calibration fields are of seed 3000, test fields
of `fields.SEEDS`. Each of 200 draws takes n calibration fields from the pool, with
replacement: the pool is then the whole population, and its mean loss the true risk. Coverage is
measured on the test fields, of the target as it was taken and of the truth without noise.

Spearman's correlation of width and error has a ceiling, for errors that are noise are random
however well their spread is known: it is measured beside it, with the error of the model alone (the
target without noise) and the noise's spread known from the camera.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fields import RESULTS, SEEDS, VIEWS
from machine import describe_machine
from recipes import take
from scipy import ndimage, stats

import crosscope as cs
from crosscope.data.registered import crop_like
from crosscope.model.heads import Heads
from crosscope.quality import intervals
from crosscope.quality.intervals import (
    ALPHA,
    DELTA,
    LAMBDAS,
    choose_lambda,
    count_outside,
    predict_moved,
)

VIEW = VIEWS["confocal-sted-beads"]
SIZE_PX = 192
DRAWS = 200
COUNTS = (22, 50, 100, 150)
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BLOCK_PX = 8
Pairs = list[cs.RegisteredPair]
Truth = dict[str, cs.Image]


def main() -> None:
    """Learn, calibrate, draw, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=int, default=200)
    parser.add_argument("--test", type=int, default=20, help="fields of each test seed")
    asked = parser.parse_args()
    training, _ = take(VIEW, pairs=16, size_px=512, seed=2000)
    pool, _ = take(VIEW, pairs=asked.pool, size_px=SIZE_PX, seed=3000)
    test: Pairs = []
    truth: Truth = {}
    for seed in SEEDS:
        pairs, true = take(VIEW, pairs=asked.test, size_px=SIZE_PX, seed=seed)
        test, truth = test + pairs, truth | true
    plan = cs.TrainingPlan(steps=300, threads=1, base=16)
    models: dict[str, Callable[[], cs.Model]] = {
        "confocal-sted-beads": lambda: cs.Model.load("confocal-sted-beads"),
        "small, trained here": lambda: cs.train(training[:8], plan),
    }
    found = {}
    for name, make in models.items():
        found[name] = measure(make(), training[:8], pool, test, truth)
        print(name, json.dumps(found[name], indent=1), flush=True)
        RESULTS.mkdir(parents=True, exist_ok=True)
        result = {
            "machine": describe_machine(),
            "alpha": ALPHA,
            "delta": DELTA,
            "draws": DRAWS,
            "bars": {
                "violations": DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / DRAWS),
                "coverage_from_100": [0.88, 0.94],
                "least_quartile": 0.8,
                "refused_below": 22,
                "calibration_error": 0.05,
                "spearman": 0.5,
            },
            "models": found,
        }
        (RESULTS / "intervals.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(
    model: cs.Model, training: Pairs, pool: Pairs, test: Pairs, truth: Truth
) -> dict[str, Any]:
    """Return all figures of one model."""
    began = time.process_time()
    heads = intervals.train_heads(model, training)
    seconds = time.process_time() - began
    refused = intervals.calibrate(model, heads, pool[:21])
    scores = [intervals.measure_scores(model, heads, pair).ravel() for pair in pool]
    losses = np.stack([count_outside(score) for score in scores])
    pixels = look_at(model, heads, test, truth)
    test_losses = count_outside(pixels["score"])
    risk = losses.mean(axis=0)
    rng = np.random.default_rng(0)
    draws = {}
    for n in COUNTS:
        chosen = []
        for _ in range(DRAWS):
            drawn = losses[rng.integers(len(losses), size=n)]
            chosen.append(choose_lambda(drawn, alpha=ALPHA, delta=DELTA))
        at = np.array([np.searchsorted(LAMBDAS, each) for each in chosen if each is not None])
        covered = 1 - test_losses[at]
        draws[n] = {
            "without": chosen.count(None),
            "violations": float(np.mean(risk[at] > ALPHA)),
            "coverage_of_population": float(np.mean(1 - risk[at])),
            "coverage_of_test": float(covered.mean()),
            "coverage_of_test_least_most": [float(covered.min()), float(covered.max())],
            "within_88_94": float(np.mean((covered >= 0.88) & (covered <= 0.94))),
        }
    factor = choose_lambda(losses, alpha=ALPHA, delta=DELTA)
    return {
        "head_training_cpu_s": seconds,
        "fields": {"pool": len(pool), "test": len(test)},
        "losses_sd_at_0.1": float(losses[:, np.argmax(risk <= ALPHA)].std()),
        "with_21_fields": refused.reason,
        "lambda": factor,
        "draws": draws,
    } | (judge(pixels, losses, factor) if factor else {})


def look_at(model: cs.Model, heads: Heads, pairs: Pairs, truth: Truth) -> dict[str, Any]:
    """Return for each pixel of the test fields what is compared, one after the other."""
    columns: dict[str, list[Any]] = {}
    for pair in pairs:
        output, low, high = (
            predict_moved(model, heads, pair.source.pixels, times).astype(float)
            for times in (0.0, -1.0, 1.0)
        )
        true = crop_like(truth[pair.name], pair).pixels.astype(float)
        off, off_true = pair.target.pixels - output, true - output
        widths = high - low
        noise2 = np.maximum(true - true.min(), 0) + np.var(
            (pair.target.pixels - true)[true < np.median(true)]
        )
        for name, values in {
            "score": off / np.where(off < 0, low - output, high - output),
            "score_true": off_true / np.where(off_true < 0, low - output, high - output),
            "width": widths,
            "error": np.abs(off),
            "error_true": np.abs(off_true),
            "ideal": np.sqrt(noise2 + off_true**2),
            "structure": true > model.target_scaling.offset + 0.1 * model.target_scaling.scale,
        }.items():
            columns.setdefault(name, []).append(values.ravel())
        for name, values in {"width_block": widths, "error_block": np.abs(off)}.items():
            smooth = ndimage.uniform_filter(values, BLOCK_PX)[::BLOCK_PX, ::BLOCK_PX]
            columns.setdefault(name, []).append(smooth.ravel())
    return {name: np.concatenate(values) for name, values in columns.items()}


def judge(pixels: dict[str, Any], losses: np.ndarray, factor: float) -> dict[str, Any]:
    """Return what the intervals of the whole pool are worth on the test fields."""
    inside = pixels["score"] <= factor
    quartile = np.searchsorted(np.quantile(pixels["width"], [0.25, 0.5, 0.75]), pixels["width"])
    reliability = {}
    for level in LEVELS:
        each = choose_lambda(losses, alpha=1 - level, delta=DELTA)
        reliability[level] = None if each is None else float(np.mean(pixels["score"] <= each))
    known = [abs(level - is_) for level, is_ in reliability.items() if is_ is not None]

    def spearman(a: str, b: str, part: Any = slice(None)) -> float:
        return float(stats.spearmanr(pixels[a][part], pixels[b][part]).statistic)

    structure = pixels["structure"]
    return {
        "coverage": float(inside.mean()),
        "coverage_of_truth": float(np.mean(pixels["score_true"] <= factor)),
        "coverage_in_structure": float(inside[structure].mean()),
        "coverage_by_width_quartile": [float(inside[quartile == n].mean()) for n in range(4)],
        "reliability": reliability,
        "calibration_error": float(np.mean(known)),
        "spearman": {
            "pixels": spearman("width", "error"),
            "pixels, ceiling": spearman("ideal", "error"),
            "pixels in structure": spearman("width", "error", structure),
            "pixels, error against the truth": spearman("width", "error_true"),
            f"means of {BLOCK_PX} px squares": spearman("width_block", "error_block"),
        },
        "structure_share": float(structure.mean()),
    }


if __name__ == "__main__":
    main()
