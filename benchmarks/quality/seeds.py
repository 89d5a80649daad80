"""Two trainings of one recipe: what only one of them shows -> results/quality/seeds.json (T8).

    python benchmarks/quality/seeds.py [seeds] [--steps 1500] [--fields 24]

Models A and B learn from the same 16 pairs by the same plan, the default's but for few steps; of
the pits' recipe that is a third of the fields, none of them dim, and another adversary. Only the
seed differs; A has a twin and members. Objects are found in their outputs as reports find them:
spots above a quarter of the typical one, and in the other output down to half of that. "In one
only": without a partner within half of the target's width in the other's output; asked for at most
5 %. Such an object is flagged where A's trust map is above the limit anywhere within half of that
width: by the input alone, with the twin, and with twin and members (`check --level full`); asked
for at least 80 %. Or, one of A's, by the rules of `count_support`: where one of these networks does
not show it, or shows it lower, or another object lies closer than the model is known to tell points
apart. Beside it: the same of the objects that both show and the truth has, false alarms, and of
those that the truth has not. The rules were chosen on the fields of seeds 3101 and 3103. What lies
near the border is left out. Trained models stay in the folder, and are not trained again.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fields import PLAN, RESULTS, VIEWS, simulate
from machine import describe_machine
from recipes import Size, take, train
from scipy import ndimage

import crosscope as cs
from crosscope.data.grids import resample
from crosscope.metrics.spots import SpotComparison, compare_spots, match_spots
from crosscope.model.engine import Engine
from crosscope.optics.misregistration import ALIGNED
from crosscope.prediction.tiling import sharpen
from crosscope.quality.claim import Claim
from crosscope.quality.forward import Forward
from crosscope.quality.inspection import TENTHS, read_usual
from crosscope.quality.support import STEADY, nearest_other

SEEDS = (3131, 3133, 3135)
TRAINED_ON = 3000
SEED_A, SEED_B = 1, 11
NAMES, MEMBERS = ("confocal-sted-beads", "tirf-sim-pits"), 3
STEPS, FIELDS = 1500, 24
LIMITS = (3.0, 5.0)
SIZE_PX = 512
MARGIN = 3.0  # source widths from the border: nothing is said there
ENGINE = Engine(1, "float32")
Grey = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of an output, over all fields: one entry each.

    Attributes
    ----------
    shared, strict : bool
        Whether the other training shows it: down to half the threshold, and above the threshold.
    true : bool
        Whether the truth has it.
    height : float
        As a multiple of the threshold.
    neighbour : float
        Distance to the nearest other object of its output, in widths of the target.
    close : bool
        Whether that is less than what A claims to tell apart.
    doubt : mapping
        The largest in the trust map near it, standard deviations: by the "input alone", and with
        the sisters, one more each time: "twin", "twin and 1 more" and so on.
    least : mapping
        The least height that one of these networks gives it, as a share of its own: "twin", "twin
        and 1 more" and so on; of A's only.
    """

    shared: Grey
    strict: Grey
    true: Grey
    height: Grey
    neighbour: Grey
    close: Grey
    doubt: dict[str, Grey]
    least: dict[str, Grey]


