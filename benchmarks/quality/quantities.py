"""Claimed resolution, linearity (T6) and empty fields (T7) of the models that we ship.

    python benchmarks/quality/quantities.py [NAME ...]

Models that are not named keep their figures. Bead and pit model, 3 seeds. The microscope is
estimated from the model's training pairs; beside it stands the true one of the simulation, with its
own objects (beads, pits of 80 to 160 nm) and with points, and the separation that pairs of held-out
fields need (systems.json: three of four come out as two). For T6 the fields are simulated anew at
each exposure and judged by the truth's light, that of isolated points or, by models that were made
for no points, of bright blocks; for T7 the camera sees nothing but its background, which the gate
is to call "no signal".
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fields import PHOTONS, RESULTS, SEEDS, VIEWS, keep, simulate
from jaxtyping import Float
from recipes import View, take
from scipy import stats

import crosscope as cs
from crosscope.data.grids import in_blocks
from crosscope.metrics.spots import find_spots, isolated
from crosscope.optics.camera import Camera, expose
from crosscope.optics.misregistration import ALIGNED
from crosscope.optics.psf import confocal_otf, fwhm_nm, sim_otf, sted_otf, tirf_otf, widefield_otf
from crosscope.optics.rendering import Grid, render
from crosscope.optics.systems import SAMPLES, Microscope
from crosscope.prediction.tiling import sharpen
from crosscope.quality.claim import BRIGHTNESS, ENGINE, measure_claim, upper_bound
from crosscope.quality.forward import Forward
from crosscope.quality.points import See, cell_centres, light_of
from crosscope.quality.quantities import EXPOSURES, OFFSETS, measure_quantities
from crosscope.quality.reblur import learn_forward

TRAINED_ON, DEFAULT = 2000, RESULTS / "quantities.json"
FIELD_PX, EMPTY, FALSE = 512, 100, 0.10
BLOCK_PX, BRIGHT = 16, 0.25  # of the blocks whose light is followed: of a bright one's
BARS = {
    "t6_r2": 0.99,
    "t6_slope_off": 0.05,
    "t7_false_objects_per_field": 1.0,
    "claim_error_rate": 0.05,
}
COUNTER = Camera(offset=10.0, gain=1.0, read_noise=0.0, background=2.0)
SCMOS = Camera(offset=100.0, gain=2.0, read_noise=3.0, background=20.0)
TIRF = replace(SCMOS, background=10.0)
CONFOCAL = Microscope(confocal_otf(), 30.0, integrates=False, camera=COUNTER)
POINTS = {
    "confocal-sted-beads": (VIEWS["confocal-sted-beads"], CONFOCAL, "beads-1000/figures"),
    "tirf-sim-pits": (
        VIEWS["tirf-sim-pits"],
        Microscope(tirf_otf(), 65.0, integrates=True, camera=TIRF),
        "tirf-1000/figures/pits",
    ),
}
OTHERS = {
    "confocal-sted-nuclei": CONFOCAL,
    "tirf-sim-filaments": Microscope(tirf_otf(), 65.0, integrates=True, camera=TIRF),
} | {
    f"widefield-20x-{channel}": Microscope(
        widefield_otf(na=0.4, emission_nm=emission_nm), 650.0, integrates=True, camera=SCMOS
    )
    for channel, emission_nm in (("dapi", 461.0), ("fitc", 519.0), ("txred", 615.0))
}


def main() -> None:
    """Measure everything and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*POINTS, *OTHERS])
    parser.add_argument("--out", type=Path, default=DEFAULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--pairs", type=int, default=16, help="of training, to estimate from")
    parser.add_argument("--empty", type=int, default=EMPTY)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.names:
        found = measure_points(name, asked) if name in POINTS else measure_other(name, asked)
        keep(asked.out, name, found, seeds=list(asked.seeds), bars=BARS)
        print(name, json.dumps({k: v for k, v in found.items() if k != "seeds"}), flush=True)


def measure_other(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure a model that was made for no points: its light, and what it shows of nothing."""
    model = cs.Model.load(name)
    # no points, no typical one: a tenth of the target's scale counts
    least = FALSE * model.target_scaling.scale
    t7 = count_in_empty(model, OTHERS[name], least, 3.0, asked.empty, seed=SEEDS[0])
    each = [expose_blocks_by_steps(model, VIEWS[name], seed) for seed in asked.seeds]
    t6: dict[str, Any] = {key: [one[key] for one in each] for key in ("slope", "r2", "n", "ratios")}
    return {"t6": t6 | {"passes": [_passes_t6(one) for one in each]}, "t7": t7}


def measure_points(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure a model that makes points of points."""
    view, microscope, place = POINTS[name]
    model = cs.Model.load(name)
    pairs, _ = take(view, pairs=asked.pairs, size_px=FIELD_PX, seed=TRAINED_ON)
    outputs = [sharpen(model, pair.source.pixels[None], engine=ENGINE)[0] for pair in pairs]
    zoom = model.source_pixel_size_nm[0] / model.target_pixel_size_nm[0]
    forward = learn_forward(pairs, outputs, zoom=zoom)
    true = truly_seen(_labels(view), microscope, model)
    points = truly_seen([np.zeros((1, 2))], microscope, model)
    found: dict[str, Any] = {"forward": forward.to_json(), "seeds": {}}
    for seed in asked.seeds:
        began = time.process_time()
        claims = {"estimated": measure_claim(model, forward, seed=seed)}
        cost_s = time.process_time() - began
        claims["true"] = measure_claim(model, forward, see=true, seed=seed)
        claims["true_points"] = measure_claim(model, forward, see=points, trials=100, seed=seed)
        claims["dim"] = measure_claim(
            model, forward, brightness=BRIGHTNESS / 2, trials=100, seed=seed
        )
        t6, height = expose_by_steps(model, view, microscope, forward, seed)
        found["seeds"][str(seed)] = {
            "claim": {key: claim.to_json() for key, claim in claims.items()},
            "claim_cpu_s": round(cost_s, 1),
            "quantities": measure_quantities(model, forward, seed=seed).to_json(),
            "t6": t6,
        }
        print(name, seed, *(claim.sentence for claim in claims.values()), t6, sep="\n ", flush=True)
    found["t7"] = count_in_empty(
        model, microscope, FALSE * height, forward.target_fwhm_px, asked.empty, seed=2001
    )
    each = found["seeds"].values()
    found["resolution_nm"] = {
        key: [one["claim"][key]["resolution_nm"] for one in each]
        for key in ("estimated", "true", "true_points", "dim")
    }
    systems = json.loads((RESULTS.parent / "systems.json").read_text())["jobs"]
    for key in place.split("/"):
        systems = systems[key]
    found["resolved_nm"] = systems["resolved_nm"]
    found["t6"] = {key: [one["t6"][key] for one in each] for key in ("slope", "r2", "n")}
    found["t6"]["passes"] = [_passes_t6(one["t6"]) for one in each]
    found["t6"]["straight_line_passes"] = [_passes_t6(one["t6"]["straight_line"]) for one in each]
    return found


def truly_seen(
    labels: list[Float[np.ndarray, "_n 2"]], microscope: Microscope, model: cs.Model
) -> See:
    """Return the true microscope's view of objects, all equally bright.

    `labels` are the places of each object's emitters around its middle, nm.
    """
    pixel_nm = model.target_pixel_size_nm[0]

    def light(
        yx_nm: Float[np.ndarray, "n 2"],
        weights: Float[np.ndarray, "n"],
        size_px: int,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "y x"]:
        grid = Grid(
            round(size_px * pixel_nm / microscope.pixel_nm),
            microscope.pixel_nm,
            microscope.integrates,
        )
        if not len(yx_nm):
            return np.zeros((grid.size_px,) * 2)
        drawn = [labels[n] for n in rng.integers(len(labels), size=len(yx_nm))]
        places = np.concatenate([at + each for at, each in zip(yx_nm, drawn, strict=True)])
        shares = np.concatenate(
            [np.full(len(each), w / len(each)) for w, each in zip(weights, drawn, strict=True)]
        )
        return render(places, shares, otf=microscope.otf, grid=grid)

    rng = np.random.default_rng(8)
    source_px = fwhm_nm(microscope.otf) / pixel_nm
    alone_nm = (cell_centres(source_px, size_px=FIELD_PX, rng=rng) + 0.5) * pixel_nm
    image = light(alone_nm, np.ones(len(alone_nm)), FIELD_PX, rng)
    pixel = np.floor(alone_nm / microscope.pixel_nm).astype(int)
    peak = float(np.median(image[tuple(pixel.T)]))  # of an object of weight 1

    def see(
        yx_px: Float[np.ndarray, "n 2"],
        peaks: Float[np.ndarray, "n"],
        size_px: int,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "y x"]:
        weights = peaks / microscope.camera.gain / peak
        photons = light((yx_px + 0.5) * pixel_nm, weights, size_px, rng)
        return expose(np.maximum(photons, 0), microscope.camera, rng=rng).astype(np.float64)

    return see


def _labels(view: View) -> list[Float[np.ndarray, "_n 2"]]:
    finest_nm = fwhm_nm(sted_otf() if view.system == "confocal-sted" else sim_otf())
    stock = SAMPLES[view.sample](np.random.default_rng(7), extent_nm=6e4, finest_nm=finest_nm)
    assert stock.owner is not None
    labels = [
        stock.yx_nm[stock.owner == n] - stock.objects_yx_nm[n]
        for n in range(min(300, len(stock.objects_yx_nm)))
    ]
    return [each for each in labels if len(each)]


def expose_by_steps(
    model: cs.Model, view: View, microscope: Microscope, forward: Forward, seed: int
) -> tuple[dict[str, Any], float]:
    """T6: the light of isolated objects beside the truth's; and a typical one's height."""
    usual = PHOTONS[view.system]
    pixel_nm = model.target_pixel_size_nm[0]
    source_px = fwhm_nm(microscope.otf) / pixel_nm
    into, out, step, heights, changes = [], [], [], [], []
    for exposure in EXPOSURES:
        simulated = cs.simulate(
            view.system,
            sample=view.sample,
            pairs=4,
            size_px=FIELD_PX,
            photons=usual * exposure,
            seed=seed,
            misregistration=ALIGNED,
        )
        for pair in simulated:
            raw = pair.source.pixels.astype(np.float64)
            output = _sharp(model, raw, forward.zoom)
            truth = pair.truth.image.pixels.astype(np.float64)
            yx_px = pair.truth.emitters.objects_yx_nm / pixel_nm - 0.5
            alone = isolated(yx_px, distance_px=3 * source_px)
            inside = np.all((yx_px > 2 * source_px) & (yx_px < FIELD_PX - 2 * source_px), axis=1)
            yx_px = yx_px[alone & inside]
            lights = [light_of(i, yx_px, radius_px=1.5 * source_px) for i in (truth, output)]
            into.append(lights[0] * exposure)
            out.append(lights[1])
            step.append(np.full(len(yx_px), exposure))
            if exposure == 1.0:
                spots = find_spots(output, fwhm_px=forward.target_fwhm_px, threshold=0.0)
                heights += [
                    float(spots.amplitude[near.argmin()])
                    for at in yx_px
                    if (near := np.linalg.norm(spots.yx_px - at, axis=1)).min() < source_px / 2
                ]
                for offset in OFFSETS:
                    told = replace(
                        model.source_scaling, offset=model.source_scaling.offset + offset
                    )
                    moved = _sharp(model, raw + offset, forward.zoom, source_scaling=told)
                    changes.append(float(np.abs(moved - output).max() / np.ptp(output)))
    x, y, at = (np.concatenate(each) for each in (into, out, step))
    shown = (x > 0) & (y > 0)
    fit = stats.linregress(np.log(x[shown]), np.log(y[shown]))
    straight = stats.linregress(x, y)
    return {
        "slope": float(fit.slope),
        "r2": float(fit.rvalue**2),
        "n": int(shown.sum()),
        "no_light": int((~shown).sum()),
        "straight_line": {
            "slope": float(straight.slope),
            "intercept": float(straight.intercept / np.median(x[at == 1.0])),
            "r2": float(straight.rvalue**2),
        },
        "ratios": {str(e): float(np.median(y[at == e] / x[at == e])) for e in EXPOSURES},
        "offset_change_of_range": max(changes),
    }, float(np.median(heights))


def expose_blocks_by_steps(model: cs.Model, view: View, seed: int) -> dict[str, Any]:
    """T6: the light of bright blocks above the camera's background, beside the truth's."""
    zoom = model.source_pixel_size_nm[0] / model.target_pixel_size_nm[0]
    into, out, at = [], [], []
    for exposure in EXPOSURES:
        photons = PHOTONS[view.system] * exposure
        options = {"photons": photons, "misregistration": ALIGNED}
        for pair in simulate(view, fields=2, size_px=FIELD_PX, seed=seed, **options):
            camera = pair.truth.target_camera
            level = camera.offset + camera.gain * camera.background
            output = _sharp(model, pair.source.pixels.astype(np.float64), zoom)
            truth = pair.truth.image.pixels.astype(np.float64)
            lights = [in_blocks(i - level, BLOCK_PX)[1:-1, 1:-1].ravel() for i in (truth, output)]
            bright = lights[0] > BRIGHT * np.quantile(lights[0], 0.99)
            into.append(lights[0][bright] * exposure)
            out.append(lights[1][bright])
            at.append(np.full(bright.sum(), exposure))
    x, y, step = (np.concatenate(each) for each in (into, out, at))
    fit = stats.linregress(np.log(x[y > 0]), np.log(y[y > 0]))
    return {
        "slope": float(fit.slope),
        "r2": float(fit.rvalue**2),
        "n": int((y > 0).sum()),
        "ratios": {str(e): float(np.median(y[step == e] / x[step == e])) for e in EXPOSURES},
    }


def count_in_empty(
    model: cs.Model,
    microscope: Microscope,
    threshold: float,
    fwhm_px: float,
    fields: int,
    *,
    seed: int,
) -> dict[str, Any]:
    """T7: spots above a threshold where there is nothing but background."""
    rng = np.random.default_rng([seed, 7])
    zoom = model.source_pixel_size_nm[0] / model.target_pixel_size_nm[0]
    dark = np.zeros((round(FIELD_PX / zoom),) * 2)
    counts, signals = [], []
    for _ in range(fields):
        raw = expose(dark, microscope.camera, rng=rng)
        signals.append(cs.check(model, cs.Image(raw, "yx", model.source_pixel_size_nm)).numbers)
        output = _sharp(model, raw.astype(np.float64), zoom)
        counts.append(len(find_spots(output, fwhm_px=fwhm_px, threshold=threshold).amplitude))
    return {
        "fields": fields,
        "threshold_grey": threshold,
        "mean": float(np.mean(counts)),
        "most": max(counts),
        "fields_with_any_upper": upper_bound(sum(n > 0 for n in counts), fields),
        "no_signal_share": float(np.mean([not numbers["signal"] for numbers in signals])),
        "passes": max(counts) <= BARS["t7_false_objects_per_field"],
    }


def _passes_t6(fit: dict[str, Any]) -> bool:
    return bool(fit["r2"] >= BARS["t6_r2"] and abs(fit["slope"] - 1) <= BARS["t6_slope_off"])


def _sharp(
    model: cs.Model, raw: Float[np.ndarray, "_y _x"], zoom: float, **options: Any
) -> Float[np.ndarray, "y x"]:
    sharp = sharpen(model, raw[None], engine=ENGINE, zoom=(zoom, zoom), **options)[0]
    return sharp.astype(np.float64)


if __name__ == "__main__":
    main()
