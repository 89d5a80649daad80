"""What the report says of trust: verdicts field by field, what doubts foretell, what is claimed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import crosscope as cs
from crosscope.metrics.spots import SpotComparison, Spots
from crosscope.model.heads import build_heads
from crosscope.prediction.bounds import Calibration
from crosscope.report import evaluation
from crosscope.report.trust import describe_certificate, foretell
from crosscope.terminal.display import trust_line

ENGINE = cs.Engine(1, "float32")
SIZE_PX = 224


class Inventive(nn.Module):
    """A network that adds a bright square of its own."""

    def __init__(self, network: Any, at: slice) -> None:
        super().__init__()
        self.network, self.stride, self.at = network, network.stride, at

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self.network.encode(image)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.network(image).clone()
        made[..., self.at, self.at] += 5
        return made


@pytest.fixture(scope="module", autouse=True)
def _no_controls() -> Iterator[None]:
    """Leave deconvolution out: it takes most of the time, and is not asked for here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_estimate_kernel", lambda given: (None, "left out"))
        yield


@pytest.fixture(scope="module")
def beads() -> cs.Model:
    """The model that comes with the program, without its intervals."""
    model = cs.Model.load("confocal-sted-beads")
    certificate = {name: part for name, part in model.certificate.items() if name != "intervals"}
    return replace(model, heads=None, certificate=certificate)


@pytest.fixture(scope="module")
def pairs() -> list[cs.RegisteredPair]:
    simulated = cs.simulate("confocal-sted", pairs=2, size_px=SIZE_PX, seed=5300)
    return [cs.register(cs.RawPair(raw.name, raw.source, raw.target)) for raw in simulated]


@pytest.fixture(scope="module")
def report(beads: cs.Model, pairs: list[cs.RegisteredPair]) -> cs.Report:
    """Of the shipped model, with heads that nobody has trained."""
    torch.manual_seed(0)
    heads = build_heads(beads.network, beads.base).eval()
    intervals = Calibration(30.0, 0.1, 0.1, 22).to_json()
    certificate = {**beads.certificate, "intervals": intervals}
    return cs.evaluate(replace(beads, heads=heads, certificate=certificate), pairs, engine=ENGINE)


def test_every_field_has_its_verdict(report: cs.Report) -> None:
    numbers = {"distance", "chi_square", "rsp", "rse", "beyond_share"}
    for field in report.fields:
        trust = field["trust"]
        assert set(trust) == numbers | {"domain", "verdict", "signal", "reasons"}
        assert (trust["domain"], trust["verdict"], trust["reasons"]) == ("inside", "good", [])
        assert all(isinstance(trust[name], float) for name in numbers)
        assert field["trust_reason"] is None
    trust = report.summary["trust"]
    assert trust["verdicts"] == {"good": 2, "doubtful": 0, "refused": 0}
    assert trust["domains"] == {"inside": 2, "near": 0, "outside": 0}
    assert (trust["fields"], trust["sisters"]) == (2, 1)


def test_most_spots_are_right_and_few_of_them_under_a_doubt(report: cs.Report) -> None:
    spots = report.summary["trust"]["spots"]
    assert spots["right"]["n"] > 50
    assert spots["right"]["above_5_sd"] <= spots["right"]["above_3_sd"] < 0.05
    for name in ("invented", "missed"):
        assert (spots[name]["n"] == 0) == ("reason" in spots[name])


def test_the_certificate_is_told(report: cs.Report, beads: cs.Model) -> None:
    claim = report.json["certificate"]["claim"]
    assert claim["claimed_resolution_nm"] == beads.certificate["claim"]["resolution_nm"]
    assert claim["sentence"].startswith("Two points are told apart from 127 nm on")
    assert len(claim["separations_nm"]) == len(claim["p_merged"]) == len(claim["p_merged_upper"])
    quantities = report.json["certificate"]["quantities"]
    assert quantities["slope"] == pytest.approx(1, abs=0.05)
    assert "follows the input's" in quantities["sentence"]
    assert quantities["offset_change"] < 1e-3
    assert claim["position_error_nm"] == beads.certificate["claim"]["position_error_nm"]
    assert len(claim["separation_bias_nm"]) == len(claim["separations_nm"])
    assert None in claim["separation_bias_nm"]  # of pairs that are never told apart
    assert "fewer than ten" in claim["separation_bias_reason"]
    assert trust_line(report.json) == (
        "trust: 2 good of 2 fields; two points are told apart from 127 nm on"
    )


def test_intervals_are_a_layer_and_a_share(report: cs.Report) -> None:
    assert report.json["certificate"]["intervals"] == {
        "lambda": 30,
        "alpha": 0.1,
        "delta": 0.1,
        "fields": 22,
    }
    assert all(0 < field["inside_interval"] <= 1 for field in report.fields)
    for view in report.views:
        assert set(view.layers) == {"trust", "sure"}
        assert {layer.shape for layer in view.layers.values()} == {view.error.shape}
        assert view.layers["sure"].max() <= 2


