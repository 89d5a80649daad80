"""TIRF to TIRF-SIM: pits and filaments on a grid twice as fine, and pits followed over time.

    python examples/tirf_to_sim_time_lapse.py [OUT] [--small] [--seed N]

One model for pits, which is shown some dim fields, too, and is held to an adversary for longer, and
one for filaments. Pits near each other are told apart, on fields enough for a share of those at 120
nm. Then a time-lapse of pits that grow, stay and vanish is predicted, frame by frame and as a
rolling average: the light of each lone pit must keep its trace. How much it flickers from frame to
frame stands beside the truth, the target as it was taken, noise included, and what the photons of
the source let anyone know.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recipes import (
    POINTS,
    Size,
    View,
    card_of,
    figures_of,
    learn,
    percent,
    run,
    save_models,
)
from scipy import ndimage
from scipy.spatial import KDTree

import crosscope as cs
from crosscope.metrics.spots import (
    SpotComparison,
    Spots,
    close_pairs,
    compare_spots,
    match_spots,
)
from crosscope.metrics.typical import typical_fwhm
from crosscope.optics.misregistration import ALIGNED
from crosscope.optics.psf import fwhm_nm, sim_otf
from crosscope.optics.rendering import Grid, render
from crosscope.optics.samples import Emitters, pits

PITS, FILAMENTS = View("tirf-sim", "pits"), View("tirf-sim", "filaments")
# least squares draws a dim pit beside a bright one as its shoulder: an adversary parts them
PARTING: dict[str, Any] = {
    "warm_share": 0.7,
    "mse_share": 0.5,
    "ssim_share": 0.05,
    "adversarial_rate": 2e-4,
}
PIT_LIMITS = (
    "A resolution that its certificate claims is of points. Pits, which are discs and rings, are "
    "told apart from farther on only (docs/trust.md).",
    "Beads look much like pits: the gate refuses few of them (docs/trust.md).",
)
CLOSE_NM, CLOSE_HALF_NM = 120.0, 10.0  # 110 to 130 nm
PIT_NM = 150.0  # from the middle of two maxima: who else they may be of
CLOSE_FIELDS = 48  # times as many as for the other figures: few pits are so near to each other
PLAN = cs.PredictionPlan(threads=1, precision="float32")  # many small fields: none to measure on
SIM = sim_otf()
RINGS, SPOKES = 12, 24  # points that a pit's mean shape is drawn by
FRAMES = 30
LONE_NM = 600.0  # from the next pit: TIRF's widths don't overlap
APERTURE_PX = 9  # of the target: 290 nm, all of a pit's light
KNOWN_PX = 9  # of the source: 585 nm
ROLLING = 0.1  # of .05, .1 and .15 the first by which lapses of seeds 900 to 902 flicker no more
LEAST_CHANGE = 0.1  # SD of a trace, of full brightness: a steady pit has no trace to keep


def walk(out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Train both models, judge them, and follow pits."""
    figures, models = {}, {}
    for view in (PITS, FILAMENTS):
        plan = PARTING | {"served": take_lapses(size, seed)} if view is PITS else {}
        learnt = learn(view, size.of(view), seed, out / f"run-{view.sample}", **plan)
        learnt.report.save(out / f"report-{view.sample}", overwrite=True)
        figures[view.sample] = figures_of(learnt)
        models[f"tirf-sim-{view.sample}"] = learnt.model
    figures["close pits"] = resolve(models["tirf-sim-pits"], size, seed)
    figures["time-lapse"] = follow(models["tirf-sim-pits"], size, seed)
    save_models(models, cards(figures, size, seed), out)
    return figures


def cards(figures: Mapping[str, Any], size: Size, seed: int) -> dict[str, dict[str, Any]]:
    """Return both models' cards, from the figures of the walk."""
    limits = {PITS: (*PIT_LIMITS, *limits_of_pits(figures)), FILAMENTS: (POINTS,)}
    return {
        f"tirf-sim-{view.sample}": card_of(
            view,
            figures[view.sample],
            recipe=Path(__file__).name,
            size=size.of(view),
            seed=seed,
            limits=limits[view],
        )
        for view in (PITS, FILAMENTS)
    }


