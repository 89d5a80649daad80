"""`crosscope predict`: axes, pixel sizes, channels, folders and the sidecar beside the output."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import crosscope as cs

Crosscope = Callable[..., Any]
QUICK = ("--engine", "torch", "--threads", "1", "--precision", "float32", "--check", "none")
NAMES = {"input", "output", "input_sha256", "model_sha256", "pixel_size_nm"}
NAMES |= {"domain", "verdict", "reasons", "seconds"}


def pixels_of(path: Path) -> np.ndarray:
    return cs.read_image(path).pixels


def resized(image: Path, to: Path, factor: float) -> Path:
    """Write the image as if its pixels were larger."""
    read = cs.read_image(image)
    assert read.pixel_size_nm
    y, x = read.pixel_size_nm
    cs.write_image(read.with_pixels(read.pixels, pixel_size_nm=(factor * y, factor * x)), to)
    return to


def test_the_sidecar_is_what_is_printed_and_tells_how(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    out = tmp_path / "sharp.ome.tif"
    outcome = crosscope("predict", walk.model, walk.image, out, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    sidecar = json.loads((tmp_path / "sharp.ome.tif.json").read_text())
    assert sidecar == outcome.json
    (entry,) = sidecar["outputs"]
    assert set(entry) >= NAMES
    assert entry["input_sha256"] == cs.read_image(walk.image).sha256
    assert entry["model_sha256"] == cs.Model.load(walk.model).sha256
    assert (entry["domain"], entry["verdict"], entry["reasons"]) == (None, None, [])
    assert entry["pixel_size_nm"] == [30, 30]
    plan = {name: entry["plan"][name] for name in ("engine", "threads", "precision")}
    assert plan == {"engine": "torch", "threads": 1, "precision": "float32"}
    sharp = cs.read_image(out)
    assert (sharp.axes, sharp.pixels.shape) == ("yx", pixels_of(walk.image).shape)
    assert sharp.pixels.dtype == np.float32


def test_without_json_one_line_says_what_was_done(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    outcome = crosscope("predict", walk.model, walk.image, tmp_path / "a.tif", *QUICK)
    assert outcome.out == f"{tmp_path / 'a.tif'}: 1 done\n"


def test_one_line_says_which_engine_was_chosen_and_why(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    out = tmp_path / "a.tif"
    options = ("--threads", "1", "--engine", "torch")
    outcome = crosscope("predict", walk.model, walk.image, out, *options)
    plan = json.loads((tmp_path / "a.tif.json").read_text())["outputs"][0]["plan"]
    line = outcome.err.splitlines()[0]
    assert line.startswith(f"torch, {plan['precision']}, 1 thread: ")
    assert "s a megapixel, measured" in line
    again = crosscope("predict", walk.model, walk.image, out, *options, "--overwrite", "--json")
    assert again.err.splitlines()[0].startswith(line)  # and "before"
    assert again.json["outputs"][0]["plan"] == plan


def test_openvino_gives_the_same_image(crosscope: Crosscope, walk: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = {}
    for engine in ("torch", "openvino"):
        out = tmp_path / f"{engine}.tif"
        options = ("--engine", engine, "--threads", "1", "--precision", "float32")
        outcome = crosscope("predict", walk.model, walk.image, out, *options, "--json")
        (entry,) = outcome.json["outputs"]
        assert entry["plan"]["engine"] == engine
        assert ("openvino" in entry["versions"]) == (engine == "openvino")
        made[engine] = pixels_of(out)
    assert np.abs(made["openvino"] - made["torch"]).max() <= 1e-4 * np.ptp(made["torch"])


def test_exact_tiles_and_openvino_exclude_each_other(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    options = ("--exact", "--engine", "openvino")
    outcome = crosscope("predict", walk.model, walk.image, tmp_path / "a.tif", *options)
    assert outcome.code == 2
    assert "exact tiles need the engine torch" in outcome.err


def test_tiles_make_no_difference(crosscope: Crosscope, walk: Any, tmp_path: Path) -> None:
    image = cs.read_image(walk.image)
    large = tmp_path / "large.tif"
    cs.write_image(image.with_pixels(np.tile(image.pixels, (3, 2))), large)
    sharp = {}
    for name, options in {
        "whole": ("--tile-px", "4096"),
        "tiled": ("--tile-px", "64"),
        "exact whole": ("--tile-px", "4096", "--exact"),
        "exact": ("--tile-px", "64", "--exact"),
    }.items():
        out = tmp_path / f"{name}.tif"
        assert crosscope("predict", walk.model, large, out, *options, *QUICK).code == 0
        sharp[name] = pixels_of(out)
    span = np.ptp(sharp["whole"])
    assert np.abs(sharp["tiled"] - sharp["whole"]).max() <= 1e-5 * span
    assert np.array_equal(sharp["exact"], sharp["exact whole"])


def test_a_system_of_two_grids_doubles_the_image(
    crosscope: Crosscope, double: Any, tmp_path: Path
) -> None:
    out = tmp_path / "sharp.tif"
    outcome = crosscope("predict", double.model, double.image, out, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    source, sharp = cs.read_image(double.image), cs.read_image(out)
    assert source.pixel_size_nm == pytest.approx((650, 650))
    assert sharp.pixel_size_nm == pytest.approx((325, 325))
    assert sharp.pixels.shape == tuple(2 * n for n in source.pixels.shape)
    assert outcome.json["outputs"][0]["domain"] is None


@pytest.mark.parametrize(("factor", "domain"), [(1.01, None), (1.1, "near"), (1 / 1.1, "near")])
def test_other_pixel_sizes_are_resampled(
    crosscope: Crosscope, walk: Any, tmp_path: Path, factor: float, domain: str | None
) -> None:
    image = resized(walk.image, tmp_path / "image.tif", factor)
    out = tmp_path / "sharp.tif"
    outcome = crosscope("predict", walk.model, image, out, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    (entry,) = outcome.json["outputs"]
    assert entry["domain"] == domain
    zoom = factor if domain else 1
    assert cs.read_image(out).pixel_size_nm == pytest.approx((30 * factor / zoom,) * 2)
    assert pixels_of(out).shape == tuple(int(zoom * n + 1e-6) for n in pixels_of(image).shape)
    assert ("30 x 30 nm" in " ".join(entry["reasons"])) == bool(domain)


def test_a_pixel_size_too_far_is_refused_unless_forced(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    image = resized(walk.image, tmp_path / "image.tif", 1.5)
    out = tmp_path / "sharp.tif"
    refused = crosscope("predict", walk.model, image, out, *QUICK, "--json")
    assert refused.code == 3
    (entry,) = refused.json["outputs"]
    assert (entry["output"], entry["domain"], entry["verdict"]) == (None, "outside", "refused")
    assert "--force" in refused.err
    assert not out.exists()
    forced = crosscope("predict", walk.model, image, out, *QUICK, "--force", "--json")
    assert forced.code == 0
    (entry,) = forced.json["outputs"]
    assert entry["domain"] == "outside"
    assert entry["plan"]["force"] is True


def test_a_given_pixel_size_stands_in_for_a_missing_one(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    image = cs.read_image(walk.image)
    silent = tmp_path / "silent.tif"
    cs.write_image(image.with_pixels(image.pixels, pixel_size_nm=None), silent)
    for name, path, options in (
        ("told", walk.image, ()),
        ("given", silent, ("--pixel-size-nm", "30")),
    ):
        crosscope("predict", walk.model, path, tmp_path / f"{name}.tif", *options, *QUICK)
    assert np.array_equal(pixels_of(tmp_path / "told.tif"), pixels_of(tmp_path / "given.tif"))
    assert cs.read_image(tmp_path / "given.tif").pixel_size_nm == (30, 30)


def test_offset_makes_up_for_another_camera(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    image = cs.read_image(walk.image)
    other = tmp_path / "other.tif"
    cs.write_image(image.with_pixels(image.pixels + np.uint16(1000)), other)
    offset = cs.Model.load(walk.model).source_scaling.offset + 1000
    sharp = {}
    for name, path, options in (
        ("plain", walk.image, ()),
        ("made up", other, ("--offset", str(offset))),
        ("forgotten", other, ()),
    ):
        out = tmp_path / f"{name}.tif"
        assert crosscope("predict", walk.model, path, out, *options, *QUICK).code == 0
        sharp[name] = pixels_of(out)
    assert sharp["made up"] == pytest.approx(sharp["plain"], abs=0.01)
    assert sharp["forgotten"].mean() > sharp["plain"].mean() + 1


def test_each_channel_gets_its_model_and_keeps_its_place(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    plane = pixels_of(walk.image)
    pixels = np.stack([np.stack([plane, plane[::-1], plane // 2])] * 2)
    channels = tuple(map(cs.Channel, ("DAPI", "FITC", "TxRed"), ("#0000ff", "#00ff00", "#ff0000")))
    stack = tmp_path / "stack.tif"
    cs.write_image(cs.Image(pixels, "tcyx", (30.0, 30.0), channels=channels), stack)
    out = tmp_path / "sharp.tif"
    models = f"DAPI={walk.model},TxRed={walk.model}"
    # frames go through the network together: --exact, for else rounding is that of the shape
    exact = (*QUICK, "--exact")
    outcome = crosscope("predict", models, stack, out, *exact, "--json")
    assert outcome.code == 0, outcome.err
    assert set(outcome.json["outputs"][0]["model_sha256"]) == {"DAPI", "TxRed"}
    sharp = cs.read_image(out)
    assert (sharp.axes, sharp.pixels.shape) == ("tcyx", (2, 2, *plane.shape))
    assert [(known.name, known.colour) for known in sharp.channels] == [
        ("DAPI", "#0000ff"),
        ("TxRed", "#ff0000"),
    ]
    one = tmp_path / "one.tif"
    crosscope("predict", walk.model, stack, one, "--channel", "TxRed", *exact)
    assert cs.read_image(one).axes == "tyx"
    assert np.array_equal(pixels_of(one), sharp.pixels[:, 1])
    crosscope("predict", walk.model, walk.image, tmp_path / "alone.tif", *exact)
    assert np.array_equal(pixels_of(tmp_path / "alone.tif"), sharp.pixels[0, 0])


def write_stack(walk: Any, path: Path, names: tuple[str, ...] = ("DAPI", "FITC", "TxRed")) -> Path:
    """Write an image of named channels, DAPI in grey-blue and the others without a colour."""
    plane = pixels_of(walk.image)
    channels = [cs.Channel(name, "#4060ff" if name == "DAPI" else None) for name in names]
    path.parent.mkdir(exist_ok=True)
    pixels = np.stack([np.roll(plane, 9 * n) for n in range(len(names))])
    cs.write_image(cs.Image(pixels, "cyx", (30.0, 30.0), channels=tuple(channels)), path)
    return path


def test_three_channels_become_one_image_and_a_picture(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    cell, out = write_stack(walk, tmp_path / "cell.tif"), tmp_path / "out" / "sharp.tif"
    models = ",".join(f"{name}={walk.model}" for name in ("DAPI", "FITC", "TxRed"))
    outcome = crosscope("predict", models, cell, out, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in out.parent.iterdir()) == [
        *("sharp.png", "sharp.tif", "sharp.tif.json")
    ]
    sharp = cs.read_image(out)
    assert sharp.pixel_size_nm == (30, 30)
    assert [(known.name, known.colour) for known in sharp.channels] == [
        ("DAPI", "#4060ff"),
        ("FITC", None),
        ("TxRed", None),
    ]
    shown = outcome.json["outputs"][0]["composite"]
    assert shown["file"] == str(out.with_suffix(".png"))
    assert [known["colour"] for known in shown["channels"]] == ["#4060ff", "#00ff00", "#ff00ff"]
    again = crosscope("predict", models, cell, out, *QUICK)
    assert again.code == 2
    assert "exists already" in again.err
    assert crosscope("predict", models, cell, out, *QUICK, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("names", "models", "options", "reason", "code"),
    [
        (("DAPI", "FITC"), "DAPI=M,Cy5=M", (), "no single channel 'Cy5'", 2),
        (("DAPI",), "DAPI=M,FITC=M,TxRed=M", (), "no single channel 'FITC'", 2),
        (("DAPI", "FITC"), "M", (), "several channels (axes c=2", 2),
        (("DAPI", "FITC"), "DAPI=M,DAPI=M", (), "a channel twice", 2),
        (("DAPI", "FITC"), "DAPI=M,FITC=M", ("--channel", "DAPI"), "one channel is chosen", 2),
        (("DAPI", "FITC"), "DAPI=M,FITC=M", ("--pixel-size-nm", "60"), "channel DAPI: its", 3),
    ],
)
def test_channels_and_models_that_don_t_fit_are_told_in_one_line(
    crosscope: Crosscope,
    walk: Any,
    tmp_path: Path,
    names: tuple[str, ...],
    models: str,
    options: tuple[str, ...],
    reason: str,
    code: int,
) -> None:
    cell, out = write_stack(walk, tmp_path / "cell.tif", names), tmp_path / "out" / "sharp.tif"
    asked = models.replace("M", str(walk.model))
    outcome = crosscope("predict", asked, cell, out, *options, *QUICK, "--json")
    assert outcome.code == code, outcome.err
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("crosscope: "))
    assert reason in line
    assert bool(outcome.out) == (code == 3)
    assert not out.parent.exists()


def test_models_of_other_target_pixels_make_no_image(
    crosscope: Crosscope, walk: Any, double: Any, tmp_path: Path
) -> None:
    cell, out = write_stack(walk, tmp_path / "cell.tif"), tmp_path / "out" / "sharp.tif"
    models = f"DAPI={walk.model},FITC={double.model}"
    refused = crosscope("predict", models, cell, out, *QUICK)
    assert refused.code == 3
    assert "channel FITC: its pixels are 30 x 30 nm" in refused.err
    assert not out.parent.exists()


def test_a_channel_without_a_model_is_said_to_be_left_out(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    cell = write_stack(walk, tmp_path / "cell.tif")
    models = f"dapi={walk.model},TxRed={walk.model}"
    outcome = crosscope("predict", models, cell, tmp_path / "sharp.tif", *QUICK)
    assert outcome.code == 0
    assert "channel FITC has no model and is left out" in outcome.err
    names = [known.name for known in cs.read_image(tmp_path / "sharp.tif").channels]
    assert names == ["DAPI", "TxRed"]


def test_a_time_lapse_with_an_empty_frame_is_done_and_told(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    plane = pixels_of(walk.image)
    film = np.stack([plane, np.full_like(plane, 12), plane])
    cs.write_image(cs.Image(film, "tyx", (30.0, 30.0), time_step_s=3.0), tmp_path / "film.tif")
    out = tmp_path / "out" / "sharp.tif"
    outcome = crosscope("predict", walk.model, tmp_path / "film.tif", out, *QUICK)
    assert outcome.code == 0, outcome.err
    assert "1 of 3 planes are empty, all pixels of one grey value: t 1" in outcome.err
    sharp = cs.read_image(out)
    assert (sharp.axes, sharp.time_step_s, len(sharp.pixels)) == ("tyx", 3.0, 3)
    assert np.isfinite(sharp.pixels).all()
    assert np.array_equal(sharp.pixels[0], sharp.pixels[2])
    assert sorted(path.name for path in out.parent.iterdir()) == ["sharp.tif", "sharp.tif.json"]


def test_a_simulated_time_lapse_is_predicted_frame_by_frame(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "sharp"
    asked = ("--frames", "3", "--pairs", "1", "--size-px", "64")
    assert crosscope("simulate", "confocal-sted", raw, *asked).code == 0
    assert np.load(raw / "truth" / "0000_traces.npy").shape[1] == 3
    assert crosscope("predict", walk.model, raw / "source", out, *QUICK).code == 0
    sharp = cs.read_image(out / "0000.tif")
    assert (sharp.axes, sharp.pixels.shape, sharp.time_step_s) == ("tyx", (3, 64, 64), 3.0)


def test_a_folder_is_done_but_for_what_cannot_be(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(walk.raw / "source", source)
    (source / "0001.tif").write_text("this is no image")
    outcome = crosscope("predict", walk.model, source, out, *QUICK, "--json")
    assert outcome.code == 2
    assert sorted(path.name for path in out.iterdir()) == ["0000.tif", "0002.tif"]
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("crosscope: "))
    assert "0001.tif" in line
    entries = outcome.json["outputs"]
    assert json.loads((tmp_path / "out.json").read_text()) == outcome.json
    assert all(set(entry) >= NAMES for entry in entries)
    assert [entry["output"] is None for entry in entries] == [False, True, False]
    resized(walk.image, source / "0003.tif", 2)
    worst = crosscope("predict", walk.model, source, out, *QUICK, "--overwrite")
    assert worst.code == 3
    assert worst.err.count("0001.tif: ") == 1


def test_a_missing_model_of_a_channel_is_named(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    models = f"DAPI={walk.model},FITC=none.zip"
    outcome = crosscope("predict", models, walk.image, tmp_path / "out.tif", *QUICK)
    assert outcome.code == 2
    assert "none.zip: there is no such file" in outcome.err


# --- slides ---------------------------------------------------------------------------------------


def slide_of(image: Path, to: Path, model: Path, crosscope: Crosscope) -> Path:
    """Make an OME-Zarr by predicting one."""
    outcome = crosscope("predict", model, image, to, *QUICK)
    assert outcome.code == 0, outcome.err
    return to


def test_an_ome_zarr_is_predicted_into_one_and_described(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    slide = slide_of(walk.image, tmp_path / "a.ome.zarr", walk.model, crosscope)
    sharp = cs.predict(cs.Model.load(walk.model), cs.read_image(walk.image))
    out = tmp_path / "b.ome.zarr"
    outcome = crosscope("predict", walk.model, slide, f"{out}/", *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    (entry,) = outcome.json["outputs"]
    assert set(entry) >= NAMES
    assert (entry["input"], entry["output"]) == (str(slide), str(out))
    assert len(entry["input_sha256"]) == 64
    assert json.loads((tmp_path / "b.ome.zarr.json").read_text()) == outcome.json
    known = crosscope("info", slide, "--json").json
    assert {
        "kind": "image",
        "axes": "yx",
        "shape": list(sharp.pixels.shape),
        "dtype": "float32",
        "pixel_size_nm": [30, 30],
        "channels": [],
        "assumed": [],
    }.items() <= known.items()
    told = crosscope("info", f"{slide}/").out
    assert "axes: yx" in told
    assert "dtype: float32" in told
    names = ["a.ome.zarr", "a.ome.zarr.json", "b.ome.zarr", "b.ome.zarr.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_channels_of_a_slide_give_a_picture(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    cell = write_stack(walk, tmp_path / "cell.tif")
    models = f"DAPI={walk.model},TxRed={walk.model}"
    out = tmp_path / "sharp.ome.zarr"
    outcome = crosscope("predict", models, cell, out, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    (entry,) = outcome.json["outputs"]
    assert entry["composite"]["file"] == str(tmp_path / "sharp.ome.png")
    assert (tmp_path / "sharp.ome.png").read_bytes().startswith(b"\x89PNG")
    known = crosscope("info", out, "--json").json
    assert [channel["name"] for channel in known["channels"]] == ["DAPI", "TxRed"]
    assert known["axes"] == "cyx"


def test_a_slide_is_replaced_only_when_asked(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    out = slide_of(walk.image, tmp_path / "b.zarr", walk.model, crosscope)
    before = sorted(path.stat().st_ino for path in out.rglob("*"))
    refused = crosscope("predict", walk.model, walk.image, out, *QUICK)
    assert refused.code == 2
    assert "b.zarr: exists already" in refused.err
    assert sorted(path.stat().st_ino for path in out.rglob("*")) == before
    assert crosscope("predict", walk.model, walk.image, out, *QUICK, "--overwrite").code == 0
    assert sorted(path.stat().st_ino for path in out.rglob("*")) != before


@pytest.mark.parametrize(
    ("source", "output", "reason"),
    [
        ("none.zarr", "b.zarr", "none.zarr: does not exist"),
        ("empty.zarr", "b.zarr", "no OME-Zarr image"),
        ("a.zarr", "a.zarr/b.zarr", "which must stay"),
        ("a.zarr", "a.zarr/0/b.tif", "which must stay"),
        ("a.zarr", "a.zarr", "which must stay"),
        ("a.zarr", "link.zarr", "which must stay"),
        ("a.zarr", ".", "which must stay"),
        ("a.zarr", "b.png", "End it in .ome.tif or .ome.zarr"),
        ("whole.tif", "b.zarr", "has int32 pixels, which can't be read part by part"),
        ("text.tif", "b.zarr", "text.tif: "),
    ],
)
def test_slides_that_cannot_be_done_are_told_in_one_line(
    crosscope: Crosscope,
    walk: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    output: str,
    reason: str,
) -> None:
    slide_of(walk.image, tmp_path / "a.zarr", walk.model, crosscope)
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    (tmp_path / "text.tif").write_text("this is no image")
    tifffile.imwrite(tmp_path / "whole.tif", pixels_of(walk.image).astype(np.int32))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    asked = ("predict", walk.model, source, output, *QUICK, "--pixel-size-nm", "30")
    outcome = crosscope(*asked, "--overwrite")
    assert outcome.code == 2, outcome.err
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("crosscope: "))
    assert reason in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_large_tiff_is_done_by_parts_and_described_without_reading_it(
    crosscope: Crosscope, walk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = crosscope("predict", walk.model, walk.image, tmp_path / "whole.tif", *QUICK)
    assert outcome.code == 0, outcome.err
    monkeypatch.setattr("crosscope.data.slides.LARGE_PX", 100)
    monkeypatch.setattr("crosscope.prediction.files.read_image", None)
    monkeypatch.setattr(cs, "read_image", None)
    outcome = crosscope("predict", walk.model, walk.image, tmp_path / "parts.tif", *QUICK)
    assert outcome.code == 0, outcome.err
    assert crosscope("info", tmp_path / "parts.tif", "--json").json["axes"] == "yx"
    monkeypatch.undo()
    whole, parts = (cs.read_image(tmp_path / name) for name in ("whole.tif", "parts.tif"))
    assert np.array_equal(whole.pixels, parts.pixels)
    with tifffile.TiffFile(tmp_path / "parts.tif") as tif:
        assert tif.is_bigtiff


def test_a_cluster_is_asked_for_by_name_or_by_number(
    crosscope: Crosscope, walk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosscope.prediction.cluster.WAIT_S", 0.5)
    asked = ("predict", walk.model, walk.image, tmp_path / "b.zarr", *QUICK)
    gone = crosscope(*asked, "--dask", "tcp://127.0.0.1:1")
    assert gone.code == 2
    assert "tcp://127.0.0.1:1: no Dask scheduler answers there" in gone.err
    both = crosscope(*asked, "--dask", "tcp://127.0.0.1:1", "--workers", "2")
    assert both.code == 2
    assert "has its own workers" in both.err
    assert not list(tmp_path.iterdir())
