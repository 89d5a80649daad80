"""Wide-field 10x/0.4 NA to 20x/0.75 NA: nuclei, microtubules and F-actin, one model each.

    python examples/widefield_three_channels.py [OUT] [--small] [--seed N]

Each channel is registered and learnt by itself. Then one three-channel image is predicted by all
three models into one OME-TIFF with a colour composite beside it, and the TxRed model is tried on
the channels that it was not made for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from recipes import (
    BLUR,
    POINTS,
    Size,
    View,
    card_of,
    figures_of,
    judge,
    learn,
    run,
    save_models,
)

import crosscope as cs

CHANNELS = {
    "dapi": View("widefield-20x", "nuclei", "dapi"),
    "fitc": View("widefield-20x", "filaments", "fitc"),
    "txred": View("widefield-20x", "actin", "txred"),
}
CROSSED = ("dapi", "fitc")  # that TxRed's model is tried on
LIMITS = {
    "dapi": (POINTS, BLUR),
    "fitc": (POINTS,),
    "txred": (POINTS, BLUR, "The gate refuses few images of filaments (docs/trust.md)."),
}


def walk(out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Train three models, judge each, cross them over, and predict all channels at once."""
    learnt = {name: learn(view, size, seed, out / f"run-{name}") for name, view in CHANNELS.items()}
    for name, one in learnt.items():
        one.report.save(out / f"report-{name}", overwrite=True)
    crossed = {
        f"txred model on {name}": judge(learnt["txred"].model, CHANNELS[name], size, seed)
        for name in CROSSED
    }
    figures = {name: figures_of(one) for name, one in (learnt | crossed).items()}
    models = {f"widefield-20x-{name}": one.model for name, one in learnt.items()}
    save_models(models, cards(figures, size, seed), out)
    kept = {name: cs.Model.load(out / f"widefield-20x-{name}.zip") for name in CHANNELS}
    predict_together(kept, out, size, seed)
    return figures


def cards(figures: Mapping[str, Any], size: Size, seed: int) -> dict[str, dict[str, Any]]:
    """Return the three models' cards, from the figures of the walk."""
    limits = LIMITS | {"txred": (*LIMITS["txred"], *limits_of_crossing(figures))}
    return {
        f"widefield-20x-{name}": card_of(
            view,
            figures[name],
            recipe=Path(__file__).name,
            size=size,
            seed=seed,
            limits=limits[name],
        )
        for name, view in CHANNELS.items()
    }


def limits_of_crossing(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what TxRed's model is worth on the channels that it was not made for."""
    for name in CROSSED:
        here, own = (figures[of]["psnr_db"] for of in (f"txred model on {name}", name))
        yield (
            f"On {CHANNELS[name].words} it has {here['output']['median']:.1f} dB, their own model "
            f"{own['output']['median']:.1f} dB, Richardson-Lucy "
            f"{own['lucy_richardson']['median']:.1f} dB."
        )


def predict_together(models: Mapping[str, cs.Model], out: Path, size: Size, seed: int) -> None:
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
    cs.predict_files(models, out / "cell.ome.tif", out / "sharp.ome.tif", overwrite=True)


if __name__ == "__main__":
    run(walk, __doc__, "widefield")
