"""What the recipes of the systems share: simulated pairs, training, judging, and a model's card.

Even seeds are trained on, odd ones judged on, against the noise-free truth.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import crosscope as cs


@dataclass(frozen=True)
class Size:
    """How large a recipe is done; the defaults are what the figures in docs/systems.md are of."""

    training: int = 16  # pairs
    test: int = 8
    size_px: int = 512
    steps: int = 6000  # about 20 core-minutes


SMALL = Size(training=3, test=1, size_px=192, steps=6)


@dataclass(frozen=True)
class View:
    """A sample under one of the three simulated systems."""

    system: str
    sample: str
    channel: str | None = None

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
    view: View, *, pairs: int, size_px: int, seed: int
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


def learn(
    view: View,
    size: Size,
    seed: int,
    *,
    also: View | None = None,
    init: cs.Model | None = None,
    **plan: Any,
) -> Learnt:
    """Train on one seed and judge on the next; `also` is a second sample to train on."""
    pairs, _ = take(view, pairs=size.training, size_px=size.size_px, seed=2 * seed)
    if also is not None:
        half = size.training // 2
        others, _ = take(also, pairs=half, size_px=size.size_px, seed=2 * seed)
        pairs = pairs[: size.training - half] + others
    steps = plan.pop("steps", size.steps)
    model = cs.train(pairs, cs.TrainingPlan(steps=steps, seed=seed, **plan), init=init, say=print)
    return judge(model, view, size, seed)


def judge(model: cs.Model, view: View, size: Size, seed: int) -> Learnt:
    """Measure a model on the pairs of an odd seed."""
    test, truth = take(view, pairs=size.test, size_px=size.size_px, seed=2 * seed + 1)
    return Learnt(model, cs.evaluate(model, test, truth=truth), test, truth)


def with_card(learnt: Learnt, view: View, *, recipe: str, seed: int, size: Size) -> cs.Model:
    """Return the model with its card: what it was trained on, its figures and its limits."""
    source, target = view.modalities
    summary = learnt.report.summary
    kept = ("psnr_db", "ssim", "fwhm_nm", "spots", "resolved_nm")
    return replace(
        learnt.model,
        card={
            "source": source,
            "target": target,
            "sample": view.sample,
            "trained_on": f"simulated pairs: {size.training} fields of {size.size_px} px, the "
            f"system {view.system} of `crosscope simulate`, seed {2 * seed}",
            "figures": {key: summary[key] for key in kept if key in summary},
            "judged_on": f"{size.test} simulated fields of seed {2 * seed + 1}, against the truth",
            "limits": [
                "Trained on simulated images only: nothing here says that it is right on yours. "
                "Fine-tune it on a pair of your own (train --init) and measure.",
                f"Made for {view.sample}; other structures come out wrong.",
            ],
            "recipe": recipe,
        },
    )


def figures_of(report: cs.Report) -> dict[str, Any]:
    """Return the figures that the tables of docs/systems.md are made of."""
    kept = ("psnr_db", "ssim", "fwhm_nm", "spots", "resolved_nm", "background", "sample")
    return {key: report.summary[key] for key in kept if key in report.summary}


def run(walk: Callable[[Path, Size, int], Mapping[str, Any]], doc: str | None, name: str) -> None:
    """Read the arguments of a recipe, walk it, and write its figures."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("out", type=Path, nargs="?", default=Path(name))
    parser.add_argument("--small", action="store_true", help="minutes, and no result")
    parser.add_argument("--seed", type=int, default=1000)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    figures = walk(asked.out, SMALL if asked.small else Size(), asked.seed)
    (asked.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
