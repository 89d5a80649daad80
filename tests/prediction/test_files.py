"""Files in, files out: whole or absent, with a sidecar beside them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from crosscope.data.errors import ImageError, OutputError
from crosscope.data.images import Channel, Image, read_image, write_image
from crosscope.data.slides import open_slide
from crosscope.model.model import Model
from crosscope.prediction.files import predict_files
from crosscope.prediction.images import PredictionPlan, settle

MakeScaler = Callable[..., Model]
PLAN = PredictionPlan(engine="torch", threads=1, precision="float32")


def write(path: Path, nm: float = 60.0) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_image(Image(np.full((16, 16), 120, np.uint16), "yx", (nm, nm)), path)
    return path


def test_a_file_becomes_a_file_and_a_sidecar(make_scaler: MakeScaler, tmp_path: Path) -> None:
    source = write(tmp_path / "in" / "a.tif")
    predicted = predict_files(make_scaler(), source, tmp_path / "out" / "b.tif", plan=PLAN)
    assert not predicted.failures
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.tif", "b.tif.json"]
    sidecar = json.loads((tmp_path / "out" / "b.tif.json").read_text())
    assert sidecar["outputs"][0]["output"] == str(tmp_path / "out" / "b.tif")
    assert read_image(tmp_path / "out" / "b.tif").pixels == pytest.approx(90)


def test_a_folder_keeps_its_names(make_scaler: MakeScaler, tmp_path: Path) -> None:
    for name in ("a.tif", "b.ome.tif", "c.TIFF"):
        write(tmp_path / "in" / name)
    told: list[float] = []
    out = tmp_path / "out"
    predict_files(make_scaler(), tmp_path / "in", out, plan=PLAN, watch=told.append)
    assert sorted(path.name for path in out.iterdir()) == ["a.tif", "b.ome.tif", "c.tif"]
    assert told == sorted(told)
    assert told[-1] == 1


def test_the_engine_is_chosen_once_for_a_folder(
    make_scaler: MakeScaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def note(
        plan: PredictionPlan, model: Model, image: Image, say: Callable[[str], None]
    ) -> PredictionPlan:
        asked.append(plan.threads)
        return settle(replace(plan, threads=plan.threads or 1), model, image, say)

    monkeypatch.setattr("crosscope.prediction.files.settle", note)
    for name in ("a.tif", "b.tif"):
        write(tmp_path / "in" / name)
    plan = PredictionPlan(precision="float32", engine="torch")
    predicted = predict_files(make_scaler(), tmp_path / "in", tmp_path / "out", plan=plan)
    assert asked == [None, 1]
    assert [entry["plan"]["threads"] for entry in predicted.outputs] == [1, 1]


def test_two_images_of_one_name_are_refused(make_scaler: MakeScaler, tmp_path: Path) -> None:
    for name in ("a.tif", "a.tiff"):
        write(tmp_path / "in" / name)
    with pytest.raises(ImageError, match="one name"):
        predict_files(make_scaler(), tmp_path / "in", tmp_path / "out", plan=PLAN)


def test_a_failure_leaves_neither_image_nor_sidecar(
    make_scaler: MakeScaler, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.tif", nm=200.0)
    with pytest.raises(Exception, match="--force"):
        predict_files(make_scaler(), source, tmp_path / "b.tif", plan=PLAN)
    assert list(tmp_path.iterdir()) == [source]


def test_an_existing_sidecar_is_kept(make_scaler: MakeScaler, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif")
    (tmp_path / "b.tif.json").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        predict_files(make_scaler(), source, tmp_path / "b.tif", plan=PLAN)
    assert not (tmp_path / "b.tif").exists()
    predict_files(make_scaler(), source, tmp_path / "b.tif", plan=PLAN, overwrite=True)
    assert (tmp_path / "b.tif.json").read_text() != "mine"


def test_a_link_to_the_input_is_the_input(make_scaler: MakeScaler, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif")
    (tmp_path / "link.tif").symlink_to(source)
    with pytest.raises(OutputError, match="which must stay"):
        predict_files(make_scaler(), source, tmp_path / "link.tif", plan=PLAN, overwrite=True)


def write_channels(path: Path, names: str = "ab") -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(100, 300, (len(names), 16, 16)).astype(np.uint16)
    image = Image(pixels, "cyx", (60.0, 60.0), channels=tuple(map(Channel, names)))
    write_image(image, path)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_models_of_channels_give_a_composite(make_scaler: MakeScaler, tmp_path: Path) -> None:
    source, out = write_channels(tmp_path / "in" / "a.tif"), tmp_path / "out" / "b.ome.tif"
    models = {"a": make_scaler(), "b": make_scaler()}
    (entry,) = predict_files(models, source, out, plan=PLAN).outputs
    assert names_in(out.parent) == ["b.ome.png", "b.ome.tif", "b.ome.tif.json"]
    assert (out.parent / "b.ome.png").read_bytes().startswith(b"\x89PNG")
    assert entry["composite"]["file"] == str(out.parent / "b.ome.png")
    shown = json.loads((out.parent / "b.ome.tif.json").read_text())["outputs"][0]["composite"]
    assert [(known["name"], known["colour"]) for known in shown["channels"]] == [
        ("a", "#ff00ff"),
        ("b", "#00ff00"),
    ]
    for known, plane in zip(shown["channels"], read_image(out).pixels, strict=True):
        limits = np.percentile(plane, shown["percentiles"])
        assert [known["low"], known["high"]] == pytest.approx(limits.tolist(), rel=1e-5)


def test_a_folder_gets_a_composite_an_image(make_scaler: MakeScaler, tmp_path: Path) -> None:
    write_channels(tmp_path / "in" / "a.tif")
    write_channels(tmp_path / "in" / "b.ome.tif")
    write_channels(tmp_path / "in" / "c.tif", "ac")
    models = {"a": make_scaler(), "b": make_scaler()}
    predicted = predict_files(models, tmp_path / "in", tmp_path / "out", plan=PLAN)
    assert [failure.path.name for failure in predicted.failures] == ["c.tif"]
    assert names_in(tmp_path / "out") == ["a.png", "a.tif", "b.ome.png", "b.ome.tif"]


def test_an_existing_picture_is_kept(make_scaler: MakeScaler, tmp_path: Path) -> None:
    source = write_channels(tmp_path / "a.tif")
    (tmp_path / "b.png").write_text("mine")
    models = {"a": make_scaler(), "b": make_scaler()}
    with pytest.raises(OutputError, match=r"b\.png: exists already"):
        predict_files(models, source, tmp_path / "b.tif", plan=PLAN)
    assert names_in(tmp_path) == ["a.tif", "b.png"]
    assert (tmp_path / "b.png").read_text() == "mine"
    predict_files(make_scaler(), write(tmp_path / "c.tif"), tmp_path / "b.tif", plan=PLAN)
    assert (tmp_path / "b.png").read_text() == "mine"  # one model draws none
    predict_files(models, source, tmp_path / "b.tif", plan=PLAN, overwrite=True)
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_overwritten_loses_its_picture(make_scaler: MakeScaler, tmp_path: Path) -> None:
    source, out = write_channels(tmp_path / "in" / "a.tif"), tmp_path / "out"
    models = {"a": make_scaler(), "b": make_scaler()}
    predict_files(models, source, out / "b.tif", plan=PLAN)
    plain = write(tmp_path / "in" / "c.tif")
    predict_files(make_scaler(), plain, out / "b.tif", plan=PLAN, overwrite=True)
    assert names_in(out) == ["b.tif", "b.tif.json"]


def test_a_failed_image_of_a_folder_loses_its_picture(
    make_scaler: MakeScaler, tmp_path: Path
) -> None:
    write_channels(tmp_path / "in" / "a.tif")
    write_channels(tmp_path / "in" / "b.tif")
    models, out = {"a": make_scaler(), "b": make_scaler()}, tmp_path / "out"
    predict_files(models, tmp_path / "in", out, plan=PLAN)
    (tmp_path / "in" / "b.tif").unlink()
    write_channels(tmp_path / "in" / "b.tif", "ac")
    predict_files(models, tmp_path / "in", out, plan=PLAN, overwrite=True)
    assert names_in(out) == ["a.png", "a.tif", "b.tif"]  # the sidecar no longer knows b.png


def test_a_picture_never_lies_by_another_output(
    make_scaler: MakeScaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_channels(tmp_path / "in" / "a.tif"), tmp_path / "out" / "b.tif"
    models = {"a": make_scaler(), "b": make_scaler()}
    predict_files(models, source, out, plan=PLAN)

    full = OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", Mock(side_effect=full))
    with pytest.raises(OutputError, match="No space left"):
        predict_files(models, source, out, plan=PLAN, overwrite=True)
    assert names_in(out.parent) == ["b.tif"]  # the sidecar was of the earlier one, too


def test_a_stale_picture_that_cannot_be_removed_is_named(
    make_scaler: MakeScaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"a": make_scaler(), "b": make_scaler()}
    predict_files(models, write_channels(tmp_path / "in" / "a.tif"), tmp_path / "b.tif", plan=PLAN)
    plain, unlink = write(tmp_path / "in" / "c.tif"), Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".png":
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match=r"b\.png: is out of date"):
        predict_files(make_scaler(), plain, tmp_path / "b.tif", plan=PLAN, overwrite=True)


@pytest.mark.parametrize("sidecar", ["mine", "[]", '{"outputs": [{"output": 3}]}'])
def test_what_no_sidecar_tells_stays(make_scaler: MakeScaler, tmp_path: Path, sidecar: str) -> None:
    (tmp_path / "b.png").write_text("mine")
    (tmp_path / "b.tif.json").write_text(sidecar)
    source = write(tmp_path / "in" / "a.tif")
    predict_files(make_scaler(), source, tmp_path / "b.tif", plan=PLAN, overwrite=True)
    assert (tmp_path / "b.png").read_text() == "mine"


def test_an_input_is_no_stale_picture(make_scaler: MakeScaler, tmp_path: Path) -> None:
    models = {"a": make_scaler(), "b": make_scaler()}
    predict_files(models, write_channels(tmp_path / "in" / "a.tif"), tmp_path / "b.tif", plan=PLAN)
    plain = write(tmp_path / "in" / "c.tif").replace(tmp_path / "b.png")
    predict_files(make_scaler(), plain, tmp_path / "b.tif", plan=PLAN, overwrite=True)
    assert plain.exists()


def test_a_composite_is_whole_or_absent(
    make_scaler: MakeScaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_channels(tmp_path / "a.tif")
    written = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        written(path, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    models = {"a": make_scaler(), "b": make_scaler()}
    with pytest.raises(OutputError, match="No space left"):
        predict_files(models, source, tmp_path / "b.tif", plan=PLAN)
    assert names_in(tmp_path) == ["a.tif", "b.tif"]
    assert read_image(tmp_path / "b.tif").axes == "cyx"


def test_an_empty_frame_is_told_in_the_sidecar(make_scaler: MakeScaler, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(100, 300, (3, 16, 16)).astype(np.uint16)
    frames[1] = 100
    write_image(Image(frames, "tyx", (60.0, 60.0), time_step_s=3.0), tmp_path / "a.tif")
    (entry,) = predict_files(
        make_scaler(), tmp_path / "a.tif", tmp_path / "b.tif", plan=PLAN
    ).outputs
    assert "1 of 3 planes are empty" in entry["reasons"][0]
    sharp = read_image(tmp_path / "b.tif")
    assert (sharp.axes, sharp.time_step_s) == ("tyx", 3.0)
    assert np.isfinite(sharp.pixels).all()
    assert sharp.pixels[1] == pytest.approx(50, abs=0.02)


def test_of_several_models_the_worst_fit_is_told(make_scaler: MakeScaler, tmp_path: Path) -> None:
    pixels = np.full((2, 16, 16), 120, np.uint16)
    image = Image(pixels, "cyx", (60.0, 60.0), channels=(Channel("a"), Channel("b")))
    write_image(image, tmp_path / "a.tif")
    models = {"a": make_scaler(), "b": make_scaler(source_nm=66.0)}
    predicted = predict_files(models, tmp_path / "a.tif", tmp_path / "b.tif", plan=PLAN)
    assert predicted.outputs[0]["domain"] == "near"


def test_fidelity_is_in_the_sidecar_and_a_model_without_twin_is_told(
    make_scaler: MakeScaler, tmp_path: Path
) -> None:
    source = write(tmp_path / "in" / "a.tif")
    plan = replace(PLAN, fidelity=0.4)
    found = predict_files(make_scaler(), source, tmp_path / "b.tif", plan=plan).outputs[0]
    assert found["plan"]["fidelity"] == 0.4
    assert "the model has no twin, so that --fidelity 0.4 changes nothing" in found["reasons"]
    plain = predict_files(make_scaler(), source, tmp_path / "c.tif", plan=PLAN).outputs[0]
    assert "twin" not in " ".join(plain["reasons"])


def test_a_slide_and_an_image_are_turned_by_the_same_dial(
    make_lively: Callable[..., Model], tmp_path: Path
) -> None:
    model = replace(make_lively(), twin=make_lively(seed=1).generator)
    rng = np.random.default_rng(3)
    image = Image(rng.uniform(100, 300, (64, 96)).astype(np.float32), "yx", (30.0, 30.0))
    write_image(image, tmp_path / "a.tif")
    made = {}
    for name, fidelity in (("a", 0.0), ("b", 0.5)):
        plan = replace(PLAN, fidelity=fidelity)
        for suffix in ("tif", "zarr"):
            out = tmp_path / f"{name}.out.{suffix}"
            predict_files(model, tmp_path / "a.tif", out, plan=plan)
            with open_slide(out) as slide:
                made[name, suffix] = slide.read((), slice(0, 64), slice(0, 96))
    assert np.abs(made["a", "tif"] - made["b", "tif"]).max() > 1
    for name in "ab":
        assert np.allclose(made[name, "tif"], made[name, "zarr"], atol=1e-2)
