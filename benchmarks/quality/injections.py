"""Objects added to, taken from and changed in real outputs -> results/quality/injections.json.

    python benchmarks/quality/injections.py [NAME ...] [--seeds 3] [--fields N]

T1 and T2; models that are not named keep their figures. In outputs of the models of spots that come
with the program, and of one trained here for some minutes, isolated objects are changed: one is
added beside them (a quarter of their light), they are deleted, moved by 0.35 of the source's width,
made 1.5 times as bright, split in two half of that width apart; and close pairs, 0.3 to 0.7 of it
apart, are merged into one. What is moved, split or merged keeps its light. Of models of other
samples the light about bright places of the structure is changed in the same ways, but for pairs:
what a Gaussian window as wide as the source's blur cuts out of it. Score: the largest value
of the trust map near the place, before it is rounded; places that a change near them may reach
don't count as unchanged. "re-blur" is the fast check, also with a point spread function that is
known to 10 % only, "combined" the full one, with the twin; "SQUIRREL" the plain difference of the
output blurred by the same width. Sham: nothing is changed, some places against the others.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fields import RESULTS, SEEDS, VIEWS, auroc, keep, simulate
from recipes import take
from scipy import ndimage

import crosscope as cs
from crosscope.data.grids import resample
from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.metrics.spots import close_pairs, compare_spots
from crosscope.metrics.squirrel import measure_squirrel
from crosscope.metrics.typical import places_of
from crosscope.model.engine import Engine
from crosscope.prediction.tiling import sharpen
from crosscope.quality.forward import Forward
from crosscope.quality.inspection import read_usual
from crosscope.quality.reblur import LIMIT, make_reblurrer

FRESH = "beads, trained here"
SPOTS = ("beads", "pits")
MODELS = {
    "confocal-sted-beads": ("confocal-sted-beads", 24),
    "tirf-sim-pits": ("tirf-sim-pits", 120),
    FRESH: ("confocal-sted-beads", 24),
    **{name: (name, 0) for name, view in VIEWS.items() if view.sample not in SPOTS},
}
"""The view of each, and how many fields of each seed are looked at for pairs, which are rare."""
FIELDS = {"confocal-sted-nuclei": 30}
SIZE_PX, TRAINED_ON, STEPS = 512, 2000, 1500
ENGINE = Engine(1, "float32")
ADDED, BRIGHTER, MOVED, APART = 0.25, 1.5, 0.35, 0.5
PAIRED = (0.3, 0.7)
BEYOND = 3.0  # source widths from a change on: unchanged
OF_STRUCTURES = ("sham", "added", "deleted", "moved", "brighter")
KINDS = (*OF_STRUCTURES, "split", "merged")
BRIGHT, BRIGHTEST = 0.3, 99.5  # of the rise to this percentile: a bright place of a structure
WRONG_PSF = {"PSF known": 1.0, "PSF 10 % too wide": 1.1, "PSF 10 % too narrow": 0.9}
Grey = np.ndarray[Any, Any]


def main() -> None:
    """Inject, score, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--fields", type=int, help="else 8, of nuclei 30: few are in a field")
    asked = parser.parse_args()
    for name in asked.names:
        view, pair_fields = MODELS[name]
        spots = VIEWS[view].sample in SPOTS
        model = train_fresh() if name == FRESH else cs.Model.load(name)
        scores: dict[str, dict[str, dict[str, list[float]]]] = {}
        for seed in SEEDS[: asked.seeds]:
            whole = asked.fields or FIELDS.get(name, 8)
            fields = max(pair_fields, whole)
            pairs = simulate(VIEWS[view], fields=fields, size_px=SIZE_PX, seed=seed)
            for n, pair in enumerate(pairs):
                rng = np.random.default_rng([seed, n])
                every = KINDS if spots else OF_STRUCTURES
                chosen = every if n < whole else ("merged",)
                score_field(model, pair.source, scores, rng, chosen, spots=spots)
        found = {method: summarise(kinds) for method, kinds in scores.items()}
        for method, kinds in found.items():
            print(name, method, {kind: each["auroc"] for kind, each in kinds.items()}, flush=True)
        keep(RESULTS / "injections.json", name, found, limit=LIMIT)


def train_fresh() -> cs.Model:
    """Train a bead model as a user would, for some minutes."""
    pairs, _ = take(VIEWS["confocal-sted-beads"], pairs=16, size_px=SIZE_PX, seed=TRAINED_ON)
    plan = cs.TrainingPlan(steps=STEPS, threads=1, seed=5)
    return cs.certify(cs.train(pairs, plan), pairs, claims=False)