def limits_of_pits(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what close pits, rings and the time-lapse say of the pits' model."""
    close, lapse = figures["close pits"], figures["time-lapse"]
    two, ring = close["pits"], close["rings"]
    apart = f"{CLOSE_NM - CLOSE_HALF_NM:.0f} to {CLOSE_NM + CLOSE_HALF_NM:.0f} nm apart"
    if two["pairs"]:
        yield (
            f"Of two pits {apart}, centre to centre, {percent(two['output_share'])} come out as "
            f"two, in the target microscope's own image {percent(two['target_share'])}."
        )
    if ring["pairs"]:
        yield (
            f"What is finer is chance: of single pits whose labels make two maxima {apart}, "
            f"{percent(ring['output_share'])} come out as two."
        )
    if lapse["pits"]:
        single, rolled = (lapse[how]["flicker"] for how in ("frame by frame", "rolling average"))
        yield (
            f"Predicted frame by frame, the light of a lone pit flickers by {single:.3f} of its "
            f"span, with --rolling-average {ROLLING:g} by {rolled:.3f}, in truth by "
            f"{lapse['truth']['flicker']:.3f}."
        )


def resolve(model: cs.Model, size: Size, seed: int) -> dict[str, Any]:
    """Return the share of pairs about 120 nm apart, with no third near, that are seen as two.

    "pits" have their centres so far apart, as the simulation knows them, and are two maxima of the
    truth. "maxima" are so far apart in the truth and near two pits or more; "rings" are, too, but
    of one pit, whose labels form a ring. All images are on one grid: what registration leaves is
    not counted in. "Known" is what one would draw who knows of each pit where it is and how bright,
    but not where its labels sit.
    """
    _, pixel_nm = model.target_pixel_size_nm
    simulated = list(
        cs.simulate(
            PITS.system,
            sample="pits",
            pairs=CLOSE_FIELDS * size.test,
            size_px=size.size_px,
            seed=2 * seed + 1,
            misregistration=ALIGNED,
        )
    )
    fwhm_px = typical_fwhm([pair.truth.image.pixels for pair in simulated])
    seen: dict[str, dict[str, list[bool]]] = {
        of: {method: [] for method in ("output", "target", "known")}
        for of in ("pits", "maxima", "rings")
    }
    for pair in simulated:
        if fwhm_px is None:
            break
        truth = pair.truth.image.pixels.astype(np.float64)
        images = {
            "output": cs.predict(model, pair.source, plan=PLAN).pixels,
            "target": pair.target.pixels,
            "known": draw_known(pair.truth.emitters, Grid(size.size_px, pixel_nm, True)),
        }
        pits_px = pair.truth.emitters.objects_yx_nm / pixel_nm - 0.5
        for method, image in images.items():
            compared = compare_spots(image.astype(np.float64), truth, fwhm_px=fwhm_px)
            for of, both in judge_pairs(compared, pits_px, pixel_nm):
                seen[of][method].append(both)
    return {
        of: {"pairs": len(each["output"])}
        | {f"{method}_share": float(np.mean(s)) if s else None for method, s in each.items()}
        for of, each in seen.items()
    }


def judge_pairs(
    compared: SpotComparison, pits_px: NDArray[Any], pixel_nm: float
) -> Iterator[tuple[str, bool]]:
    """Yield of each close pair what it is of, "pits", "maxima" or "rings", and if both are seen."""
    bright = compared.reference.amplitude > compared.threshold  # they come first
    for two in about_120_nm(Spots(pits_px, np.ones(len(pits_px))), compared, pixel_nm):
        shown = match_spots(
            pits_px[two], compared.reference.yx_px[bright], radius_px=compared.fwhm_px / 2
        )
        if (shown >= 0).all():
            yield "pits", bool(np.isin(shown, compared.partner).all())
    centres = KDTree(pits_px)
    for two in about_120_nm(compared.reference, compared, pixel_nm):
        middle_px = compared.reference.yx_px[two].mean(axis=0)
        near = centres.query_ball_point(middle_px, PIT_NM / pixel_nm)
        of = "maxima" if len(near) > 1 else "rings"
        yield of, bool(np.isin(two, compared.partner).all())


def about_120_nm(
    spots: Spots, compared: SpotComparison, pixel_nm: float
) -> Iterator[NDArray[np.intp]]:
    """Yield the pairs that are alone with each other, and 110 to 130 nm apart."""
    alone_px = 2.5 * compared.fwhm_px
    for two in close_pairs(spots, threshold=compared.threshold, alone_px=alone_px):
        apart_nm = np.linalg.norm(np.diff(spots.yx_px[two], axis=0)) * pixel_nm
        if abs(apart_nm - CLOSE_NM) <= CLOSE_HALF_NM:
            yield two


def draw_known(emitters: Emitters, grid: Grid) -> NDArray[Any]:
    """Return the pits as TIRF-SIM shows them on the average.

    Each has its own light, at its place, in the mean shape of many.
    """
    many = pits(np.random.default_rng(0), extent_nm=60_000.0, finest_nm=fwhm_nm(SIM))
    assert many.owner is not None
    assert emitters.owner is not None
    away_nm = np.hypot(*(many.yx_nm - many.objects_yx_nm[many.owner]).T)
    radius_nm = np.quantile(away_nm, (np.arange(RINGS) + 0.5) / RINGS)
    angle = np.linspace(0, 2 * np.pi, SPOKES, endpoint=False) + np.arange(RINGS)[:, None]
    shape = (radius_nm[:, None, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)).reshape(
        -1, 2
    )
    places_nm = emitters.objects_yx_nm
    light = np.bincount(emitters.owner, emitters.weight, len(places_nm))
    return render(
        (places_nm[:, None] + shape).reshape(-1, 2),
        np.repeat(light / len(shape), len(shape)),
        otf=SIM,
        grid=grid,
    )


def take_lapses(size: Size, seed: int) -> list[cs.Image]:
    """Return frames of time-lapses: pits come and go, so that they are sparser than other fields.

    The model does not learn from them, but serves them: `follow` measures it. The gate has to know.
    """
    lapses = cs.simulate(
        PITS.system, sample="pits", pairs=3, size_px=size.size_px, frames=FRAMES, seed=2 * seed
    )
    sources = (pair.source for pair in lapses)
    return [image.with_pixels(image.pixels[[0, FRAMES // 2, -1]]) for image in sources]


def follow(model: cs.Model, size: Size, seed: int) -> dict[str, Any]:
    """Predict a time-lapse and compare the light of lone pits with the truth's.

    Of each pit: the correlation of its trace with the truth's, and its flicker, the SD of the
    trace's second differences, as a share of the truth's span; medians over the pits, and of the
    correlation the 5th percentile. The target is the other microscope's own images, whose noise no
    model has to have. "Known" is what the source's photons say to one who knows where each pit is,
    its shape and the light around it.
    """
    simulated = cs.simulate(
        PITS.system, sample="pits", pairs=1, size_px=size.size_px, frames=FRAMES, seed=2 * seed + 1
    )
    pair = next(iter(simulated))
    truth = pair.truth
    single, rolled = (
        cs.predict(model, pair.source, plan=replace(PLAN, rolling_average=weight))
        for weight in (None, ROLLING)
    )
    assert truth.traces is not None
    assert truth.image.pixel_size_nm is not None
    assert pair.source.pixel_size_nm is not None
    source_nm, pixel_nm = pair.source.pixel_size_nm[0], truth.image.pixel_size_nm[0]
    places_nm = truth.emitters.objects_yx_nm
    moved_nm = truth.warp.to_source_nm(places_nm)
    lone = KDTree(places_nm).query(places_nm, k=2)[0][:, 1] > LONE_NM
    changes = truth.traces.std(axis=1) > LEAST_CHANGE
    seen = {
        "truth": light_at(truth.image.pixels, places_nm / pixel_nm - 0.5),
        "target": light_at(pair.target.pixels, places_nm / pixel_nm - 0.5),
        "known": light_known(pair.source.pixels, moved_nm / source_nm - 0.5),
        "frame by frame": light_at(single.pixels, moved_nm / pixel_nm - 0.5),
        "rolling average": light_at(rolled.pixels, moved_nm / pixel_nm - 0.5),
    }
    kept = lone & changes & np.isfinite(list(seen.values())).all(axis=(0, 2))
    if not kept.any():
        return {"pits": 0}
    true = seen["truth"][kept]
    return {"pits": int(kept.sum())} | {
        name: compare_traces(light[kept], true) for name, light in seen.items()
    }


def compare_traces(light: NDArray[Any], true: NDArray[Any]) -> dict[str, float]:
    """Return how well traces follow the true ones, and how much they flicker: pits x frames."""
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(true, light, strict=True)]
    # gain and offset of the whole lapse: grey values are each microscope's own
    gain, offset = np.polyfit(light.ravel(), true.ravel(), 1)
    fitted = gain * light + offset
    flicker = np.diff(fitted, 2, axis=1).std(axis=1) / np.ptp(true, axis=1)
    return {
        "correlation": float(np.median(correlation)),
        "correlation_low": float(np.quantile(correlation, 0.05)),
        "flicker": float(np.median(flicker)),
    }


def light_at(frames: NDArray[Any], places_px: NDArray[Any]) -> NDArray[Any]:
    """Return the mean light around each place in each frame: pits x frames; NaN at the border."""
    half = APERTURE_PX // 2
    y, x = np.round(places_px).astype(int).T
    height, width = frames.shape[-2:]
    inside = (y >= half) & (y < height - half) & (x >= half) & (x < width - half)
    smooth = ndimage.uniform_filter(frames.astype(np.float64), (0, APERTURE_PX, APERTURE_PX))
    light = np.full((len(places_px), len(frames)), np.nan)
    light[inside] = smooth[:, y[inside], x[inside]].T
    return light


def light_known(frames: NDArray[Any], places_px: NDArray[Any]) -> NDArray[Any]:
    """Return the brightness of each pit in each frame, its shape being known: pits x frames.

    The shape is the mean over the frames above its lowest pixel, fitted to each frame, every pixel
    weighted by one over its grey value: about as its noise asks. NaN at the border.
    """
    half = KNOWN_PX // 2
    light = np.full((len(places_px), len(frames)), np.nan)
    for n, (y, x) in enumerate(np.round(places_px).astype(int)):
        window = frames[:, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
        if window.shape[1:] == (KNOWN_PX, KNOWN_PX):
            values = window.reshape(len(frames), -1).astype(np.float64)
            mean = values.mean(axis=0)
            shape = mean - mean.min()
            brightness = (values - mean.min()) @ (shape / mean) / (shape @ (shape / mean))
            light[n] = brightness * shape.sum()
    return light


if __name__ == "__main__":
    run(walk, __doc__, "tirf")
