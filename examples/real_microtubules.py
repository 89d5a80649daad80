"""Real microtubules, wide-field to SIM: learnt on the upper half of one field, judged on the lower.

    python examples/real_microtubules.py [OUT] [--minutes 3] [--seed N]

Takes `../shared/data/microtubule_widefield_sim`. Then one channel of `bpae_three_channel` beside it
is predicted, a cell of another kind at another pixel size: that shows the path, and no more should
be read into the result. Where one of the folders is absent it says so and stops.

Half a field is little to learn from. `haze` makes it enough: the out-of-focus light of this field
falls from left to right, and a network that has seen one level of it takes the other for signal.

Last, the same budget is given to a model from nothing and to one that starts from simulated
filaments, `tirf-sim-filaments`.

The settings were tried on this field with the lower half's figures in view, so its figures are a
demonstration and no blind test.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from recipes import DATA, compare_starts, run_on_real

import crosscope as cs
from crosscope.metrics.error import fit_intensity
from crosscope.metrics.spectrum import radial_spectrum

FIELD, CELL = "microtubule_widefield_sim", "bpae_three_channel"
NEEDS = (FIELD, CELL)
PIXEL_NM = 30.0  # the SIM image says so; the wide-field image on the same grid says nothing
HAZE = 0.5
FINEST_NM = 120.0  # spectra are compared up to the period that this SIM shows


def walk(out: Path, minutes: float, **plan: Any) -> dict[str, Any]:
    """Register, train, judge and predict; return the figures of the lower half.

    `plan` are further fields of the training's plan, its seed for one.
    """
    folder = DATA / FIELD
    (raw,) = cs.read_pairs(
        folder / "widefield.tif", folder / "sim.tif", source_pixel_size_nm=PIXEL_NM
    )
    pair = cs.register(raw)
    rows = pair.target.pixels.shape[0]
    upper = replace(cs.take_part(pair, axis=0, start=0, stop=rows // 2), name="upper half")
    lower = replace(cs.take_part(pair, axis=0, start=rows // 2, stop=rows), name="lower half")

    model = cs.train([upper], cs.TrainingPlan(minutes=minutes, haze=HAZE, **plan), say=print)
    model.save(out / "model.zip", overwrite=True)
    # with the upper half beside it, Richardson-Lucy's count is chosen there, as the network was
    report = cs.evaluate(model, [upper, lower])
    report.save(out / "report", overwrite=True)

    cell = cs.read_image(DATA / CELL / "BPAE_actin.tif")
    sharp = cs.predict(model, replace(cell, pixel_size_nm=(PIXEL_NM, PIXEL_NM)))
    cs.write_image(sharp, out / "bpae_actin.tif", overwrite=True)
    return {
        "shift_px": pair.shift_px,
        "residual_px": pair.residual_px,
        "psnr_db": report.fields[1]["psnr_db"],
        "ssim": report.fields[1]["ssim"],
        "spectrum_error": spectrum_errors(report.panels[1].images),
        "starts": compare_starts(
            upper, lower, start="tirf-sim-filaments", minutes=minutes, haze=HAZE, **plan
        ),
    }


def spectrum_errors(images: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the mean distance of each radial spectrum from the target's, in decades of power."""
    target = images["target"]
    log_power = {}
    for method, image in images.items():
        fitted = fit_intensity(image, target).apply(image)
        spectrum = radial_spectrum(fitted, pixel_size_nm=(PIXEL_NM, PIXEL_NM))
        within = spectrum.frequency_per_um < 1000 / FINEST_NM
        log_power[method] = np.log10(spectrum.power[within])
    return {
        method: round(float(np.abs(power - log_power["target"]).mean()), 3)
        for method, power in log_power.items()
        if method != "target"
    }


if __name__ == "__main__":
    run_on_real(walk, __doc__, "real_microtubules", needs=NEEDS)