def test_it_is_saved_and_shown(report: cs.Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report")
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report.json
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<h2 id="trust">Trust</h2>' in page
    assert "Two points are told apart from 127 nm on" in page
    assert "calibrated on 22" in page
    assert "nm from their place (root mean square)" in " ".join(page.replace("&nbsp;", " ").split())
    assert "by how far apart they are" in page
    assert "A camera offset that is 100 or 500 grey values higher" in page


def test_an_invented_object_makes_the_field_doubtful(
    beads: cs.Model, pairs: list[cs.RegisteredPair]
) -> None:
    network = Inventive(beads.generator, slice(100, 106))
    model = replace(beads, generator=network, twin=None)
    report = cs.evaluate(model, pairs, engine=ENGINE)
    assert {field["trust"]["verdict"] for field in report.fields} == {"doubtful"}
    assert "contradict the input" in report.fields[0]["trust"]["reasons"][0]
    spots = report.summary["trust"]["spots"]
    assert spots["invented"]["n"] >= 2
    assert spots["invented"]["above_5_sd"] > 0.5 > spots["right"]["above_5_sd"]
    assert trust_line(report.json).startswith("trust: 2 doubtful of 2 fields; ")


def test_members_are_asked_too(beads: cs.Model, pairs: list[cs.RegisteredPair]) -> None:
    place = slice(100, 106)
    certificate = {**beads.certificate, "members": [beads.certificate["twin"]]}
    other = Inventive(beads.generator, place)  # the output itself has nothing there
    model = replace(beads, members=(other,), certificate=certificate)
    report = cs.evaluate(model, pairs[:1], engine=ENGINE)
    assert report.summary["trust"]["sisters"] == 2
    assert report.fields[0]["trust"]["verdict"] == "good"
    trust = report.views[0].layers["trust"]
    assert trust[place, place].min() > 200
    assert np.quantile(trust, 0.99) < 50


@pytest.mark.parametrize("part", ["domain", "claim", "intervals"])
def test_a_damaged_certificate_leaves_a_report_with_the_reason(
    beads: cs.Model, pairs: list[cs.RegisteredPair], part: str, tmp_path: Path
) -> None:
    heads = build_heads(beads.network, beads.base).eval()
    certificate = {**beads.certificate, part: {"nonsense": 1}}
    model = replace(beads, heads=heads, certificate=certificate, twin=None)
    report = cs.evaluate(model, pairs[:1], engine=ENGINE)
    told = describe_certificate(model)["certificate"]
    assert report.json["certificate"] == told
    if part == "intervals":
        assert "its intervals are damaged" in told["intervals"]["reason"]
        assert report.fields[0]["trust"]["verdict"] == "good"
    else:
        assert report.fields[0]["trust"] is None
        assert f"damaged: {part}" in report.fields[0]["trust_reason"]
        assert f"damaged: {part}" in trust_line(report.json)
        assert (told["claim"] is None) == (part == "claim")
    report.save(tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert ("intervals are damaged" if part == "intervals" else f"damaged: {part}") in page


def test_intervals_that_could_not_be_calibrated_have_their_reason(beads: cs.Model) -> None:
    assert describe_certificate(beads)["certificate"]["intervals"]["reason"] == ("has no intervals")
    heads = build_heads(beads.network, beads.base).eval()
    few = Calibration(None, 0.1, 0.1, 4, "4 calibration fields are too few").to_json()
    model = replace(beads, heads=heads, certificate={"intervals": few})
    told = describe_certificate(model)["certificate"]
    assert told["intervals"]["lambda"] is None
    assert "4 calibration fields are too few" in told["intervals"]["reason"]
    assert told["claim"] is None
    assert "cs.certify" in told["claim_reason"]


def test_spots_are_counted_under_the_map() -> None:
    def spots(*yx_px: tuple[float, float]) -> Spots:
        return Spots(np.array(yx_px, dtype=float).reshape(-1, 2), np.ones(len(yx_px)))

    trust = np.zeros((40, 40), np.uint8)
    trust[10, 10], trust[30, 31] = 60, 40  # invented, missed
    found, reference = spots((10, 11.4), (20, 20)), spots((20, 20), (30, 30))
    compared = SpotComparison(found, reference, np.array([-1, 0]), 0.25, 4.0)
    assert foretell([(trust, compared)]) == {
        "invented": {"n": 1, "above_3_sd": 1, "above_5_sd": 1},
        "missed": {"n": 1, "above_3_sd": 1, "above_5_sd": 0},
        "right": {"n": 1, "above_3_sd": 0, "above_5_sd": 0},
    }
    nothing = foretell([])
    assert nothing["right"] == {
        "n": 0,
        "above_3_sd": None,
        "above_5_sd": None,
        "reason": "the reference has too few isolated spots",
    }
