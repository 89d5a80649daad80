"""What a rolling average keeps, what it damps, and that it is the same however it is made."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscope.data import slides
from crosscope.data.errors import InputError
from crosscope.data.images import Channel, Image, read_image, write_image
from crosscope.model.model import Model
from crosscope.prediction import slides as prediction
from crosscope.prediction.cluster import connect
from crosscope.prediction.files import predict_files
from crosscope.prediction.frames import planes_near, roll
from crosscope.prediction.images import PredictionPlan, predict, predict_channels
from crosscope.prediction.slides import predict_slide

MakeModel = Callable[..., Model]
PLAN = PredictionPlan(engine="torch", threads=1, precision="float32", tile_px=32)
ROLLING = replace(PLAN, rolling_average=0.1, exact=True)


def film(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).integers(100, 300, shape).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, axes: str, **more: Any) -> Path:
    write_image(Image(pixels, axes, (30.0, 30.0), **more), path)
    return path


def read(path: Path) -> np.ndarray:
    with slides.open_slide(path) as slide:
        shape = slide.image.pixels.shape
        whole = slice(0, shape[-2]), slice(0, shape[-1])
        return np.stack([slide.read(at, *whole) for at in np.ndindex(*shape[:-2])]).reshape(shape)


def test_a_flash_is_damped_by_what_its_neighbours_get() -> None:
    frames = np.zeros((5, 1, 1), np.float32)
    frames[2] = 1
    assert roll(frames, 0.1).ravel() == pytest.approx([0, 0.1, 0.8, 0.1, 0])
    ends = roll(frames[2:4], 0.1).ravel()  # the missing neighbour's weight is the frame's own
    assert ends == pytest.approx([0.9, 0.1])
    assert roll(frames[2:3], 0.3).ravel() == pytest.approx([1])
    assert roll(frames, 0.1).dtype == np.float32


def test_what_stays_or_rises_evenly_is_kept() -> None:
    rising = np.linspace(100, 200, 6, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    assert roll(rising, 0.2)[1:-1] == pytest.approx(rising[1:-1])
    still = np.full((4, 2, 2), 123.0, np.float32)
    assert roll(still, 1 / 3) == pytest.approx(still)


@pytest.mark.parametrize("weight", [0.05, 0.1, 1 / 3])
def test_noise_is_left_as_the_formula_says(weight: float) -> None:
    noise = np.random.default_rng(0).normal(size=(50, 64, 64)).astype(np.float32)
    left = (1 - 2 * weight) ** 2 + 2 * weight**2
    assert roll(noise, weight)[1:-1].var() == pytest.approx(left, rel=0.02)


@pytest.mark.parametrize(
    ("place", "axes", "weight", "near"),
    [
        ((2, 1), "tzyx", 0.1, [(1, 1), (2, 1), (3, 1)]),
        ((0, 1), "tzyx", 0.1, [(0, 1), (0, 1), (1, 1)]),
        ((3,), "tyx", 0.1, [(2,), (3,), (3,)]),
        ((2, 1), "tzyx", None, [(2, 1)]),
        ((2, 1), "tzyx", 0.0, [(2, 1)]),
        ((2,), "zyx", 0.1, [(2,)]),
        ((), "yx", 0.1, [()]),
    ],
)
def test_only_frames_are_averaged(
    place: tuple[int, ...], axes: str, weight: float | None, near: list[tuple[int, ...]]
) -> None:
    assert planes_near(place, axes, 4, weight) == near


def test_an_image_and_its_frames_one_by_one(make_lively: MakeModel) -> None:
    model, image = make_lively(), Image(film(4, 2, 40, 50), "tzyx", (30.0, 30.0))
    single = predict(model, image, plan=replace(ROLLING, rolling_average=None)).pixels
    rolled = predict(model, image, plan=ROLLING).pixels
    assert np.array_equal(rolled, roll(single, 0.1))
    assert np.abs(rolled - single).max() > 1
    stack = replace(image, pixels=image.pixels[:, 0], axes="zyx")  # no time-lapse
    plain = replace(ROLLING, rolling_average=None)
    assert np.array_equal(
        predict(model, stack, plan=ROLLING).pixels, predict(model, stack, plan=plain).pixels
    )


@pytest.mark.parametrize("output", ["b.ome.zarr", "b.tif"])
def test_part_by_part_as_in_memory_and_no_frame_twice(
    make_lively: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    for module in (slides, prediction):
        monkeypatch.setattr(module, "CHUNK_PX", 32)
    channels = (Channel("a", "#ff0000"), Channel("b", "#00ff00"))
    source = write(tmp_path / "a.tif", film(4, 2, 70, 50), "tcyx", channels=channels)
    models = {"b": make_lively(), "a": make_lively(seed=1)}
    sharpened: list[int] = []
    sharpen_tile = vars(prediction)["sharpen_tile"]

    def count(*arguments: Any) -> Any:
        sharpened.append(1)
        return sharpen_tile(*arguments)

    monkeypatch.setattr(prediction, "sharpen_tile", count)
    predict_slide(models, source, tmp_path / output, plan=ROLLING)
    expected = predict_channels(models, read_image(source), plan=ROLLING)
    assert np.array_equal(read(tmp_path / output), expected.pixels)
    assert len(sharpened) == 4 * 2 * 3 * 2  # frames, channels, rows and columns of tiles


def test_a_run_that_was_stopped_goes_on_and_workers_do_the_same(
    make_lively: MakeModel, tmp_path: Path
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", film(5, 40, 50), "tyx")
    expected = predict(model, read_image(source), plan=ROLLING).pixels
    write_part, written = vars(prediction)["write_part"], list[int]()

    def stop(*arguments: Any) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(1)
        write_part(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "write_part", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(model, source, tmp_path / "b.zarr", plan=ROLLING)
    predict_slide(model, source, tmp_path / "b.zarr", plan=ROLLING)
    assert np.array_equal(read(tmp_path / "b.zarr"), expected)
    with connect(workers=2) as cluster:
        predict_slide(model, source, tmp_path / "c.zarr", plan=ROLLING, run=cluster.run)
    assert np.array_equal(read(tmp_path / "c.zarr"), expected)


def test_the_sidecar_says_it_and_that_a_stack_has_no_frames(
    make_scaler: MakeModel, tmp_path: Path
) -> None:
    lapse = write(tmp_path / "a.tif", film(3, 20, 20), "tyx")
    stack = write(tmp_path / "b.tif", film(3, 20, 20), "zyx")
    model = make_scaler(source_nm=30.0)
    told = {}
    for source in (lapse, stack):
        out = tmp_path / f"{source.stem}.out.tif"
        (entry,) = predict_files(model, source, out, plan=ROLLING).outputs
        assert entry["plan"]["rolling_average"] == 0.1
        told[source.stem] = " ".join(entry["reasons"])
    assert "rolling" not in told["a"]
    assert "it is no time-lapse (axes zyx), so that --rolling-average 0.1 changes" in told["b"]
    (entry,) = predict_files(model, lapse, tmp_path / "c.tif", plan=PLAN).outputs
    assert "rolling_average" not in entry["plan"]


@pytest.mark.parametrize("weight", [-0.1, 0.34, float("nan"), float("inf")])
def test_other_weights_are_refused(weight: float) -> None:
    with pytest.raises(InputError, match="rolling_average must be between 0 and 1/3"):
        PredictionPlan(rolling_average=weight)
