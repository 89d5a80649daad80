"""Beads' widths by the `paper` network, float32 against the fastest engine -> paper_widths.json.

    python benchmarks/paper_widths.py [--minutes 6]

Two `paper` networks, of base 32 and 64, are trained on beads by regression for some minutes of one
thread, longer the wider: enough for round beads, not for good ones. Asked: a change below 0.5 %.
"""

import argparse
import json
import sys
from pathlib import Path

from engines import BEAD_FIELDS, measure_beads
from machine import describe_machine

import crosscope as cs

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from beads_confocal_to_sted import BEADS
from recipes import take

RESULT = Path(__file__).parent / "results" / "paper_widths.json"
BASES = {32: 1.0, 64: 2.0}  # and how many times the minutes each has
SEED = 2000


def main() -> None:
    """Train, compare, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6.0)
    minutes = parser.parse_args().minutes
    pairs, _ = take(BEADS, pairs=8, size_px=512, seed=SEED)
    found = {}
    for base, times in BASES.items():
        plan = cs.TrainingPlan(
            network="paper",
            base=base,
            minutes=times * minutes,
            learning_rate=5e-4,
            warm_share=1.0,
            threads=1,
        )
        model = cs.train(pairs, plan, say=print)
        reached = {key: model.training[key] for key in ("steps", "validation")}
        found[f"paper {base}"] = reached | measure_beads(model, BEAD_FIELDS)
        print(base, found[f"paper {base}"], flush=True)
    result = {"machine": describe_machine(), "networks": found}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
