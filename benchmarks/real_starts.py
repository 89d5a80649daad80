"""Real microtubules, from several seeds -> results/real_microtubules.json and real_storm.json.

    python benchmarks/real_starts.py [OUT] [--only NAME ...] [--seeds 0 1 2] [--minutes 3]

Walks examples/real_microtubules.py and examples/real_storm.py for each seed, one after the other on
one thread (`--threads`): their trainings have minutes, not steps, and should have the processor for
themselves. A walk takes about twelve minutes. What is done isn't done again; OUT keeps the figures,
by default in `real_starts`. Where real images are absent it says so.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import real_microtubules
import real_storm
from recipes import DATA, absent_of

RESULTS = Path(__file__).parent / "results"
RECIPES = {"real_microtubules": real_microtubules, "real_storm": real_storm}
SEEDS, MINUTES, THREADS = (0, 1, 2), 3.0, 1
TOLD = ("input", "lucy_richardson", "output")


def main() -> None:
    """Walk what is not walked, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("real_starts"))
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="with others: no result")
    parser.add_argument("--threads", type=int, default=THREADS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.only:
        if absent := absent_of(RECIPES[name].NEEDS):
            print(f"{name} skipped: not in {DATA}: {', '.join(absent)}")
            continue
        budget = {"minutes": asked.minutes, "threads": asked.threads}
        found = {str(seed): do(name, asked.out, budget | {"seed": seed}) for seed in asked.seeds}
        figures = {"machine": describe_machine(), **budget, "summary": summarise(found)}
        print(name, json.dumps(figures["summary"], indent=1))
        if asked.minutes == MINUTES:
            text = json.dumps(figures | {"seeds": found}, indent=1, allow_nan=False)
            (RESULTS / f"{name}.json").write_text(text + "\n")


def do(name: str, out: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a walk's figures, from its folder where the same was walked before."""
    folder = out / f"{name}-{plan['seed']}"
    result = folder / "result.json"
    if result.exists():
        known = json.loads(result.read_text())
        if known["plan"] == plan:
            return dict(known["figures"])
    folder.mkdir(parents=True, exist_ok=True)
    figures = RECIPES[name].walk(folder, **plan)
    part = result.with_suffix(".part")
    part.write_text(json.dumps({"plan": plan, "figures": figures}, indent=1))
    part.replace(result)
    return figures


def summarise(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the medians over the seeds, in dB, and what it is worth to start from a model."""
    starts = [figures["starts"] for figures in found.values()]
    walks = {"walk": [figures for figures in found.values() if "psnr_db" in figures]}
    walks |= {start: [each[start] for each in starts] for start in starts[0]}
    return {
        "psnr_db": {
            name: {
                method: round(statistics.median(each["psnr_db"][method] for each in ones), 3)
                for method in TOLD
            }
            for name, ones in walks.items()
            if ones
        },
        "gain_of_start_db": gains_db(starts),
    }


def gains_db(starts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each budget by how much the start from a model is above that from nothing."""
    found = {}
    for name in starts[0]:
        start, budget = name.split(", ")
        if start != "from nothing":
            both = (name, f"from nothing, {budget}")
            outputs = [[each[of]["psnr_db"]["output"] for of in both] for each in starts]
            gains = [round(with_model - without, 3) for with_model, without in outputs]
            found[budget] = {
                "median": statistics.median(gains),
                "low": min(gains),
                "high": max(gains),
            }
    return found


if __name__ == "__main__":
    main()
