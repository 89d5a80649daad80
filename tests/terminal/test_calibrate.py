"""Calibrate, then predict with bounds: what the commands say and leave behind."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosscope as cs
from crosscope.data.transforms import IDENTITY
from crosscope.optics.misregistration import ALIGNED

QUICK = ("--threads", "1", "--check", "none")
Crosscope = Callable[..., Any]


def keep_aside(folder: Path, count: int) -> Path:
    """Write so many registered pairs of small fields."""
    simulated = cs.simulate(
        "confocal-sted", pairs=count, size_px=32, seed=5400, misregistration=ALIGNED
    )
    pairs = [
        cs.RegisteredPair(
            f"{n:03}", made.source, made.target, IDENTITY, (0, 0), (30.0, 30.0), *[None] * 3
        )
        for n, made in enumerate(simulated)
    ]
    cs.write_registered(pairs, folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(crosscope: Crosscope, walk: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the path of a calibrated model, and what was printed."""
    folder = tmp_path_factory.mktemp("calibrated")
    aside = keep_aside(folder / "aside", 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cs, "with_intervals", partial(cs.with_intervals, steps=30))
        outcome = crosscope("calibrate", walk.model, walk.pairs, aside, folder / "a.zip", "--json")
    assert outcome.code == 0, outcome.err
    return folder / "a.zip", outcome.json


def test_a_model_is_calibrated_and_bounds_an_output(
    crosscope: Crosscope, walk: Any, calibrated: Any, tmp_path: Path
) -> None:
    model, printed = calibrated
    assert printed["model"] == str(model)
    assert (printed["alpha"], printed["delta"], printed["fields"]) == (0.1, 0.1, 24)
    assert (printed["lambda"] > 0, printed["reason"]) == (True, None)
    out = tmp_path / "sharp.tif"
    outcome = crosscope("predict", model, walk.image, out, *QUICK, "--intervals", "--json")
    assert outcome.code == 0, outcome.err
    said = outcome.json["outputs"][0]["intervals"]
    assert {name: said[name] for name in ("lambda", "alpha", "delta", "fields")} == {
        name: printed[name] for name in ("lambda", "alpha", "delta", "fields")
    }
    low, high, sure = (
        cs.read_image(tmp_path / f"sharp.{name}.tif").pixels for name in ("low", "high", "sure")
    )
    output = cs.read_image(out).pixels
    assert bool(((low <= output) & (output <= high)).all())
    assert sure.dtype == np.uint8
    assert set(np.unique(sure)) <= {0, 1, 2}
    again = crosscope("predict", model, walk.image, tmp_path / "other.tif", *QUICK)
    assert again.code == 0
    assert not (tmp_path / "other.low.tif").exists()


def test_too_few_fields_give_no_model_and_the_reason(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    aside, out = keep_aside(tmp_path / "aside", 21), tmp_path / "a.zip"
    outcome = crosscope("calibrate", walk.model, walk.pairs, aside, out, "--json")
    assert outcome.code == 2
    assert (outcome.json["model"], outcome.json["lambda"], outcome.json["fields"]) == (
        *(None, None, 21),
    )
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("crosscope: "))
    assert "21 calibration fields are too few" in line
    assert outcome.json["reason"] in line
    assert not out.exists()


def test_pairs_that_were_learnt_from_are_refused(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    outcome = crosscope("calibrate", walk.model, walk.pairs, walk.pairs, tmp_path / "a.zip")
    assert outcome.code == 2
    assert "has learnt from it" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_replaced_unasked(crosscope: Crosscope, walk: Any, tmp_path: Path) -> None:
    out = tmp_path / "a.zip"
    out.write_text("mine")
    outcome = crosscope("calibrate", walk.model, walk.pairs, tmp_path, out)
    assert outcome.code == 2
    assert "exists already" in outcome.err
    itself = crosscope("calibrate", walk.model, walk.pairs, tmp_path, walk.model, "--overwrite")
    assert "must stay" in itself.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [((), "has no intervals"), (("--fidelity", "0.5"), "hold for the adversarial model only")],
)
def test_intervals_that_cannot_be_had_are_told_in_one_line(
    crosscope: Crosscope, walk: Any, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    asked = ("predict", walk.model, walk.image, tmp_path / "a.tif", *QUICK, "--intervals")
    outcome = crosscope(*asked, *options)
    assert outcome.code == 2
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("crosscope: "))
    assert reason in line
    assert list(tmp_path.iterdir()) == []