def score_field(
    model: cs.Model,
    image: cs.Image,
    scores: dict[str, Any],
    rng: Any,
    kinds: Sequence[str],
    *,
    spots: bool,
) -> None:
    """Change every third object of an output, or every pair, and score all places."""
    zoom = model.source_pixel_size_nm[0] / model.target_pixel_size_nm[0]
    source = resample(image.pixels, (zoom, zoom)).astype(np.float32)
    output = sharpen(model, source[None], engine=ENGINE)[0]
    twin = None
    if model.twin:
        twin = sharpen(model, source[None], engine=ENGINE, network=model.twin)[0]
    forward = Forward.from_json(model.certificate["forward"])
    width_px = forward.source_fwhm_px
    alone = isolated_places(output, forward) if spots else bright_places(output, forward)
    places = dict.fromkeys(KINDS, alone[:, None])
    if "merged" in kinds:
        places["merged"] = paired_places(output, forward)
    for kind in kinds:
        every = 1 if kind == "merged" else 3
        order = rng.permutation(len(places[kind]))
        changed, touched = output.copy(), []
        others = [place[0] for place in places["sham"]] if kind == "merged" else []
        for i, objects in enumerate(places[kind][order]):
            if i % every:  # these stay as they are
                others.append(objects.mean(axis=0))
            else:
                touched.append(change(changed, objects, kind, forward, rng, spots=spots))
        for method, score in methods(model, forward, source, changed, twin).items():
            near = round(width_px)
            kept = scores.setdefault(method, {}).setdefault(kind, {"with": [], "without": []})
            unchanged = others if kind == "sham" else apart(others, touched, width_px)
            kept["with"] += [largest(score, place, near) for place in touched]
            kept["without"] += [largest(score, place, near) for place in unchanged]


def methods(
    model: cs.Model, forward: Forward, source: Grey, output: Grey, twin: Grey | None
) -> dict[str, Grey]:
    """Return a score for each pixel, by the name of the method."""
    found = {}
    for name, factor in WRONG_PSF.items():
        reblurrer = make_reblurrer(stretched(forward, factor), [source], [output])
        z = np.abs(reblurrer.compare(source, output).z)
        blocks = z.repeat(forward.block_px, axis=0).repeat(forward.block_px, axis=1)
        found["re-blur" if factor == 1 else f"re-blur, {name}"] = blocks[
            : output.shape[0], : output.shape[1]
        ]
    if twin is not None:
        other = np.abs(read_usual(model)[0].disagreement(output, twin))
        found["combined"] = np.maximum(found["re-blur"], other)
    sigma_px = np.sqrt(forward.source_fwhm_px**2 - forward.target_fwhm_px**2) / FWHM_PER_SIGMA
    squirrel = measure_squirrel(output, source, sigma_px=float(sigma_px))
    if squirrel.error_map is not None:
        found["SQUIRREL"] = np.abs(squirrel.error_map)
    return found


def stretched(forward: Forward, factor: float) -> Forward:
    """Return a blur that is so many times as wide."""
    known = np.linspace(0, 0.5, len(forward.transfer))
    transfer = np.interp(np.minimum(known * factor, 0.5), known, forward.transfer)
    return replace(forward, transfer=tuple(transfer.tolist()))


def cut_out(output: Grey, at: Grey, forward: Forward) -> Grey:
    """Take the light about a pixel out of an output, in place, and return it."""
    radius_px = round(1.2 * forward.target_fwhm_px)
    window = tuple(slice(n - radius_px, n + radius_px + 1) for n in at)
    level = np.float32(np.median(output))
    light = output[window] - level
    output[window] = level
    return light


def cut_window(output: Grey, at: Grey, forward: Forward) -> Grey:
    """Take what a Gaussian window about a pixel shows out of an output, in place; return it."""
    radius_px = round(forward.source_fwhm_px)
    window = tuple(slice(n - radius_px, n + radius_px + 1) for n in at)
    line = np.exp(-0.5 * (np.arange(-radius_px, radius_px + 1) / _sigma(forward)) ** 2)
    level = np.float32(np.percentile(output, 5))
    light = np.maximum(output[window] - level, 0) * np.outer(line, line).astype(np.float32)
    output[window] -= light
    return light


def put_in(output: Grey, light: Grey, centre: Grey) -> None:
    """Add light about a place between the pixels; nothing of it is lost."""
    pixel = np.rint(centre).astype(int)
    moved = ndimage.shift(np.pad(light, 2), centre - pixel)
    corner = pixel - np.array(moved.shape) // 2
    output[tuple(slice(n, n + size) for n, size in zip(corner, moved.shape, strict=True))] += moved


def isolated_places(output: Grey, forward: Forward) -> Grey:
    """Return where objects stand alone, away from the border: n x 2."""
    distance_px = 2.5 * forward.source_fwhm_px
    places = places_of(output.astype(np.float64), forward.target_fwhm_px, distance_px)
    return places[inside(places, output, forward)]


