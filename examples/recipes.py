"""What the recipes of the systems share: simulated pairs, training, judging, and a model's card.

Even seeds are trained on, odd ones judged on, against the noise-free truth.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import crosscope as cs
from crosscope.data.registered import crop_like
from crosscope.metrics.spectrum import radial_spectrum
from crosscope.report.figures import find_sample

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WITHIN = 0.975  # of the frequencies up to half a period per pixel: spectra are compared there
CARD_METHODS = ("input", "lucy_richardson", "output", "target")
RARE = 3  # times the fields and steps where what matters is rare: pits that are close to each other
DIM, DIM_PHOTONS = 12, 300 / 4  # one field for so many others, by a quarter of their photons
DIM_SEED = 1000  # from the others' seed
LEAST_PX = 1000  # inside structures, and outside, for a ratio of signal to noise


@dataclass(frozen=True)
class Size:
    """How large a recipe is done; the defaults are what the figures in docs/systems.md are of."""

    training: int = 16  # pairs
    test: int = 8
    size_px: int = 512
    steps: int = 6000  # 4 to 16 core-minutes
    threads: int | None = None  # by measurement
    claims: bool = True  # in the certificate: what resolution, how linear

    def of(self, view: "View") -> "Size":
        """Return how large the recipe of a view is."""
        if view.sample != "pits":
            return self
        return replace(self, training=RARE * self.training, steps=RARE * self.steps)


SMALL = Size(training=3, test=1, size_px=192, steps=6, claims=False)


@dataclass(frozen=True)
class View:
    """A sample under one of the three simulated systems."""

    system: str
    sample: str
    channel: str | None = None

    @property
    def fades(self) -> bool:
        """Whether it is followed as it fades, so that a model must be right on dim fields, too."""
        return self.sample == "pits"

    @property
    def modalities(self) -> tuple[str, str]:
        """Return the names of source and target, as a card says them."""
        return {
            "confocal-sted": ("confocal", "STED"),
            "widefield-20x": ("wide-field 10x/0.4 NA", "wide-field 20x/0.75 NA"),
            "tirf-sim": ("TIRF", "TIRF-SIM"),
        }[self.system]


@dataclass(frozen=True, eq=False)
class Learnt:
    """A model, and what it is worth on pairs that it has not seen."""

    model: cs.Model
    report: cs.Report
    test: list[cs.RegisteredPair]
    truth: dict[str, cs.Image]


def take(
    view: View, *, pairs: int, size_px: int, seed: int, **simulation: Any
) -> tuple[list[cs.RegisteredPair], dict[str, cs.Image]]:
    """Simulate raw pairs, register them, and return them with their truth."""
    registered, truth = [], {}
    simulated = cs.simulate(
        view.system,
        sample=view.sample,
        channel=view.channel,
        pairs=pairs,
        size_px=size_px,
        seed=seed,
        **simulation,
    )
    for pair in simulated:
        raw = cs.RawPair(f"{view.sample}-{seed}-{pair.name}", pair.source, pair.target)
        try:
            registered.append(cs.register(raw, rigid=view.system == "confocal-sted"))
        except cs.RegistrationError as error:
            print(f"left out: {error}")
            continue
        truth[raw.name] = pair.truth.image
    return registered, truth


def take_dim(view: View, size: Size, seed: int) -> list[cs.RegisteredPair]:
    """Return fields with a quarter of the light, in source and target, where a sample fades.

    A model that has not seen dim pits makes them dimmer still.
    """
    if not view.fades:
        return []
    light = {"photons": DIM_PHOTONS, "target_photons": DIM_PHOTONS}
    count, dim = max(1, size.training // DIM), 2 * seed + DIM_SEED
    return take(view, pairs=count, size_px=size.size_px, seed=dim, **light)[0]


def learn(
    view: View, size: Size, seed: int, run: Path, *, init: cs.Model | None = None, **plan: Any
) -> Learnt:
    """Train on one seed's pairs, with a certificate, and judge on the next's.

    Dim fields are learnt from, but not certified: so few, so far from the others, they would make
    the gate believe that anything belongs to it.
    """
    pairs, _ = take(view, pairs=size.training, size_px=size.size_px, seed=2 * seed)
    model = train(pairs + take_dim(view, size, seed), size, seed, run, init=init, **plan)
    model = cs.certify(model, pairs, claims=size.claims)
    return judge(model, view, size, seed)


def train(
    pairs: list[cs.RegisteredPair],
    size: Size,
    seed: int,
    run: Path,
    *,
    init: cs.Model | None = None,
    **plan: Any,
) -> cs.Model:
    """Train, or go on where an earlier call with this folder was cut off.

    The model is what its file gives back, its weights rounded to half precision: what is judged is
    what is kept.
    """
    chosen = cs.TrainingPlan(**{"steps": size.steps, "threads": size.threads, "seed": seed} | plan)
    begun = any((run / "checkpoints").glob("step-*"))
    model = cs.train(pairs, chosen, run=run, init=init, resume=begun, say=print)
    model.save(run / "model.zip", overwrite=True, half=True)
    return cs.Model.load(run / "model.zip")


def judge(model: cs.Model, view: View, size: Size, seed: int) -> Learnt:
    """Measure a model on the pairs of an odd seed."""
    test, truth = take(view, pairs=size.test, size_px=size.size_px, seed=2 * seed + 1)
    return Learnt(model, cs.evaluate(model, test, truth=truth), test, truth)


def compare_starts(
    learnt: cs.RegisteredPair,
    judged: cs.RegisteredPair,
    *,
    start: str,
    minutes: float,
    **plan: Any,
) -> dict[str, Any]:
    """Train on one part of a real field and judge on another, from nothing and from a model.

    `start` names one that comes with the program; each way has a sixth of the minutes, and all.
    """
    found = {}
    for name, init in (("nothing", None), (start, cs.Model.load(start))):
        for budget in (minutes / 6, minutes):
            chosen = cs.TrainingPlan(minutes=budget, **plan)
            model = cs.train([learnt], chosen, init=init, say=print)
            # the learnt part beside it: there Richardson-Lucy's count is chosen
            field = cs.evaluate(model, [learnt, judged]).fields[1]
            found[f"from {name}, {budget:g} min"] = {
                "steps": model.training["steps"],
                "psnr_db": field["psnr_db"],
                "ssim": field["ssim"],
            }
    return found


def with_card(learnt: Learnt, view: View, *, recipe: str, seed: int, size: Size) -> cs.Model:
    """Return the model with its card: what it was trained on, its figures and its limits."""
    source, target = view.modalities
    dim = ""
    if view.fades:
        dim = f", and a twelfth as many of seed {2 * seed + DIM_SEED} with a quarter of the light"
    return replace(
        learnt.model,
        card={
            "source": source,
            "target": target,
            "sample": view.sample,
            "trained_on": f"simulated pairs: {size.training} fields of {size.size_px} px, the "
            f"system {view.system} of `crosscope simulate`, seed {2 * seed}{dim}",
            "figures": card_figures(learnt.report.summary),
            "judged_on": f"{size.test} simulated fields of seed {2 * seed + 1}, against the truth",
            "limits": [
                "Trained on simulated images only: nothing here says that it is right on yours. "
                "Fine-tune it on a pair of your own (train --init) and measure.",
                f"Made for {view.sample}; other structures come out wrong.",
            ],
            "recipe": recipe,
        },
    )


def card_figures(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the medians that a card tells, of the methods that users compare."""
    told: dict[str, dict[str, float | None]] = {
        name: {method: summary[name][method]["median"] for method in CARD_METHODS}
        for name in ("psnr_db", "ssim", "fwhm_nm")
    }
    for name in ("f1", "invented"):
        told[name] = {method: summary["spots"][method][name] for method in CARD_METHODS}
    told["resolved_nm"] = {method: summary["resolved_nm"][method] for method in CARD_METHODS}
    return {
        name: {method: round(value, 4) for method, value in values.items() if value is not None}
        for name, values in told.items()
        if any(value is not None for value in values.values())
    }


