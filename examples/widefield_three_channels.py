"""Wide-field 10x/0.4 NA to 20x/0.75 NA: nuclei, microtubules and F-actin, one model each.

    python examples/widefield_three_channels.py [OUT] [--small] [--seed N]

Each channel is registered and learnt by itself. Then one three-channel image is predicted by all
three models into one OME-TIFF with a colour composite beside it, and the TxRed model is tried on
the channels that it was not made for.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from recipes import Learnt, Size, View, figures_of, learn, run, with_card

import crosscope as cs
from crosscope.data.registered import crop_like
from crosscope.metrics.spectrum import radial_spectrum

CHANNELS = {
    "dapi": View("widefield-20x", "nuclei", "dapi"),
    "fitc": View("widefield-20x", "filaments", "fitc"),
    "txred": View("widefield-20x", "actin", "txred"),
}
WITHIN_PER_UM = 1.5  # of the spectra: 325 nm pixels end at 1.54


def walk(out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Train three models, judge each, cross them over, and predict all channels at once."""
    learnt = {name: learn(view, size, seed) for name, view in CHANNELS.items()}
    for name, one in learnt.items():
        one.report.save(out / f"report-{name}", overwrite=True)
        model = with_card(one, CHANNELS[name], recipe=Path(__file__).name, seed=seed, size=size)
        model.save(out / f"widefield-20x-{name}.zip", overwrite=True, half=True)
    predict_together(out, size, seed)
    crossed = {
        f"txred model on {name}": figures_of(
            cs.evaluate(learnt["txred"].model, learnt[name].test, truth=learnt[name].truth)
        )
        for name in ("dapi", "fitc")
    }
    return {
        name: figures_of(one.report) | {"spectrum": spectrum_error(one)}
        for name, one in learnt.items()
    } | crossed


def predict_together(out: Path, size: Size, seed: int) -> None:
    """Write one raw image of three channels, and predict it by one model a channel."""
    raw = [
        next(
            iter(
                cs.simulate(
                    view.system,
                    sample=view.sample,
                    channel=view.channel,
                    pairs=1,
                    size_px=size.size_px,
                    seed=2 * seed + 1,
                )
            )
        ).source
        for view in CHANNELS.values()
    ]
    together = replace(
        raw[0].with_pixels(np.stack([image.pixels for image in raw]), axes="cyx"),
        channels=tuple(channel for image in raw for channel in image.channels),
    )
    cs.write_image(together, out / "cell.ome.tif", overwrite=True)
    models = {name: cs.Model.load(out / f"widefield-20x-{name}.zip") for name in CHANNELS}
    cs.predict_files(models, out / "cell.ome.tif", out / "sharp.ome.tif", overwrite=True)


def spectrum_error(learnt: Learnt) -> dict[str, float | None]:
    """Return how far the output's radial power is from the truth's where that is above the noise.

    As a share of the truth's: the median and the largest over the frequencies; the noise is that of
    the target, which is the truth with noise.
    """
    spectra = learnt.report.json["spectra"]
    frequency = np.array(spectra["frequency_per_um"])
    output, target = (np.array(spectra["power"][method]) for method in ("output", "target"))
    truth = np.mean([power_of_truth(learnt, pair, frequency) for pair in learnt.test], axis=0)
    noise = np.median((target - truth)[frequency > 0.9 * frequency[-1]])
    seen = (frequency < WITHIN_PER_UM) & np.logical_and.accumulate(truth > noise)
    if not seen.any():
        return {"median": None, "largest": None, "up_to_per_um": None}
    off = np.abs(output[seen] / truth[seen] - 1)
    return {
        "median": float(np.median(off)),
        "largest": float(off.max()),
        "up_to_per_um": float(frequency[seen][-1]),
    }


def power_of_truth(
    learnt: Learnt, pair: cs.RegisteredPair, frequency_per_um: np.ndarray
) -> np.ndarray:
    """Return the radial power of what is true of a pair's target, at some frequencies."""
    truth = crop_like(learnt.truth[pair.name], pair)
    _, size_nm = pair.pixel_sizes_nm
    found = radial_spectrum(truth.pixels.astype(np.float64), pixel_size_nm=size_nm)
    return np.interp(frequency_per_um, found.frequency_per_um, found.power)


if __name__ == "__main__":
    run(walk, __doc__, "widefield")