def bright_places(output: Grey, forward: Forward) -> Grey:
    """Return bright places of structures, apart from each other and from the border: n x 2."""
    width_px = forward.source_fwhm_px
    smooth = ndimage.gaussian_filter(output.astype(np.float64), _sigma(forward))
    dark, bright = np.percentile(smooth, (5, BRIGHTEST))
    highest = ndimage.maximum_filter(smooth, 2 * round(BEYOND * width_px) + 1) == smooth
    places = np.argwhere(highest & (smooth > dark + BRIGHT * (bright - dark)))
    return places[inside(places, output, forward, widths=4)].astype(np.float64)


def _sigma(forward: Forward) -> float:
    return forward.source_fwhm_px / FWHM_PER_SIGMA


def paired_places(output: Grey, forward: Forward) -> Grey:
    """Return where two objects are close to each other and to no other: n x 2 x 2."""
    image, width_px = output.astype(np.float64), forward.source_fwhm_px
    found = compare_spots(image, image, fwhm_px=forward.target_fwhm_px)
    spots = found.reference
    pairs = close_pairs(spots, threshold=found.threshold, alone_px=width_px)
    if not len(pairs):
        return np.zeros((0, 2, 2))
    places = spots.yx_px[pairs]
    distance = np.linalg.norm(places[:, 0] - places[:, 1], axis=1) / width_px
    close = (distance > PAIRED[0]) & (distance < PAIRED[1])
    return places[close & inside(places.mean(axis=1), output, forward)]


def apart(others: list[Grey], touched: list[Grey], width_px: float) -> list[Grey]:
    """Return the places that no change near them can reach."""
    if not touched:
        return others
    changes = np.array(touched)
    return [
        place
        for place in others
        if np.linalg.norm(changes - place, axis=1).min() > BEYOND * width_px
    ]


def inside(places: Grey, output: Grey, forward: Forward, *, widths: float = 3) -> Grey:
    """Tell which places are far enough from the border."""
    margin = widths * forward.source_fwhm_px
    return np.all((places > margin) & (places < np.array(output.shape) - margin), axis=1)


def change(
    output: Grey, objects: Grey, kind: str, forward: Forward, rng: Any, *, spots: bool = True
) -> Grey:
    """Change one object of an output, or a pair, in place; return where the change is.

    What is moved or split keeps its light and, of spots, its shape: nothing else may give it away.
    """
    place, angle = objects.mean(axis=0), rng.uniform(0, 2 * np.pi)
    along = forward.source_fwhm_px * np.array([np.sin(angle), np.cos(angle)])
    if kind == "sham":
        return place
    pixels = np.rint(objects).astype(int)
    cut = cut_out if spots else cut_window
    lights = [cut(output, pixel, forward) for pixel in pixels]
    if kind == "added":
        put_in(output, lights[0], pixels[0])
        put_in(output, ADDED * lights[0], pixels[0] + 1.2 * along)
        return place + 1.2 * along
    if kind == "brighter":
        put_in(output, BRIGHTER * lights[0], pixels[0])
    elif kind == "moved":
        put_in(output, lights[0], pixels[0] + MOVED * along)
    elif kind == "split":
        for side in (-0.5, 0.5):
            put_in(output, lights[0] / 2, pixels[0] + side * APART * along)
    elif kind == "merged":
        weights = [light.sum() for light in lights]
        middle = np.average(objects, axis=0, weights=weights)
        put_in(output, round_spot(sum(weights), lights[0].shape[0], forward), middle)
    return place


def round_spot(light: float, size_px: int, forward: Forward) -> Grey:
    """Return so much light, as wide as the target's finest structure."""
    from_middle = np.arange(size_px) - size_px // 2
    line = np.exp(-(from_middle**2) / 2 / (forward.target_fwhm_px / FWHM_PER_SIGMA) ** 2)
    spot = np.outer(line, line)
    return light * spot / spot.sum()


def largest(score: Grey, place: Grey, near: int) -> float:
    """Return the largest score near a place."""
    y, x = np.rint(place).astype(int)
    part = score[max(0, y - near) : y + near + 1, max(0, x - near) : x + near + 1]
    return float(part.max())


def summarise(kinds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return AUROC, recall at 5 % false alarms, and at the limit; null where nothing was found."""
    found: dict[str, Any] = {}
    for kind, scores in kinds.items():
        with_, without = scores["with"], scores["without"]
        if not (with_ and without):
            found[kind] = {"n": len(with_), "without": len(without), "auroc": None}
            continue
        level = float(np.quantile(without, 0.95))
        found[kind] = {
            "n": len(with_),
            "without": len(without),
            "auroc": auroc(without, with_),
            "recall_at_5_percent": float(np.mean(np.array(with_) > level)),
            "recall_at_limit": float(np.mean(np.array(with_) > LIMIT)),
            "alarms_at_limit": float(np.mean(np.array(without) > LIMIT)),
        }
    return found


if __name__ == "__main__":
    main()