def figures_of(learnt: Learnt) -> dict[str, Any]:
    """Return the figures that the tables of docs/systems.md are made of."""
    summary = learnt.report.summary
    kept = ("psnr_db", "ssim", "fwhm_nm", "spots", "resolved_nm", "background", "sample")
    return {key: summary[key] for key in kept if key in summary} | {
        "signal_to_noise": signal_to_noise(learnt.report),
        "spectrum": spectrum_error(learnt),
        "training": {
            key: learnt.model.training[key] for key in ("steps", "kept", "rollbacks", "shares")
        },
    }


def signal_to_noise(report: cs.Report) -> dict[str, float]:
    """Return (s - b) / n: s of the brightest structures, b and n the background's level and SD.

    s is the 99th percentile inside structures, the background what is farther from any than the
    source's blur reaches; medians over the report's views; empty where no background is left.
    """
    reach_px = (report.summary["kernel_fwhm_nm"] or 0.0) / report.summary["pixel_size_nm"]
    found: dict[str, list[float]] = {}
    for view in report.views:
        inside = find_sample(view.images["output"] - view.error)
        outside = ndimage.distance_transform_edt(~inside) > reach_px
        if inside.sum() < LEAST_PX or outside.sum() < LEAST_PX:
            continue
        for method, image in view.images.items():
            rise = np.percentile(image[inside], 99) - image[outside].mean()
            found.setdefault(method, []).append(float(rise / image[outside].std()))
    return {method: float(np.median(ratios)) for method, ratios in found.items()}


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
    seen = (frequency < WITHIN * frequency[-1]) & np.logical_and.accumulate(truth > noise)
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


def run(walk: Callable[[Path, Size, int], Mapping[str, Any]], doc: str | None, name: str) -> None:
    """Read the arguments of a recipe, walk it, and write its figures."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("out", type=Path, nargs="?", default=Path(name))
    parser.add_argument("--small", action="store_true", help="minutes, and no result")
    parser.add_argument("--seed", type=int, default=1000)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    write_figures(asked.out, walk(asked.out, SMALL if asked.small else Size(), asked.seed))


def run_on_real(
    walk: Callable[[Path, float], Mapping[str, Any]], doc: str | None, name: str
) -> None:
    """Do the same for a recipe of real images; where they are absent, say so."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("out", type=Path, nargs="?", default=Path(name))
    parser.add_argument("--minutes", type=float, default=3.0)
    asked = parser.parse_args()
    if not DATA.is_dir():
        print(f"Skipped: the real images are not in {DATA}")
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    write_figures(asked.out, walk(asked.out, asked.minutes))


def write_figures(out: Path, figures: Mapping[str, Any]) -> None:
    """Keep a recipe's figures in its folder, and show them."""
    text = json.dumps(figures, indent=1)
    (out / "figures.json").write_text(text + "\n")
    print(text)
