"""Gate, predict, check, write: what the commands say and leave behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosscope as cs

QUICK = ("--engine", "torch", "--threads", "1", "--precision", "float32")
MODEL = "confocal-sted-beads"
Crosscope = Any


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw fields of beads and of nuclei."""
    folder = tmp_path_factory.mktemp("fields")
    for sample in ("beads", "nuclei"):
        (pair,) = cs.simulate("confocal-sted", sample=sample, pairs=1, size_px=192, seed=5300)
        cs.write_image(pair.source, folder / f"{sample}.tif")
    return folder


@pytest.fixture(scope="module")
def sharp(crosscope: Crosscope, fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model makes of the beads."""
    out: Path = tmp_path_factory.mktemp("sharp") / "sharp.tif"
    outcome = crosscope("predict", MODEL, fields / "beads.tif", out, *QUICK, "--check", "none")
    assert outcome.code == 0, outcome.err
    return out


def test_an_output_has_a_verdict_and_a_trust_map(
    crosscope: Crosscope, fields: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sharp.tif"
    outcome = crosscope("predict", MODEL, fields / "beads.tif", out, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    (entry,) = outcome.json["outputs"]
    assert (entry["domain"], entry["verdict"]) == ("inside", "good")
    trust = cs.read_image(tmp_path / "sharp.trust.tif")
    assert trust.pixels.dtype == np.uint8
    assert trust.pixels.shape == cs.read_image(out).pixels.shape
    assert trust.pixel_size_nm == (30, 30)
    assert entry["quality"]["trust"] == str(tmp_path / "sharp.trust.tif")
    checked = crosscope("check", MODEL, fields / "beads.tif", out, "--json")
    assert checked.code == 0, checked.err
    assert checked.json["verdict"] == "good"
    assert checked.json["quality"]["rsp"] == pytest.approx(entry["quality"]["rsp"])


def test_what_the_model_was_not_made_for_is_refused(
    crosscope: Crosscope, fields: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sharp.tif"
    refused = crosscope("predict", MODEL, fields / "nuclei.tif", out, *QUICK, "--json")
    assert refused.code == 3
    (entry,) = refused.json["outputs"]
    assert (entry["domain"], entry["verdict"], entry["output"]) == ("outside", "refused", None)
    (line,) = (line for line in refused.err.splitlines() if line.startswith("crosscope: "))
    assert "wider than in training" in line
    assert "Fine-tune it with about 8 pairs" in line
    assert list(tmp_path.iterdir()) == []
    checked = crosscope("check", MODEL, fields / "nuclei.tif")
    assert checked.code == 3
    assert "refused, outside" in checked.out
    forced = crosscope("predict", MODEL, fields / "nuclei.tif", out, *QUICK, "--force", "--json")
    assert forced.code == 0
    (entry,) = forced.json["outputs"]
    assert (entry["domain"], entry["verdict"]) == ("outside", "refused")
    assert json.loads((tmp_path / "sharp.tif.json").read_text()) == forced.json


def test_a_folder_does_what_can_be_done(crosscope: Crosscope, fields: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = crosscope("predict", MODEL, fields, out, *QUICK, "--json")
    assert outcome.code == 3
    assert [entry["verdict"] for entry in outcome.json["outputs"]] == ["good", "refused"]
    assert sorted(path.name for path in out.rglob("*.tif")) == ["beads.tif", "beads.tif"]
    assert (out / "trust" / "beads.tif").exists()


def test_nothing_is_checked_where_that_is_asked(
    crosscope: Crosscope, fields: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sharp.tif"
    asked = ("predict", MODEL, fields / "nuclei.tif", out, *QUICK, "--check", "none", "--json")
    outcome = crosscope(*asked)
    assert outcome.code == 0
    (entry,) = outcome.json["outputs"]
    assert (entry["domain"], entry["verdict"]) == (None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sharp.tif", "sharp.tif.json"]


@pytest.mark.parametrize(
    ("option", "name", "what"),
    [("--map", "doubt.tif", "a trust map"), ("--objects", "objects.csv", "objects")],
)
def test_what_is_asked_for_is_written_and_nothing_is_replaced(
    crosscope: Crosscope,
    fields: Path,
    sharp: Path,
    tmp_path: Path,
    option: str,
    name: str,
    what: str,
) -> None:
    beads, made = fields / "beads.tif", tmp_path / name
    assert crosscope("check", MODEL, beads, sharp, option, made).code == 0
    before = made.read_bytes()
    again = crosscope("check", MODEL, beads, sharp, option, made)
    assert again.code == 2
    assert "exists already" in again.err
    alone = crosscope("check", MODEL, beads, option, tmp_path / f"b-{name}")
    assert alone.code == 2
    assert f"only an output has {what}" in alone.err
    output = crosscope("check", MODEL, beads, sharp, option, sharp, "--overwrite")
    assert output.code == 2
    assert "must stay" in output.err
    assert made.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_prediction_replaces_no_map(crosscope: Crosscope, fields: Path, tmp_path: Path) -> None:
    (tmp_path / "doubt.tif").touch()
    taken = crosscope("predict", MODEL, fields / "beads.tif", tmp_path / "doubt.tif", *QUICK)
    assert taken.code == 2


def test_objects_are_told_with_those_that_chance_decided(
    crosscope: Crosscope, fields: Path, sharp: Path, tmp_path: Path
) -> None:
    beads, table = fields / "beads.tif", tmp_path / "objects.csv"
    outcome = crosscope("check", MODEL, beads, sharp, "--objects", table, "--json")
    assert outcome.code == 0, outcome.err
    support = outcome.json["support"]
    assert support["networks"] == 2
    assert support["objects"] > 10 > support["unsteady"]
    head, *rows = table.read_text().splitlines()
    assert head == "y_px,x_px,height,nearest_px,seen,least,unsteady,close"
    assert len(rows) == support["objects"]
    unsteady, close = np.loadtxt(rows, delimiter=",")[:, -2:].sum(axis=0)
    assert (unsteady, close) == (support["unsteady"], support["close"])
    told = crosscope("check", MODEL, beads, sharp, "--objects", table, "--overwrite")
    assert f"{support['objects']} objects, {support['unsteady']} of them unsteady" in told.out
    assert f"{support['close']} closer to another than the model is known to" in told.out
