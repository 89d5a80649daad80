"""What a calibration says, what is sure, and bounds in files: beside an output and by parts."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosscope.data.errors import InputError, ModelError, OutputError
from crosscope.data.images import Channel, Image, read_image, write_image
from crosscope.data.sampling import Scaling
from crosscope.data.slides import open_slide
from crosscope.model.heads import build_heads
from crosscope.model.model import Model
from crosscope.prediction.bounds import (
    NOTHING,
    STRUCTURE,
    UNCERTAIN,
    Calibration,
    Interval,
    lower_bound,
    mark_sure,
    predict_interval,
)
from crosscope.prediction.cluster import Cluster, connect
from crosscope.prediction.files import predict_files
from crosscope.prediction.images import PredictionPlan

MakeModel = Callable[..., Model]
PLAN = PredictionPlan(threads=1, tile_px=32)
GOOD = Calibration(1.2, 0.1, 0.1, 100)
BOUNDS = ("low", "high", "sure")


@pytest.fixture(scope="module")
def make_bounded(make_lively: MakeModel) -> MakeModel:
    """Return a function: seed -> a lively model with heads of random weights, and a calibration."""

    def make(seed: int = 0) -> Model:
        torch.manual_seed(seed)
        model = make_lively(seed=seed)
        heads = build_heads(model.network, model.base).eval()
        return replace(model, heads=heads, certificate={"intervals": GOOD.to_json()})

    return make


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connect(workers=1) as started:
        yield started


def grey(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 300, shape).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, axes: str = "yx", **more: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_image(Image(pixels, axes, (30.0, 30.0), **more), path)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pixels_of(path: Path | str) -> np.ndarray:
    return read_image(Path(path)).pixels


# --- values ---------------------------------------------------------------------------------------


def test_the_mask_follows_its_rules(make_scaler: MakeModel) -> None:
    model = make_scaler()
    b, h = model.target_scaling.offset, model.target_scaling.scale
    low = np.array([[b - 0.1 * h, b - 0.1 * h, b + 0.2 * h, b + 0.2 * h]], np.float32)
    high = np.array([[b + 0.1 * h, b + 0.5 * h, b + 0.4 * h, b + 1.2 * h]], np.float32)
    images = (Image(pixels, "yx", (30.0, 30.0)) for pixels in (low, high))
    mask = mark_sure(model, Interval(*images))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[NOTHING, UNCERTAIN, STRUCTURE, STRUCTURE]]


def test_a_calibration_survives_json_and_damage_is_noticed() -> None:
    for found in (GOOD, Calibration(None, 0.1, 0.1, 3, "too few")):
        value = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert Calibration.from_json(value) == found
    good = GOOD.to_json()
    for damage in (
        {"lambda_": float("nan")},
        {"lambda_": -1.0},
        {"lambda_": None},
        {"alpha": 0.0},
        {"delta": 2.0},
        {"fields": 21},
        {"fields": 30.5},
        {"reason": "none"},
    ):
        with pytest.raises((ValueError, TypeError), match=r"number|interval"):
            Calibration.from_json(good | damage)


# --- files ----------------------------------------------------------------------------------------


def test_bounds_lie_beside_the_output_and_enclose_it(
    make_bounded: MakeModel, tmp_path: Path
) -> None:
    model, out = make_bounded(), tmp_path / "out" / "b.ome.tif"
    source = write(tmp_path / "a.tif", grey(40, 50))
    told: list[float] = []
    (entry,) = predict_files(
        model, source, out, plan=PLAN, intervals=True, watch=told.append
    ).outputs
    assert names_in(out.parent) == sorted(
        ["b.ome.tif", "b.ome.tif.json", *(f"b.{name}.ome.tif" for name in BOUNDS)]
    )
    said = entry["intervals"]
    assert said == {
        **{name: str(out.parent / f"b.{name}.ome.tif") for name in BOUNDS},
        "lambda": 1.2,
        "alpha": 0.1,
        "delta": 0.1,
        "fields": 100,
    }
    (written,) = json.loads((out.parent / "b.ome.tif.json").read_text())["outputs"]
    assert written["intervals"] == said
    low, high, sure = (read_image(Path(said[name])) for name in BOUNDS)
    output = pixels_of(out)
    assert low.pixels.dtype == high.pixels.dtype == np.float32
    assert low.pixel_size_nm == sure.pixel_size_nm == (30, 30)
    assert bool(((low.pixels < output) & (output < high.pixels)).all())
    found = predict_interval(model, read_image(source), plan=PLAN)
    assert np.array_equal(found.low.pixels, low.pixels)
    assert np.array_equal(found.high.pixels, high.pixels)
    assert sure.pixels.dtype == np.uint8
    assert np.array_equal(sure.pixels, mark_sure(model, found))
    assert (entry["plan"]["engine"], entry["plan"]["precision"]) == ("torch", "float32")
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_folder_has_bounds_in_folders(make_bounded: MakeModel, tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "in" / f"{name}.tif", grey(40, 50))
    (tmp_path / "in" / "c.tif").write_text("this is no image")
    out = tmp_path / "out"
    found = predict_files(make_bounded(), tmp_path / "in", out, plan=PLAN, intervals=True)
    assert [failure.path.name for failure in found.failures] == ["c.tif"]
    folders = ("", "high/", "low/", "sure/")
    assert names_in(out) == sorted(f"{folder}{name}.tif" for folder in folders for name in "ab")
    assert found.outputs[1]["intervals"]["sure"] == str(out / "sure" / "b.tif")
    predict_files(make_bounded(), tmp_path / "in", out, plan=PLAN, overwrite=True)
    assert names_in(out) == ["a.tif", "b.tif"]


def test_bounds_go_with_the_output_that_they_were_of(
    make_bounded: MakeModel, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "in" / "a.tif", grey(40, 50)), tmp_path / "out"
    predict_files(make_bounded(), source, out / "b.ome.zarr", plan=PLAN, intervals=True)
    (out / "b.low.tif").write_text("mine")
    predict_files(make_bounded(), source, out / "b.ome.zarr", plan=PLAN, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "b.low.tif",
        "b.ome.zarr",
        "b.ome.zarr.json",
    ]


@pytest.mark.parametrize("spread", [False, True])
def test_parts_give_the_same_bounds(
    make_bounded: MakeModel, tmp_path: Path, cluster: Cluster, spread: bool
) -> None:
    model, plan = make_bounded(), replace(PLAN, exact=True, tile_px=48)
    source = write(tmp_path / "a.tif", grey(70, 90))
    kept = predict_files(model, source, tmp_path / "whole.tif", plan=plan, intervals=True)
    parts = predict_files(
        model,
        source,
        tmp_path / "parts.ome.zarr",
        plan=plan,
        intervals=True,
        cluster=cluster if spread else None,
    )
    (whole,), (made,) = kept.outputs, parts.outputs
    assert made["intervals"]["low"] == str(tmp_path / "parts.low.ome.zarr")
    for name in BOUNDS:
        with open_slide(Path(made["intervals"][name])) as slide:
            pixels = slide.read((), slice(0, 70), slice(0, 90))
        assert np.array_equal(pixels, pixels_of(whole["intervals"][name])), name
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not hidden


def test_a_folder_is_spread_over_workers(
    make_bounded: MakeModel, tmp_path: Path, cluster: Cluster
) -> None:
    for name in "ab":
        write(tmp_path / "in" / f"{name}.tif", grey(40, 50))
    for out, spread in (("alone", None), ("spread", cluster)):
        predict_files(
            make_bounded(),
            tmp_path / "in",
            tmp_path / out,
            plan=PLAN,
            intervals=True,
            cluster=spread,
        )
    assert names_in(tmp_path / "alone") == names_in(tmp_path / "spread")
    for name in names_in(tmp_path / "alone"):
        assert np.array_equal(
            pixels_of(tmp_path / "alone" / name), pixels_of(tmp_path / "spread" / name)
        )


@pytest.mark.parametrize("suffix", ["tif", "ome.zarr"])
def test_every_channel_has_bounds_by_its_own_model(
    make_bounded: MakeModel, tmp_path: Path, suffix: str
) -> None:
    other = replace(
        make_bounded(1),
        target_scaling=Scaling(0.0, 2000.0),
        certificate={"intervals": replace(GOOD, lambda_=3.0).to_json()},
    )
    models = {"a": make_bounded(), "b": other}
    channels = (Channel("a"), Channel("b"))
    source = write(tmp_path / "a.tif", grey(2, 2, 40, 50), "tcyx", channels=channels)
    out = tmp_path / f"b.{suffix}"
    (entry,) = predict_files(models, source, out, plan=PLAN, intervals=True).outputs
    said = entry["intervals"]
    assert said["lambda"] == {"a": 1.2, "b": 3.0}
    assert said["fields"] == {"a": 100, "b": 100}
    slides = {name: open_slide(Path(said[name])) for name in BOUNDS}
    for place in np.ndindex(2, 2):
        low, high, sure = (slides[name].read(place, slice(0, 40), slice(0, 50)) for name in BOUNDS)
        interval = Interval(*(Image(pixels, "yx", (30.0, 30.0)) for pixels in (low, high)))
        assert np.array_equal(sure, mark_sure(models["ab"[place[1]]], interval))
    for slide in slides.values():
        slide.close()
    with open_slide(out) as made, open_slide(Path(said["low"])) as low_slide:
        assert made.image.axes == low_slide.image.axes == "tcyx"
        assert [known.name for known in low_slide.image.channels] == ["a", "b"]


def test_what_cannot_have_intervals_is_told_before_anything_is_predicted(
    make_bounded: MakeModel, make_lively: MakeModel, tmp_path: Path
) -> None:
    good, source = make_bounded(), write(tmp_path / "a.tif", grey(40, 50))
    few = Calibration(None, 0.1, 0.1, 3, "3 calibration fields are too few").to_json()
    damaged = {**GOOD.to_json(), "lambda_": -1.0}
    for models, plan, error, reason in (
        (make_lively(), PLAN, ModelError, r"no intervals.*crosscope calibrate"),
        (replace(good, certificate={"intervals": few}), PLAN, ModelError, "too few"),
        (replace(good, certificate={"intervals": damaged}), PLAN, ModelError, "damaged"),
        (replace(good, certificate={"intervals": [1]}), PLAN, ModelError, "damaged"),
        (replace(good, heads=None), PLAN, ModelError, "lost the heads"),
        ({"a": good, "b": make_lively()}, PLAN, ModelError, "^b: has no intervals"),
        (good, replace(PLAN, fidelity=0.5), InputError, r"fidelity is 0\.5.*Leave --fidelity"),
        (good, replace(PLAN, rolling_average=0.1), InputError, r"rolling-average is 0\.1.*Leave"),
        (good, replace(PLAN, engine="openvino"), InputError, "engine torch, and openvino"),
        (good, replace(PLAN, precision="bfloat16"), InputError, "float32, and bfloat16"),
    ):
        with pytest.raises(error, match=reason):
            predict_files(models, source, tmp_path / "b.tif", plan=plan, intervals=True)
        assert names_in(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("taken", BOUNDS)
def test_existing_bounds_are_kept(make_bounded: MakeModel, tmp_path: Path, taken: str) -> None:
    source = write(tmp_path / "a.tif", grey(40, 50))
    (tmp_path / f"b.{taken}.tif").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        predict_files(make_bounded(), source, tmp_path / "b.tif", plan=PLAN, intervals=True)
    assert names_in(tmp_path) == ["a.tif", f"b.{taken}.tif"]
    predict_files(
        make_bounded(), source, tmp_path / "b.tif", plan=PLAN, intervals=True, overwrite=True
    )
    assert len(names_in(tmp_path)) == 6


def test_it_is_said_where_intervals_may_not_hold(make_bounded: MakeModel, tmp_path: Path) -> None:
    source = tmp_path / "a.tif"
    write_image(Image(grey(40, 50), "yx", (34.0, 34.0)), source)
    (entry,) = predict_files(
        make_bounded(), source, tmp_path / "b.tif", plan=PLAN, intervals=True
    ).outputs
    assert entry["domain"] == "near"
    assert "its intervals may not hold: they were calibrated on other images" in entry["reasons"]


def test_a_bound_is_no_model_of_a_file(make_bounded: MakeModel) -> None:
    assert lower_bound(replace(make_bounded(), sha256="ab")).sha256 is None
