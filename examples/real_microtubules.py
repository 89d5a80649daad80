"""Real microtubules: wide-field to SIM, learnt on the upper half of one field, judged on the lower.

    python examples/real_microtubules.py [OUT] [--minutes 3]

Takes `../shared/data/microtubule_widefield_sim` (and a channel of `bpae_three_channel`, to show a
whole cell of another kind); where the folder is absent it says so and stops. One field is little to
learn from: this shows that the path works on real files, not what many pairs would reach.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import crosscope as cs
from crosscope.data.sampling import take_part
from crosscope.metrics.spectrum import radial_spectrum

DATA = Path(__file__).parents[2] / "shared" / "data"
PIXEL_NM = 30.0  # the SIM image says so; the wide-field image, on the same grid, says nothing


def main() -> None:
    """Register, train, judge, and predict a cell of another kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("real_microtubules"))
    parser.add_argument("--minutes", type=float, default=3.0)
    arguments = parser.parse_args()
    folder = DATA / "microtubule_widefield_sim"
    if not folder.is_dir():
        print(f"Skipped: {folder} is not here.")
        return
    result = show(folder, arguments.out, arguments.minutes)
    print(json.dumps(result, indent=2))


def show(folder: Path, out: Path, minutes: float) -> dict[str, object]:
    """Run the path and return what the lower half says of it."""
    (raw,) = cs.read_pairs(
        folder / "widefield.tif", folder / "sim.tif", source_pixel_size_nm=PIXEL_NM
    )
    pair = cs.register(raw)
    height = pair.target.pixels.shape[0]
    upper = take_part(pair, rows=(0, height // 2))
    lower = take_part(pair, rows=(height // 2, height))
    model = cs.train([upper], cs.TrainingPlan(minutes=minutes), say=print)
    model.save(out / "model.zip", overwrite=True)
    report = cs.evaluate(model, [lower])
    report.save(out / "lower_half", overwrite=True)

    bpae = DATA / "bpae_three_channel" / "BPAE_actin.tif"
    if bpae.exists():
        cell = replace(cs.read_image(bpae), pixel_size_nm=(PIXEL_NM, PIXEL_NM))  # it says nothing
        cs.write_image(cs.predict(model, cell), out / "bpae_actin.tif", overwrite=True)
    return {
        "shift_px": pair.shift_px,
        "residual_px": pair.residual_px,
        **{figure: report.summary[figure] for figure in ("psnr_db", "ssim")},
        "spectrum_off_db": spectra(report),
    }


def spectra(report: cs.Report) -> dict[str, float]:
    """Return how far each spectrum is from the target's, in dB, up to 1/(150 nm)."""
    images = report.fitted
    of = {
        method: radial_spectrum(image, pixel_size_nm=(PIXEL_NM, PIXEL_NM))
        for method, image in images.items()
    }
    within = of["target"].frequency_per_um < 1000 / 150
    target = 10 * np.log10(of["target"].power[within])
    return {
        method: round(float(np.abs(10 * np.log10(s.power[within]) - target).mean()), 2)
        for method, s in of.items()
    }


if __name__ == "__main__":
    main()
