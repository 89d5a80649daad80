"""TIRF to TIRF-SIM: pits and filaments on a grid twice as fine, and pits followed over time.

    python examples/tirf_to_sim_time_lapse.py [OUT] [--small] [--seed N]

One model for pits, one for filaments. Pits near each other are told apart, on fields enough for
a share of those at 120 nm. Then a time-lapse of pits that grow, stay and vanish is predicted frame
by frame: the light of each lone pit must keep its trace. How much it flickers from frame to frame
stands beside the truth, the target as it was taken, noise included, and what the photons of the
source let anyone know.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recipes import Size, View, figures_of, learn, run, with_card
from scipy import ndimage
from scipy.spatial import KDTree

import crosscope as cs
from crosscope.metrics.spots import compare_spots, resolved_separation
from crosscope.metrics.typical import typical_fwhm
from crosscope.optics.misregistration import ALIGNED

PITS, FILAMENTS = View("tirf-sim", "pits"), View("tirf-sim", "filaments")
CLOSE_NM, CLOSE_BIN_NM = 120.0, 10.0  # two bins: 110 to 130 nm
CLOSE_FIELDS = 6  # times as many as for the other figures: few pits are so near to each other
PLAN = cs.PredictionPlan(threads=1, precision="float32")  # many small fields: none to measure on
FRAMES = 30
LONE_NM = 600.0  # from the next pit: TIRF's widths don't overlap
APERTURE_PX = 9  # of the target: 290 nm, all of a pit's light
KNOWN_PX = 9  # of the source: 585 nm
LEAST_CHANGE = 0.1  # SD of a trace, of full brightness: a steady pit has no trace to keep


def walk(out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Train both models, judge them, and follow pits."""
    figures = {}
    for view in (PITS, FILAMENTS):
        learnt = learn(view, size, seed, out / f"run-{view.sample}")
        learnt.report.save(out / f"report-{view.sample}", overwrite=True)
        model = with_card(learnt, view, recipe=Path(__file__).name, seed=seed, size=size)
        model.save(out / f"tirf-sim-{view.sample}.zip", overwrite=True, half=True)
        figures[view.sample] = figures_of(learnt)
    pits = cs.Model.load(out / "tirf-sim-pits.zip")
    return figures | {
        "close pits": resolve(pits, size, seed),
        "time-lapse": follow(pits, size, seed),
    }


def resolve(model: cs.Model, size: Size, seed: int) -> dict[str, Any]:
    """Return the share of the pits about 120 nm from their only neighbour that are seen as two.

    Both images are on one grid: what registration leaves is not counted in.
    """
    _, pixel_nm = model.target_pixel_size_nm
    simulated = cs.simulate(
        PITS.system,
        sample="pits",
        pairs=CLOSE_FIELDS * size.test,
        size_px=size.size_px,
        seed=2 * seed + 1,
        misregistration=ALIGNED,
    )
    images: dict[str, list[NDArray[Any]]] = {"output": [], "target": [], "truth": []}
    for pair in simulated:
        images["output"].append(cs.predict(model, pair.source, plan=PLAN).pixels)
        images["target"].append(pair.target.pixels.astype(np.float32))
        images["truth"].append(pair.truth.image.pixels)
    fwhm_px = typical_fwhm(images["truth"])
    if fwhm_px is None:
        return {"pairs": 0, "share_output": None, "share_target": None}
    found: dict[str, Any] = {}
    for method in ("output", "target"):
        compared = [
            compare_spots(image, truth, fwhm_px=fwhm_px)
            for image, truth in zip(images[method], images["truth"], strict=True)
        ]
        resolved = resolved_separation(
            compared, alone_px=2.5 * fwhm_px, bin_px=CLOSE_BIN_NM / pixel_nm
        )
        near = (
            np.abs(resolved.edges_px[:-1] * pixel_nm + CLOSE_BIN_NM / 2 - CLOSE_NM) < CLOSE_BIN_NM
        )
        seen = np.nansum((resolved.share * resolved.n_pairs)[near])
        found["pairs"] = int(resolved.n_pairs[near].sum())
        found[f"share_{method}"] = float(seen / found["pairs"]) if found["pairs"] else None
    return found


def follow(model: cs.Model, size: Size, seed: int) -> dict[str, Any]:
    """Predict a time-lapse and compare the light of lone pits with the truth's.

    Of each pit: the correlation of its trace with the truth's, and its flicker, the SD of the
    trace's second differences, as a share of the truth's span; medians over the pits. The target
    is the other microscope's own images, whose noise no model has to have. "Known" is what the
    source's photons say to one who knows where each pit is, its shape and the light around it.
    """
    simulated = cs.simulate(
        PITS.system, sample="pits", pairs=1, size_px=size.size_px, frames=FRAMES, seed=2 * seed + 1
    )
    pair = next(iter(simulated))
    truth, sharp = pair.truth, cs.predict(model, pair.source)
    assert truth.traces is not None
    assert truth.image.pixel_size_nm is not None
    assert pair.source.pixel_size_nm is not None
    pixel_nm, places_nm = truth.image.pixel_size_nm[0], truth.emitters.objects_yx_nm
    lone = KDTree(places_nm).query(places_nm, k=2)[0][:, 1] > LONE_NM
    changes = truth.traces.std(axis=1) > LEAST_CHANGE
    seen = [
        light_at(image.pixels, places / pixel_nm - 0.5)
        for image, places in (
            (truth.image, places_nm),
            (pair.target, places_nm),
            (sharp, truth.warp.to_source_nm(places_nm)),
        )
    ]
    source_nm = pair.source.pixel_size_nm[0]
    known = light_known(pair.source.pixels, truth.warp.to_source_nm(places_nm) / source_nm - 0.5)
    seen.append(known)
    kept = lone & changes & np.isfinite(seen).all(axis=(0, 2))
    if not kept.any():
        return {"pits": 0, "correlation": None}
    true, taken, made, known = (light[kept] for light in seen)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(true, made, strict=True)]
    span = np.ptp(true, axis=1)

    def flicker(light: NDArray[Any]) -> float:
        # gain and offset of the whole lapse: grey values are each microscope's own
        gain, offset = np.polyfit(light.ravel(), true.ravel(), 1)
        fitted = gain * light + offset
        return float(np.median(np.diff(fitted, 2, axis=1).std(axis=1) / span))

    return {
        "pits": int(kept.sum()),
        "correlation": float(np.median(correlation)),
        "correlation_low": float(np.quantile(correlation, 0.05)),
        "flicker_truth": flicker(true),
        "flicker_target": flicker(taken),
        "flicker_known": flicker(known),
        "flicker_output": flicker(made),
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
    weighted as its photon noise asks. NaN at the border.
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
