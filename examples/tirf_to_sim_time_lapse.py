"""TIRF to TIRF-SIM: pits and filaments on a grid twice as fine, and pits followed over time.

    python examples/tirf_to_sim_time_lapse.py [OUT] [--small] [--seed N]

One model for pits, one for filaments. Then a time-lapse of pits that grow, stay and vanish is
predicted frame by frame: the light of each lone pit must keep its trace, and must not flicker from
frame to frame more than the truth's does.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recipes import Size, View, figures_of, learn, run, with_card
from scipy import ndimage
from scipy.spatial import KDTree

import crosscope as cs

PITS, FILAMENTS = View("tirf-sim", "pits"), View("tirf-sim", "filaments")
FRAMES = 30
LONE_NM = 600.0  # from the next pit: TIRF's widths don't overlap
APERTURE_PX = 5
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
    return figures | {"time-lapse": follow(pits, size, seed)}


def follow(model: cs.Model, size: Size, seed: int) -> dict[str, Any]:
    """Predict a time-lapse and compare the light of lone pits with the truth's.

    Of each pit: the correlation of its trace with the truth's, and its flicker, the SD of the
    trace's second differences, as a share of the truth's light; medians over the pits.
    """
    simulated = cs.simulate(
        PITS.system, sample="pits", pairs=1, size_px=size.size_px, frames=FRAMES, seed=2 * seed + 1
    )
    pair = next(iter(simulated))
    truth, sharp = pair.truth, cs.predict(model, pair.source)
    assert truth.traces is not None
    assert truth.image.pixel_size_nm is not None
    pixel_nm, places_nm = truth.image.pixel_size_nm[0], truth.emitters.objects_yx_nm
    lone = KDTree(places_nm).query(places_nm, k=2)[0][:, 1] > LONE_NM
    changes = truth.traces.std(axis=1) > LEAST_CHANGE
    seen = [
        light_at(image.pixels, places / pixel_nm - 0.5)
        for image, places in (
            (truth.image, places_nm),
            (sharp, truth.warp.to_source_nm(places_nm)),
        )
    ]
    kept = lone & changes & np.isfinite(seen[0]).all(axis=1) & np.isfinite(seen[1]).all(axis=1)
    if not kept.any():
        return {"pits": 0, "correlation": None, "flicker_truth": None, "flicker_output": None}
    true, made = (light[kept] for light in seen)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(true, made, strict=True)]
    # gain and offset of the whole lapse: SIM's grey values are the model's to give
    gain, offset = np.polyfit(made.ravel(), true.ravel(), 1)
    full = np.ptp(true, axis=1)
    flicker = [
        float(np.median(np.diff(light, 2, axis=1).std(axis=1) / full))
        for light in (true, gain * made + offset)
    ]
    return {
        "pits": int(kept.sum()),
        "correlation": float(np.median(correlation)),
        "correlation_low": float(np.quantile(correlation, 0.05)),
        "flicker_truth": flicker[0],
        "flicker_output": flicker[1],
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


if __name__ == "__main__":
    run(walk, __doc__, "tirf")
