"""What the recipes of the systems share: simulated pairs, training, judging, and a model's card.

Even seeds are trained on, odd ones judged on, against the noise-free truth.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import crosscope as cs
from crosscope.data.registered import crop_like
from crosscope.metrics.spectrum import radial_spectrum

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WITHIN = 0.975  # of the frequencies up to half a period per pixel: spectra are compared there
CLOSE = 0.2  # of the truth's power: a spectrum that is no farther off is taken for right
CARD_METHODS = ("input", "lucy_richardson", "output", "target")
RARE = 3  # times the fields and steps where what matters is rare: pits that are close to each other
DIM, DIM_PHOTONS = 12, 300 / 4  # one field for so many others, by a quarter of their photons
DIM_SEED = 1000  # from the others' seed
LITTLE_DB = 2.0  # above Richardson-Lucy: a card says that it is no more
FAR_OFF = 0.5  # of the truth's power at some frequency: a card says so
# limits that several cards tell; docs/trust.md has the figures
POINTS = "A resolution that its certificate claims is of points, and not of what it was made for."
BLUR = "The gate refuses few images of an objective whose blur is a fifth wider (docs/trust.md)."


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

    @property
    def words(self) -> str:
        """Return the sample and, where there are several, the channel."""
        channels = {"dapi": "DAPI", "fitc": "FITC", "txred": "TxRed"}
        return f"{self.sample} ({channels[self.channel]})" if self.channel else self.sample


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
    view: View,
    size: Size,
    seed: int,
    run: Path,
    *,
    init: cs.Model | None = None,
    served: Sequence[cs.Image] = (),
    **plan: Any,
) -> Learnt:
    """Train on one seed's pairs, with a certificate, and judge on the next's.

    Dim fields are learnt from, but not certified: so few, so far from the others, they would make
    the gate believe that anything belongs to it.
    """
    pairs, _ = take(view, pairs=size.training, size_px=size.size_px, seed=2 * seed)
    model = train(pairs + take_dim(view, size, seed), size, seed, run, init=init, **plan)
    model = cs.certify(model, pairs, served=served, claims=size.claims)
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


def save_models(
    models: Mapping[str, cs.Model], cards: Mapping[str, Mapping[str, Any]], out: Path
) -> None:
    """Write each model with its card to `out`/NAME.zip, its weights in half precision."""
    for name, card in cards.items():
        replace(models[name], card=card).save(out / f"{name}.zip", overwrite=True, half=True)


def card_of(
    view: View,
    figures: Mapping[str, Any],
    *,
    recipe: str,
    size: Size,
    seed: int,
    init: str | None = None,
    limits: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a model's card: what it was trained on, its figures and its limits.

    `figures` are those of `figures_of`, `init` is the name of the model that it began from, and
    `limits` are what its recipe knows beside the figures.
    """
    source, target = view.modalities
    dim = start = ""
    if view.fades:
        count = max(1, size.training // DIM)
        dim = f", and {count} of seed {2 * seed + DIM_SEED} with a quarter of the light"
    if init:
        start = f"; begun from the model {init}"
    return {
        "source": source,
        "target": target,
        "sample": view.sample,
        "trained_on": f"simulated pairs of {view.words}: {size.training} fields of {size.size_px} "
        f"px, the system {view.system} of `crosscope simulate`, seed {2 * seed}{dim}{start}",
        "figures": card_figures(figures),
        "judged_on": f"{size.test} simulated fields of seed {2 * seed + 1}, against the truth",
        "limits": [
            "Trained on simulated images only: nothing here says that it is right on yours. "
            "Fine-tune it on a pair of your own (train --init) and measure.",
            f"Made for {view.sample}; other structures come out wrong.",
            *measured_limits(figures),
            *limits,
        ],
        "recipe": recipe,
    }


def measured_limits(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a model falls short of on the fields that it was judged on."""
    psnr_db = {method: each["median"] for method, each in figures["psnr_db"].items()}
    gain_db = psnr_db["output"] - psnr_db["lucy_richardson"]
    if gain_db < 0:
        yield f"On the fields it was judged on it is {-gain_db:.1f} dB below Richardson-Lucy."
    elif gain_db < LITTLE_DB:
        yield f"On the fields it was judged on it is only {gain_db:.1f} dB above Richardson-Lucy."
    nearer_db = psnr_db["target"] - psnr_db["output"]
    if nearer_db > 0:
        yield (
            "The target microscope's own image, noise included, is "
            f"{nearer_db:.1f} dB nearer to the truth."
        )
    spectrum = figures["spectrum"]
    if (spectrum["largest"] or 0) > FAR_OFF:
        yield (
            f"The power of its spectrum is off by up to {percent(spectrum['largest'])} of the "
            f"truth's, by {percent(spectrum['median'])} in the median over the frequencies: the "
            "finest texture is not to be measured in it."
        )
    spots, resolved_nm = figures["spots"]["output"], figures["resolved_nm"]
    if spots["f1"] is not None:
        yield (
            f"Of the spots that it shows {percent(spots['invented'], '.1f')} are invented, and it "
            f"misses {percent(spots['missed'], '.1f')} of the true ones."
        )
    if resolved_nm["output"] and resolved_nm["target"]:
        yield (
            f"Three in four pairs of spots come out as two from {resolved_nm['output']:.0f} nm on; "
            f"in the target microscope's own image from {resolved_nm['target']:.0f} nm."
        )


def percent(share: float, form: str = ".0f") -> str:
    """Return a share in words."""
    return f"{100 * share:{form}} %"


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
        "spectrum": spectrum_error(learnt),
        "training": {
            key: learnt.model.training[key] for key in ("steps", "kept", "rollbacks", "shares")
        },
    }


def spectrum_error(learnt: Learnt) -> dict[str, float | None]:
    """Return how far the output's radial power is from the truth's: see `spectrum_off`."""
    spectra = learnt.report.json["spectra"]
    frequency = np.array(spectra["frequency_per_um"])
    output, target = (np.array(spectra["power"][method]) for method in ("output", "target"))
    truth = np.mean([power_of_truth(learnt, pair, frequency) for pair in learnt.test], axis=0)
    return spectrum_off(frequency, output, truth, target)


def spectrum_off(
    frequency_per_um: np.ndarray, output: np.ndarray, truth: np.ndarray, target: np.ndarray
) -> dict[str, float | None]:
    """Return how far an output's radial power is from the truth's where that is above the noise.

    As a share of the truth's: the median and the largest over the frequencies, and up to which
    frequency none is farther off than `CLOSE`; the noise is that of the target, which is the truth
    with noise.
    """
    noise = np.median((target - truth)[frequency_per_um > 0.9 * frequency_per_um[-1]])
    inside = frequency_per_um < WITHIN * frequency_per_um[-1]
    seen = inside & np.logical_and.accumulate(truth > noise)
    if not seen.any():
        return dict.fromkeys(("median", "largest", "up_to_per_um", "close_up_to_per_um"))
    off = np.abs(output[seen] / truth[seen] - 1)
    close = frequency_per_um[seen][np.logical_and.accumulate(off <= CLOSE)]
    return {
        "median": float(np.median(off)),
        "largest": float(off.max()),
        "up_to_per_um": float(frequency_per_um[seen][-1]),
        "close_up_to_per_um": float(close[-1]) if close.size else 0.0,
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
    parser.add_argument("out", type=Path, nargs="?", help=f"{name}-SEED or {name}-small-SEED")
    parser.add_argument("--small", action="store_true", help="minutes, and no result")
    parser.add_argument("--seed", type=int, default=1000)
    asked = parser.parse_args()
    # a folder of its own for each: what is found there is gone on with
    out = asked.out or Path(f"{name}-small-{asked.seed}" if asked.small else f"{name}-{asked.seed}")
    size = SMALL if asked.small else Size()
    walk_into(out, lambda: walk(out, size, asked.seed))


def run_on_real(
    walk: Callable[..., Mapping[str, Any]], doc: str | None, name: str, *, needs: Sequence[str]
) -> None:
    """Do the same for a recipe of real images, in folders of DATA; say which of them are absent."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("out", type=Path, nargs="?", help=f"{name}-SEED")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    absent = absent_of(needs)
    if absent:
        print(f"Skipped: not in {DATA}: {', '.join(absent)}")
        return
    out = asked.out or Path(f"{name}-{asked.seed}")
    walk_into(out, lambda: walk(out, asked.minutes, seed=asked.seed))


def absent_of(folders: Sequence[str]) -> list[str]:
    """Return which folders of real images are absent."""
    return [folder for folder in folders if not (DATA / folder).is_dir()]


def walk_into(out: Path, walk: Callable[[], Mapping[str, Any]]) -> None:
    """Walk, keep the figures in the recipe's folder, and show them.

    Where the walk cannot go on it ends in one line, and in exit code 2.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(walk(), indent=1)
    except cs.InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    (out / "figures.json").write_text(text + "\n")
    print(text)
