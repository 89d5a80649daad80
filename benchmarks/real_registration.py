"""Registration of real images: a crop that must be found, a drift, a chromatic shift.

    python benchmarks/real_registration.py [--out FILE]

Takes `../shared/data`; where that folder is absent it says so and stops.  No truth is known here:
the crop is compared with the nominal one, the drift with its repeat and with the way round over
both repeats, the chromatic shift by Gaussians fitted to the beads of both colours.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import describe_machine

import crosscope as cs
from crosscope.metrics.psf import fit_spots
from crosscope.metrics.spots import find_spots, isolated

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "real_registration.json"
NOMINAL_CROP = np.array([[50.0, 48.0], [306.0, 304.0]])  # rows and columns of the wide-field
BEAD_FWHM_PX = 3.0
FIT_RADIUS_PX = 4


def main() -> None:
    """Register all and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if not DATA.is_dir():
        print(f"Skipped: the real images are not in {DATA}")
        return
    figures = {
        "machine": describe_machine(),
        "microtubule_widefield_storm": find_crop(),
        "pinhole_confocal": measure_drift(),
        "beads_two_colour": measure_chromatic_shift(),
    }
    asked.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def register(source: Path, target: Path) -> cs.RegisteredPair:
    """Register two files as they are, without any size given."""
    (raw,) = cs.read_pairs(source, target)
    return cs.register(raw)


def find_crop() -> dict[str, Any]:
    """Find the field of a STORM image in a wide-field image; neither has a pixel size."""
    folder = DATA / "microtubule_widefield_storm"
    pair = register(folder / "microtubule_widefield.tif", folder / "microtubule_STORM.tif")
    whole = cs.read_image(folder / "microtubule_STORM.tif").pixels.shape
    ends = np.array([[-0.5, -0.5], [whole[0] - 0.5, whole[1] - 0.5]])
    crop = pair.to_source(ends) + 0.5
    sides = crop[1] - crop[0]
    return {
        "nominal_rows_columns_px": NOMINAL_CROP.tolist(),
        "found_rows_columns_px": crop.round(3).tolist(),
        "off_source_px": float(np.abs(crop - NOMINAL_CROP).max()),
        "magnification": float(np.mean(np.divide(whole, sides))),
        "residual_px": pair.residual_px,
        "limit_px": pair.limit_px,
    }


def measure_drift() -> dict[str, Any]:
    """Measure the drift between two pinholes, twice, and the way round: there, on, back, on."""
    folder = DATA / "pinhole_confocal"
    ring = [f"FRC_GaAsP_{name}.nd2" for name in ("AU20", "AU04", "AU04_", "AU20_", "AU20")]
    middle = np.array([[255.5, 255.5]])
    steps, point = {}, middle
    for target, source in itertools.pairwise(ring):
        pair = register(folder / source, folder / target)
        steps[f"{target} -> {source}"] = (pair.to_source(middle) - middle)[0].round(4).tolist()
        point = pair.to_source(point)
    first = np.negative(steps["FRC_GaAsP_AU20.nd2 -> FRC_GaAsP_AU04.nd2"])
    second = np.array(steps["FRC_GaAsP_AU04_.nd2 -> FRC_GaAsP_AU20_.nd2"])
    return {
        "steps_yx_px": steps,
        "repeats_apart_px": float(np.hypot(*(first - second))),
        "way_round_px": float(np.hypot(*(point - middle)[0])),
    }


def measure_chromatic_shift() -> dict[str, Any]:
    """Measure how far beads of two colours lie apart, before registration and after."""
    folder = DATA / "beads_two_colour"
    (raw,) = cs.read_pairs(
        folder / "channel_align_test_green_bead.ome.tif",
        folder / "channel_align_test_red_bead.ome.tif",
    )
    pair = cs.register(raw)
    target = pair.target.pixels.astype(np.float64)
    rise = np.percentile(target, 99.5) - np.median(target)
    places = find_spots(target, fwhm_px=BEAD_FWHM_PX, threshold=0.2 * rise).yx_px
    places = places[isolated(places, distance_px=3 * BEAD_FWHM_PX)]
    fits = [
        fit_spots(image.pixels.astype(np.float64), places, radius_px=FIT_RADIUS_PX)
        for image in (pair.source, pair.target)
    ]
    both = fits[0].valid & fits[1].valid
    apart: npt.NDArray[Any] = np.hypot(*(fits[0].yx_px - fits[1].yx_px)[both].T)
    return {
        "shift_yx_px": list(pair.shift_px),
        "beads": int(both.sum()),
        "median_apart_px": float(np.median(apart)),
        "residual_px": pair.residual_px,
    }


if __name__ == "__main__":
    main()
