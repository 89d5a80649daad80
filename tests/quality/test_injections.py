"""One object of an output is changed, as in benchmarks/quality/injections.py: the map shows it."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosscope as cs
from crosscope.quality.forward import Forward
from crosscope.quality.inspection import TENTHS
from crosscope.quality.reblur import LIMIT

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "quality"
SEEN = Any


@pytest.fixture
def injections(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("injections")


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("sham", "fast"),
        ("sham", "full"),
        ("added", "fast"),
        ("deleted", "fast"),
        ("moved", "fast"),
        ("brighter", "fast"),
        ("split", "full"),
        ("merged", "full"),
    ],
)
def test_a_changed_object_is_beyond_the_limit_and_an_unchanged_one_is_not(
    beads: cs.Model, seen: SEEN, injections: Any, kind: str, level: str
) -> None:
    forward = Forward.from_json(beads.certificate["forward"])
    changed = seen.output.pixels.copy()
    places = injections.isolated_places(changed, forward)[:, None]
    if kind == "merged":
        places = injections.paired_places(changed, forward)
    at = injections.change(changed, places[1], kind, forward, np.random.default_rng(3))
    found, plain = (
        cs.check(beads, seen.image, seen.output.with_pixels(pixels), level=level)
        for pixels in (changed, seen.output.pixels)
    )
    assert found.trust is not None
    doubt = injections.largest(found.trust.pixels, at, round(forward.source_fwhm_px)) / TENTHS
    assert (doubt > LIMIT) == (kind != "sham")
    if level == "full":
        grows = found.numbers["sisters_beyond_share"] > plain.numbers["sisters_beyond_share"]
        assert grows == (kind != "sham")


@pytest.mark.parametrize("kind", ["sham", "added", "deleted", "moved", "brighter"])
def test_a_changed_place_of_a_structure_is_beyond_the_limit(injections: Any, kind: str) -> None:
    model = cs.Model.load("tirf-sim-filaments")
    (pair,) = cs.simulate("tirf-sim", sample="filaments", pairs=1, size_px=256, seed=5100)
    plan = cs.PredictionPlan(engine="torch", threads=1, precision="float32")
    output = cs.predict(model, pair.source, plan=plan)
    forward = Forward.from_json(model.certificate["forward"])
    changed = output.pixels.copy()
    place = injections.bright_places(changed, forward)[0]
    rng = np.random.default_rng(3)
    at = injections.change(changed, place[None], kind, forward, rng, spots=False)
    assert (kind == "sham") == np.array_equal(changed, output.pixels)
    if kind == "moved":  # nothing of the light is lost
        assert changed.sum() == pytest.approx(output.pixels.sum(), rel=1e-5)
    found = cs.check(model, pair.source, output.with_pixels(changed), level="full")
    assert found.trust is not None
    doubt = injections.largest(found.trust.pixels, at, round(forward.source_fwhm_px)) / TENTHS
    assert (doubt > LIMIT) == (kind != "sham")