def main() -> None:
    """Train, look at both outputs of every field, and write."""
    parser = argparse.ArgumentParser(description=__doc__)  # with other numbers: no result
    parser.add_argument("out", type=Path, nargs="?", default=Path("seeds"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--fields", type=int, default=FIELDS, help="of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    asked = parser.parse_args()
    found = {}
    for name in NAMES:
        model, other = learn(name, asked.out / name, Size(steps=asked.steps, threads=1))
        looks = [
            look(model, other, pair.source, pair.truth.image.pixels)
            for seed in asked.seeds
            for pair in simulate(
                VIEWS[name],
                fields=asked.fields,
                size_px=SIZE_PX,
                seed=seed,
                misregistration=ALIGNED,
            )
        ]
        found[name] = summarise(looks) | {
            "fields": asked.fields * len(asked.seeds),
            "steps": model.training["steps"],
        }
        print(name, json.dumps(found[name], indent=1), flush=True)
    if (tuple(asked.seeds), asked.fields, asked.steps) == (SEEDS, FIELDS, STEPS):
        RESULTS.mkdir(parents=True, exist_ok=True)
        result = {"machine": describe_machine(), "limits": LIMITS, "models": found}
        (RESULTS / "seeds.json").write_text(json.dumps(result, indent=1) + "\n")


def learn(name: str, out: Path, size: Size) -> list[cs.Model]:
    """Return A with its members, certified, and B."""
    paths = [out / "first.zip", out / "b" / "model.zip"]
    if not all(path.exists() for path in paths):
        pairs, _ = take(VIEWS[name], pairs=size.training, size_px=size.size_px, seed=TRAINED_ON)
        train(pairs, size, SEED_B, out / "b")
        first, *members = (
            train(pairs, size, SEED_A, out / f"a-{member}", member=member)
            for member in range(1 + MEMBERS)
        )
        cs.certify(cs.join_members(first, members), pairs).save(paths[0], overwrite=True)
    return [cs.Model.load(path) for path in paths]


def look(model: cs.Model, other: cs.Model, image: cs.Image, truth: Grey) -> tuple[Objects, Objects]:
    """Return A's objects in a field, and B's; what is doubted and seen at their places is A's."""
    forward = Forward.from_json(model.certificate["forward"])
    claimed_nm = Claim.from_json(model.certificate["claim"]).resolution_nm
    claimed_px = (claimed_nm or 0.0) / math.sqrt(math.prod(model.target_pixel_size_nm))
    radius_px = forward.target_fwhm_px / 2
    output, rival = (cs.predict(each, image, plan=PLAN) for each in (model, other))
    spots = [find(each.pixels, truth, forward) for each in (output, rival)]
    zoom = tuple(np.divide(truth.shape, image.pixels.shape))
    source = resample(image.pixels, zoom).astype(np.float32)
    names = ["twin", *(f"twin and {n + 1} more" for n in range(len(model.members)))]
    trust = cs.check(model, image, output, plan=PLAN).trust
    assert trust is not None
    largest = trust.pixels / TENTHS
    doubt, sisters = {"input alone": largest}, {}
    for name, network, known in zip(names, model.sisters, read_usual(model), strict=True):
        made = sharpen(model, source[None], engine=ENGINE, network=network)[0]
        of_it = np.abs(known.disagreement(output.pixels, made))
        largest = doubt[name] = np.maximum(largest, of_it)
        sisters[name] = find(made, truth, forward)

    def describe(
        own: SpotComparison, rival: SpotComparison, sisters: dict[str, SpotComparison]
    ) -> Objects:
        yx_px = own.found.yx_px
        margin = MARGIN * forward.source_fwhm_px
        inside = np.all((yx_px > margin) & (yx_px < np.array(truth.shape) - margin), axis=1)
        chosen = inside & (own.found.amplitude > own.threshold)
        alone = nearest_other(yx_px[chosen])
        lowest, least = np.ones(len(alone)), {}
        for name, each in sisters.items():
            lowest = least[name] = np.minimum(lowest, height_in(own, each, radius_px)[chosen])
        return Objects(
            shared=shown(own, rival, radius_px)[chosen],
            strict=shown(own, rival, radius_px, above=rival.threshold)[chosen],
            true=(own.partner >= 0)[chosen],
            height=own.found.amplitude[chosen] / own.threshold,
            neighbour=alone / forward.target_fwhm_px,
            close=alone < claimed_px,
            doubt={name: near(each, yx_px[chosen], radius_px) for name, each in doubt.items()},
            least=least,
        )

    # no count for B's: A's twin comes from A, so that it lacks what A lacks
    return describe(spots[0], spots[1], sisters), describe(spots[1], spots[0], {})


def find(output: Grey, truth: Grey, forward: Forward) -> SpotComparison:
    """Find an output's objects as reports do."""
    return compare_spots(
        output.astype(np.float64), truth.astype(np.float64), fwhm_px=forward.target_fwhm_px
    )


def shown(one: SpotComparison, other: SpotComparison, radius_px: float, above: float = 0.0) -> Grey:
    """Tell which of one output's spots another shows, above a height."""
    there = other.found.yx_px[other.found.amplitude > above]
    return match_spots(one.found.yx_px, there, radius_px=radius_px) >= 0


def height_in(one: SpotComparison, other: SpotComparison, radius_px: float) -> Grey:
    """Return how high another output shows each of one's spots, as a share; 0 where it does not."""
    partner = match_spots(one.found.yx_px, other.found.yx_px, radius_px=radius_px)
    height = other.found.amplitude[partner] / one.found.amplitude
    return np.where(partner >= 0, height, 0.0)


def near(doubt: Grey, yx_px: Grey, radius_px: float) -> Grey:
    """Return the largest doubt within a radius of each place."""
    r = int(np.ceil(radius_px))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    highest = ndimage.maximum_filter(doubt, footprint=y**2 + x**2 <= radius_px**2)
    return highest[tuple(np.rint(yx_px).astype(int).T)]


def summarise(looks: list[tuple[Objects, Objects]]) -> dict[str, Any]:
    """Return how many objects one training alone shows, what they are like, and what is flagged."""
    in_a, in_b = (join(objects) for objects in zip(*looks, strict=True))
    return {
        "both": count(join((in_a, in_b))),
        "in_a": count(in_a) | {"flagged": flag(in_a)},
        "in_b": count(in_b) | {"flagged": flag(in_b)},
    }


def join(fields: tuple[Objects, ...]) -> Objects:
    """Return the objects of all fields as one."""
    joined: dict[str, Any] = {}
    for name, first in vars(fields[0]).items():
        every = [getattr(each, name) for each in fields]
        joined[name] = (
            {key: np.concatenate([each.get(key, np.zeros(0)) for each in every]) for key in first}
            if isinstance(first, dict)
            else np.concatenate(every)
        )
    return Objects(**joined)


def count(side: Objects) -> dict[str, Any]:
    """Return how many objects one training alone shows, and what they are like."""
    only = ~side.shared
    return {
        "objects": len(only),
        "only": int(only.sum()),
        "only_share": float(only.mean()),
        "only_share_at_one_threshold": float((~side.strict).mean()),
        "only_true": share(side.true, only),
        "only_height": quartiles(side.height[only]),
        "only_neighbour": quartiles(side.neighbour[only]),
        "height": quartiles(side.height),
        "neighbour": quartiles(side.neighbour),
        "not_true": int((~side.true).sum()),
    }


def flag(side: Objects) -> dict[str, Any]:
    """Return which parts are flagged, and by what."""
    flags = {
        f"map above {limit:g}, {name}": values > limit
        for name, values in side.doubt.items()
        for limit in LIMITS
    }
    flags["close"] = side.close
    for name, least in side.least.items():
        flags[f"not shown by all, {name}"] = least == 0
        flags[f"unsteady, {name}"] = least < STEADY
        flags[f"unsteady or close, {name}"] = (least < STEADY) | side.close
    return {
        name: {
            "only": share(flagged, ~side.shared),
            "not_true": share(flagged, ~side.true),
            "both_and_true": share(flagged, side.shared & side.true),
        }
        for name, flagged in flags.items()
    }


def share(flag: Grey, of: Grey) -> float | None:
    """Return which part is flagged; None of nothing."""
    return float(flag[of].mean()) if of.any() else None


def quartiles(values: Grey) -> list[float] | None:
    """Return the quartiles, the median in the middle."""
    return np.quantile(values, (0.25, 0.5, 0.75)).round(3).tolist() if len(values) else None


if __name__ == "__main__":
    main()
