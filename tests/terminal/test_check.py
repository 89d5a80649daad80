"""Gate, predict, check, write: what the commands say and leave behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from defusedxml import ElementTree

import crosscope as cs
from crosscope.data import slides
from crosscope.data.slides import Part, write_slide

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
    assert "refused; the image is unlike those that the model learnt from (outside)" in checked.out
    forced = crosscope("predict", MODEL, fields / "nuclei.tif", out, *QUICK, "--force", "--json")
    assert forced.code == 0
    (entry,) = forced.json["outputs"]
    assert (entry["domain"], entry["verdict"]) == ("outside", "refused")
    assert json.loads((tmp_path / "sharp.tif.json").read_text()) == forced.json
    assert entry["quality"]["claimed_resolution_nm"] is None
    assert "not made for" in entry["quality"]["claimed_resolution_reason"]
    again = crosscope(
        "predict", MODEL, fields / "nuclei.tif", out, *QUICK, "--force", "--overwrite"
    )
    assert again.out.splitlines()[-1] == (
        f"{out}: 1 done (1 forced: the model was not made for such images)"
    )


@pytest.mark.parametrize("name", ["sharp.tif", "sharp.ome.zarr"])
@pytest.mark.parametrize("check", ["fast", "none"])
def test_a_forced_output_says_so_itself(
    crosscope: Crosscope, fields: Path, tmp_path: Path, name: str, check: str
) -> None:
    pixels = ("--pixel-size-nm", "60")  # refused for them alone, where nothing is checked
    asked = (*QUICK, "--check", check, "--overwrite")
    told = []
    for source, more in (("nuclei", (*pixels, "--force")), ("beads", ("--force",)), ("beads", ())):
        outcome = crosscope(
            "predict", MODEL, fields / f"{source}.tif", tmp_path / name, *asked, *more
        )
        assert outcome.code == 0, outcome.err
        told.append(said_in(tmp_path / name))
    assert told[0].startswith("crosscope: refused (outside): ")
    assert told[0].endswith("; forced")
    assert "60" in told[0]
    assert told[1:] == ["", ""]


def said_in(path: Path) -> str:
    """Return what an image file says of itself in words."""
    if path.is_dir():
        about: Any = zarr.open_group(path, mode="r").attrs["crosscope"]
        return str(about.get("note", ""))
    with tifffile.TiffFile(path) as tif:
        image = ElementTree.fromstring(tif.ome_metadata).find("{*}Image")
    return str(image.findtext("{*}Description") or "")


def test_a_rolling_average_is_checked_as_its_sidecar_says(
    crosscope: Crosscope, tmp_path: Path
) -> None:
    lapse, out = tmp_path / "lapse.tif", tmp_path / "sharp.tif"
    (pair,) = cs.simulate("tirf-sim", pairs=1, size_px=256, frames=3, seed=5100)
    cs.write_image(pair.source, lapse)
    asked = (*QUICK, "--rolling-average", "0.1")
    made = crosscope("predict", "tirf-sim-pits", lapse, out, *asked, "--json")
    assert made.code == 0, made.err
    (entry,) = made.json["outputs"]
    assert entry["verdict"] == "good"
    checked = crosscope("check", "tirf-sim-pits", lapse, out, "--json")
    assert checked.code == 0, checked.err
    assert checked.json["rolling_average"] == 0.1
    assert "it was predicted with --rolling-average 0.1, says its sidecar" in " ".join(
        checked.json["reasons"]
    )
    assert checked.json["quality"]["chi_square"] == entry["quality"]["chi_square"]
    other = crosscope("check", "tirf-sim-pits", lapse, out, "--rolling-average", "0", "--json")
    assert other.json["rolling_average"] == 0
    cs.write_image(pair.source.with_pixels(pair.source.pixels[0], axes="yx"), tmp_path / "one.tif")
    idle = crosscope("check", "tirf-sim-pits", tmp_path / "one.tif", "--rolling-average", "0.1")
    assert "it is no time-lapse (axes yx)" in idle.err
    refused = crosscope("check", "tirf-sim-pits", lapse, out, "--rolling-average", "0.5")
    assert refused.code == 2
    assert "must be between 0 and 1/3" in refused.err


def test_an_output_is_checked_as_its_sidecar_says(
    crosscope: Crosscope, fields: Path, tmp_path: Path
) -> None:
    beads, out = fields / "beads.tif", tmp_path / "sharp.tif"
    made = crosscope("predict", MODEL, beads, out, *QUICK, "--check", "none", "--fidelity", "0.5")
    assert made.code == 0, made.err
    sidecar = tmp_path / "sharp.tif.json"

    def ask(*more: str | Path, image: Path = beads) -> Any:
        outcome = crosscope("check", MODEL, image, out, "--level", "full", *more, "--json")
        assert outcome.code == 0, outcome.err
        return outcome.json

    found = ask()
    assert found["fidelity"] == 0.5
    assert found["quality"]["sisters_beyond_share"] is None
    assert "it was predicted with --fidelity 0.5, says its sidecar" in found["reasons"]
    assert ask("--fidelity", "0")["quality"]["sisters_beyond_share"] is not None
    other = tmp_path / "other.tif"
    cs.write_image(cs.read_image(beads).with_pixels(cs.read_image(beads).pixels + 1), other)
    told = " ".join(ask(image=other)["reasons"])
    assert f"was made of another file, as its sidecar says: of {beads}" in told
    for damage in ("[", '{"outputs": [{"output": 3}]}', "[" * 10**5, '{"outputs": [null]}'):
        sidecar.write_text(damage)
        assert ask()["fidelity"] == 0
    sidecar.unlink()
    assert ask("--fidelity", "0.5") == found | {"reasons": found["reasons"][:-1]}


def test_what_was_told_when_it_was_predicted_is_heeded(
    crosscope: Crosscope, fields: Path, tmp_path: Path
) -> None:
    beads, out = cs.read_image(fields / "beads.tif"), tmp_path / "sharp.tif"
    raw = np.stack([beads.pixels + 300, beads.pixels])
    channels = (cs.Channel("A"), cs.Channel("B"))
    image = cs.Image(raw.astype(np.uint16), "cyx", None, channels=channels)
    cs.write_image(image, tmp_path / "raw.tif")
    told = ("--channel", "A", "--offset", "310", "--pixel-size-nm", "30")
    made = crosscope("predict", MODEL, tmp_path / "raw.tif", out, *QUICK, *told, "--json")
    assert made.code == 0, made.err
    (entry,) = made.json["outputs"]
    found = crosscope("check", MODEL, tmp_path / "raw.tif", out, "--json")
    assert found.code == 0, found.err
    assert found.json["verdict"] == entry["verdict"]
    assert found.json["quality"]["rsp"] == pytest.approx(entry["quality"]["rsp"])
    for option in ("--channel A", "--offset 310", "--pixel-size-nm 30"):
        assert f"it was predicted with {option}, says its sidecar" in found.json["reasons"]
    other = crosscope("check", MODEL, tmp_path / "raw.tif", out, "--offset", "10", "--json")
    assert other.json["verdict"] == "refused"


def test_a_large_output_of_what_cannot_be_read_in_parts_is_checked(
    crosscope: Crosscope, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beads = cs.read_image(fields / "beads.tif")
    signed = beads.with_pixels(beads.pixels.astype(np.int16))
    tifffile.imwrite(tmp_path / "raw.tif", signed.pixels)
    told = ("--pixel-size-nm", "30")
    out, doubt = tmp_path / "sharp.tif", tmp_path / "doubt.tif"
    made = crosscope("predict", MODEL, tmp_path / "raw.tif", out, *QUICK, *told)
    assert made.code == 0, made.err
    monkeypatch.setattr(slides, "LARGE_PX", 192**2)
    found = crosscope("check", MODEL, tmp_path / "raw.tif", out, "--map", doubt)
    assert found.code == 0, found.err
    assert cs.read_image(doubt).pixels.shape == (192, 192)


def test_nothing_is_written_of_an_output_that_is_damaged(
    crosscope: Crosscope, fields: Path, sharp: Path, tmp_path: Path
) -> None:
    broken = cs.read_image(sharp)
    broken.pixels[100, 100] = np.nan
    cs.write_image(broken, tmp_path / "nan.tif")
    asked = ("check", MODEL, fields / "beads.tif")
    wanted = ("--map", tmp_path / "doubt.tif", "--objects", tmp_path / "objects.csv")
    refused = crosscope(*asked, tmp_path / "nan.tif", *wanted)
    assert refused.code == 2
    assert "are NaN" in refused.err
    zarr_map = crosscope(*asked, sharp, "--map", tmp_path / "doubt.zarr")
    assert zarr_map.code == 2
    assert "End its name in .tif" in zarr_map.err
    assert [path.name for path in tmp_path.iterdir()] == ["nan.tif"]


def test_support_that_cannot_be_told_has_its_reason(
    crosscope: Crosscope, fields: Path, sharp: Path, tmp_path: Path
) -> None:
    asked = ("--objects", tmp_path / "objects.csv", "--fidelity", "0.5", "--json")
    support = crosscope("check", MODEL, fields / "beads.tif", sharp, *asked).json["support"]
    assert support["close"] is None
    assert support["close_reason"].startswith("no resolution is claimed: ")


def test_a_folder_does_what_can_be_done(crosscope: Crosscope, fields: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = crosscope("predict", MODEL, fields, out, *QUICK, "--json")
    assert outcome.code == 3
    assert [entry["verdict"] for entry in outcome.json["outputs"]] == ["good", "refused"]
    assert sorted(path.name for path in out.rglob("*.tif")) == ["beads.tif", "beads.tif"]
    assert (out / "trust" / "beads.tif").exists()


def test_a_folder_is_checked_with_what_was_made_of_it(
    crosscope: Crosscope, fields: Path, tmp_path: Path
) -> None:
    out, maps, tables = (tmp_path / name for name in ("out", "maps", "tables"))
    made = crosscope("predict", MODEL, fields, out, *QUICK, "--fidelity", "0.5", "--json")
    asked = ("check", MODEL, fields, out, "--map", maps, "--objects", tables)
    outcome = crosscope(*asked, "--json")
    assert outcome.code == 3
    beads, nuclei = outcome.json["images"]
    assert beads["input"] == str(fields / "beads.tif")
    assert beads["fidelity"] == 0.5
    (entry, _) = made.json["outputs"]
    assert beads["quality"]["rsp"] == pytest.approx(entry["quality"]["rsp"])
    assert beads["support"]["objects"] > 10
    assert nuclei["verdict"] == "refused"
    assert nuclei["output"] is None
    assert nuclei["reasons"][-1] == f"it has no output in {out}: the image alone was judged"
    assert [path.name for path in maps.iterdir()] == ["beads.tif"]
    assert [path.name for path in tables.iterdir()] == ["beads.csv"]
    again = crosscope(*asked)
    assert again.code == 2
    assert "exists already" in again.err
    (out / "beads.tif").write_text("damaged")
    damaged = crosscope("check", MODEL, fields, out, "--json")
    assert damaged.code == 3
    assert "beads.tif" in damaged.json["images"][0]["reasons"][0]
    (tmp_path / "wrong").mkdir()
    wrong = crosscope("check", MODEL, fields, tmp_path / "wrong")
    assert wrong.code == 2
    assert "holds no output of these images" in wrong.err
    single = crosscope("check", MODEL, fields, out / "beads.tif")
    assert single.code == 2
    assert "is not a folder, but the input is" in single.err


def test_an_ome_zarr_is_checked_part_by_part(
    crosscope: Crosscope, fields: Path, sharp: Path, tmp_path: Path
) -> None:
    raw, out, doubt = (tmp_path / name for name in ("raw.zarr", "sharp.zarr", "doubt.tif"))
    for file, slide in ((fields / "beads.tif", raw), (sharp, out)):
        _write_zarr(cs.read_image(file), slide)
    whole = crosscope("check", MODEL, fields / "beads.tif", sharp, "--map", doubt, "--json")
    parts = crosscope("check", MODEL, raw, out, "--map", tmp_path / "doubt.zarr", "--json")
    assert parts.code == whole.code == 0, parts.err
    assert parts.json["verdict"] == "good"
    for name, value in whole.json["quality"].items():
        wanted = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert parts.json["quality"][name] == wanted, name
    with cs.open_slide(tmp_path / "doubt.zarr") as drawn:
        np.testing.assert_array_equal(
            drawn.read((), slice(0, 192), slice(0, 192)), cs.read_image(doubt).pixels
        )
    assert crosscope("check", MODEL, raw, "--json").json["domain"] == "inside"
    objects = crosscope("check", MODEL, raw, out, "--objects", tmp_path / "objects.csv")
    assert objects.code == 2
    assert "objects are counted in images that fit into memory only" in objects.err
    broken = cs.read_image(sharp)
    broken.pixels[100, 100] = np.nan
    _write_zarr(broken, tmp_path / "nan.zarr")
    kept = sorted(path.name for path in tmp_path.iterdir())
    refused = crosscope("check", MODEL, raw, tmp_path / "nan.zarr", "--map", tmp_path / "n.tif")
    assert refused.code == 2
    assert "1 pixels are NaN" in refused.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == kept


def _write_zarr(image: cs.Image, path: Path) -> None:
    def read(part: Part) -> npt.NDArray[Any]:
        pixels: npt.NDArray[Any] = image.pixels[part.y, part.x]
        return pixels

    write_slide(image, path, read, version="0.5", tile_px=64)


def test_every_channel_is_checked_by_its_model(
    crosscope: Crosscope, fields: Path, tmp_path: Path
) -> None:
    beads, nuclei = (cs.read_image(fields / f"{name}.tif") for name in ("beads", "nuclei"))
    channels = (cs.Channel("DAPI"), cs.Channel("FITC"))
    both = np.stack([nuclei.pixels, beads.pixels])
    raw = beads.with_pixels(both, axes="cyx", channels=channels)
    cs.write_image(raw, tmp_path / "raw.tif")
    models, out = f"DAPI=confocal-sted-nuclei,FITC={MODEL}", tmp_path / "sharp.tif"
    made = crosscope("predict", models, tmp_path / "raw.tif", out, *QUICK, "--json")
    assert made.code == 0, made.err
    (entry,) = made.json["outputs"]
    asked = ("check", models, tmp_path / "raw.tif", out)
    found = crosscope(*asked, "--map", tmp_path / "doubt.tif", "--json")
    assert found.code == 0, found.err
    assert found.json["verdict"] == entry["verdict"]
    assert found.json["quality"]["rsp"] == pytest.approx(entry["quality"]["rsp"])
    np.testing.assert_array_equal(
        cs.read_image(tmp_path / "doubt.tif").pixels,
        cs.read_image(tmp_path / "sharp.trust.tif").pixels,
    )
    swapped = crosscope("check", f"DAPI={MODEL},FITC=confocal-sted-nuclei", tmp_path / "raw.tif")
    assert swapped.code == 3
    assert "DAPI: " in swapped.err
    objects = crosscope(*asked, "--objects", tmp_path / "objects.csv")
    assert objects.code == 2
    assert "objects are counted in outputs of one model" in objects.err


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


@pytest.mark.parametrize(("option", "name"), [("--map", "doubt.tif"), ("--objects", "objects.csv")])
def test_what_is_asked_for_is_written_and_nothing_is_replaced(
    crosscope: Crosscope,
    fields: Path,
    sharp: Path,
    tmp_path: Path,
    option: str,
    name: str,
) -> None:
    beads, made = fields / "beads.tif", tmp_path / name
    assert crosscope("check", MODEL, beads, sharp, option, made).code == 0
    before = made.read_bytes()
    again = crosscope("check", MODEL, beads, sharp, option, made)
    assert again.code == 2
    assert "exists already" in again.err
    alone = crosscope("check", MODEL, beads, option, tmp_path / f"b-{name}")
    assert alone.code == 2
    assert f"b-{name}: is of an output, and there is none" in alone.err
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


def test_info_tells_a_line_each_of_what_the_certificate_knows(
    crosscope: Crosscope, tmp_path: Path
) -> None:
    told = crosscope("info", MODEL)
    lines = told.out.split("certificate:\n")[1].splitlines()
    for name, words in {
        "claim": "Two points are told apart from",
        "quantities": "The output's brightness follows",
        "false_objects": "An empty field of 512 x 512 px holds 0.0 false objects on average",
        "position": " nm from their place",
        "separation": " nm off, by how far apart they are",
        "brightness": "The light of single points comes out",
        "exposure": "Where twice as much light goes in, 2.0",
        "offset": "changes the light of a point by 0.00 % at most",
    }.items():
        (line,) = (line for line in lines if line.startswith(f"  {name}: "))
        assert words in line
    model = cs.Model.load(MODEL)
    claim = {**model.certificate["claim"], "most_false_objects": "many", "position_bias_nm": None}
    certificate = {**model.certificate, "claim": claim, "quantities": []}
    replace(model, certificate=certificate).save(tmp_path / "damaged.zip")
    known = crosscope("info", tmp_path / "damaged.zip", "--json").json["certificate"]
    assert set(known) == {"claim", "intervals", "separation", "brightness"}
