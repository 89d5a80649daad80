"""The models that come with the program: certified, taken from recipes, or given their cards anew.

    python benchmarks/quality/certify_shipped.py [NAME ...]
    python benchmarks/quality/certify_shipped.py [NAME ...] --take FOLDER ...
    python benchmarks/quality/certify_shipped.py [NAME ...] --cards

First: where quality control has changed. On the pairs of their recipes, but for dim ones, which are
simulated again, and with intervals, calibrated on fields of another seed. The weights stay as they
are, to the last bit.

--take does the same to each NAME.zip that recipes have left in their folders, and puts it in place
of what comes with the program; without names, to all that are found. Take the beads' model before
the recipe of nuclei is run, which begins from the one that comes with the program. A recipe chooses
threads and precision by measurement unless they are given, and another processor adds up in another
order: a model made again is equal within rounding, and not to the bit.

--cards writes the cards alone, as the recipes would now, from the figures in results/systems.json,
which must be of these very models.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fields import VIEWS
from recipes import Size, take

import crosscope as cs
from crosscope.model.catalogue import SHIPPED

# isort: split
import beads_confocal_to_sted
import nuclei_by_transfer
import tirf_to_sim_time_lapse
import widefield_three_channels

SYSTEMS = Path(__file__).parents[1] / "results" / "systems.json"
SEED, SIZE = 1000, Size()  # of the recipes
KEPT_ASIDE_SEED, KEPT_ASIDE, KEPT_ASIDE_PX = 5000, 40, 256
RECIPES = {
    "beads": beads_confocal_to_sted,
    "widefield": widefield_three_channels,
    "tirf": tirf_to_sim_time_lapse,
    "nuclei": nuclei_by_transfer,
}


def main() -> None:
    """Do what is asked to all that are named, else to all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(VIEWS))
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--take", type=Path, nargs="+", metavar="FOLDER", help="of recipes")
    how.add_argument("--cards", action="store_true")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(VIEWS):
        parser.error(f"no such model: {', '.join(unknown)}")
    paths = find(asked.take) if asked.take else {name: SHIPPED / f"{name}.zip" for name in VIEWS}
    if absent := set(asked.names) - set(paths):
        parser.error(f"not in these folders: {', '.join(absent)}")
    cards = read_cards() if asked.cards else {}
    for name in asked.names or paths:
        model = cs.Model.load(paths[name])
        made = with_card(name, model, cards[name]) if asked.cards else certify(name, model)
        made.save(SHIPPED / f"{name}.zip", overwrite=True, half=True)
        again = cs.Model.load(name)
        assert_same(model, again, "generator", "twin")
        assert_same(made, again, "heads")
        print(f"{name}: {(SHIPPED / f'{name}.zip').stat().st_size} bytes", flush=True)


def find(folders: Sequence[Path]) -> dict[str, Path]:
    """Return where each model lies that recipes have left in these folders."""
    paths = [path for folder in folders for path in folder.glob("*.zip") if path.stem in VIEWS]
    found = {path.stem: path for path in paths}
    if len(found) < len(paths):
        sys.exit(f"A model lies in two of these folders: {', '.join(map(str, sorted(paths)))}")
    return found


def certify(name: str, model: cs.Model) -> cs.Model:
    """Return a model certified, with intervals, on what it has learnt from."""
    view = VIEWS[name]
    size = SIZE.of(view)
    pairs, _ = take(view, pairs=size.training, size_px=size.size_px, seed=2 * SEED)
    if unseen := {pair.name for pair in pairs} - {field.name for field in model.fields}:
        sys.exit(f"{name} was made by its recipe with another seed or size: {unseen} are new to it")
    kept_aside, _ = take(view, pairs=KEPT_ASIDE, size_px=KEPT_ASIDE_PX, seed=KEPT_ASIDE_SEED)
    heads = cs.train_heads(model, pairs)
    heads.half().float()  # as they are stored
    served = []
    if name == "tirf-sim-pits":
        served = tirf_to_sim_time_lapse.take_lapses(size, SEED)
    certified = cs.certify(replace(model, heads=heads), pairs, served=served)
    found = cs.calibrate(model, heads, kept_aside)
    certificate = {**certified.certificate, "intervals": found.to_json()}
    print(f"{name}: claims {certificate['claim']['resolution_nm']} nm, {found}")
    return replace(certified, certificate=certificate)


def read_cards() -> dict[str, dict[str, Any]]:
    """Return the card of each model, as its recipe writes it from the figures that are kept."""
    jobs = json.loads(SYSTEMS.read_text())["jobs"]
    return {
        name: card
        for job, recipe in RECIPES.items()
        for name, card in recipe.cards(jobs[f"{job}-{SEED}"]["figures"], SIZE, SEED).items()
    }


def with_card(name: str, model: cs.Model, card: dict[str, Any]) -> cs.Model:
    """Return a model with a new card, which must tell of the same figures."""
    if model.card["figures"] != card["figures"]:
        sys.exit(f"{SYSTEMS.name} has the figures of another training of {name}")
    return replace(model, card=card)


def assert_same(before: cs.Model, after: cs.Model, *networks: str) -> None:
    """Assert that weights are what they were, to the last bit."""
    for network in networks:
        old, new = (getattr(each, network).state_dict() for each in (before, after))
        assert all(torch.equal(old[key], new[key]) for key in old), network


if __name__ == "__main__":
    main()
