"""Part by part as in memory; killed and gone on with; nothing half-written, whatever fails."""

import errno
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models import open_ome_zarr

from crosscope.data import slides
from crosscope.data.errors import DomainError, ImageError, InputError, ModelError, OutputError
from crosscope.data.files import sha256, unfinished_folder
from crosscope.data.images import Channel, Image, read_image, write_image
from crosscope.data.omezarr import make_multiscale
from crosscope.data.slides import Canvas, Slide, open_slide, write_tiff
from crosscope.model.model import Model
from crosscope.prediction import slides as prediction
from crosscope.prediction.composite import draw_composite
from crosscope.prediction.images import PredictionPlan, find_empty, predict, predict_channels
from crosscope.prediction.slides import predict_slide

MakeModel = Callable[..., Model]
PLAN = PredictionPlan(engine="torch", threads=1, precision="float32", tile_px=64)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 32 px, so that small images have levels and parts have several chunks."""
    for module in (slides, prediction):
        monkeypatch.setattr(module, "CHUNK_PX", 32)


def grey(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 300, shape).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, axes: str = "yx", nm: float = 30.0, **more: Any) -> Path:
    write_image(Image(pixels, axes, (nm, nm), **more), path)
    return path


def read(path: Path) -> np.ndarray:
    """Return all of a slide."""
    with open_slide(path) as slide:
        shape = slide.image.pixels.shape
        whole = slice(0, shape[-2]), slice(0, shape[-1])
        planes = [slide.read(place, *whole) for place in np.ndindex(*shape[:-2])]
        return np.stack(planes).reshape(shape)


def hashes(path: Path) -> dict[str, str]:
    """Return the hash of a file, or of each of a folder's."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- as in memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["b.ome.zarr", "b.tif"])
@pytest.mark.parametrize("shape", [(1, 1), (40, 33), (150, 201)])
def test_one_tile_grid_gives_the_same_pixels(
    make_lively: MakeModel, tmp_path: Path, shape: tuple[int, int], output: str
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(*shape))
    made = predict_slide(model, source, tmp_path / output, plan=PLAN)
    expected = predict(model, read_image(source), plan=PLAN)
    assert np.array_equal(read(tmp_path / output), expected.pixels)
    assert made.result.pixels.shape == shape
    assert made.image.sha256 == read_image(source).sha256
    assert names_in(tmp_path) == ["a.tif", output]


@pytest.mark.parametrize("tile_px", [16, 50, 96, 1000])
def test_exact_parts_are_the_whole_to_the_last_bit(
    make_lively: MakeModel, tmp_path: Path, tile_px: int
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(93, 130))
    plan = replace(PLAN, exact=True)
    predict_slide(model, source, tmp_path / "b.zarr", plan=replace(plan, tile_px=tile_px))
    whole = predict(model, read_image(source), plan=replace(plan, tile_px=4096))
    assert np.array_equal(read(tmp_path / "b.zarr"), whole.pixels)


def test_exact_bfloat16_parts_are_the_whole(make_lively: MakeModel, tmp_path: Path) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(93, 130))
    plan = replace(PLAN, precision="bfloat16", exact=True)
    predict_slide(model, source, tmp_path / "b.zarr", plan=plan)
    whole = predict(model, read_image(source), plan=replace(plan, tile_px=4096))
    assert np.array_equal(read(tmp_path / "b.zarr"), whole.pixels)


@pytest.mark.parametrize(
    ("nm", "zoom", "domain"), [(60.0, 2.0, None), (66.0, 2.2, "near"), (54.0, 1.8, "near")]
)
def test_other_grids_are_those_of_the_whole(
    make_lively: MakeModel, tmp_path: Path, nm: float, zoom: float, domain: str | None
) -> None:
    model, source = make_lively(60.0, 30.0), write(tmp_path / "a.tif", grey(71, 64), nm=nm)
    made = predict_slide(model, source, tmp_path / "b.zarr", plan=PLAN)
    expected = predict(model, read_image(source), plan=PLAN)
    assert np.array_equal(read(tmp_path / "b.zarr"), expected.pixels)
    assert made.fit.domain == domain
    assert made.fit.zoom == pytest.approx((zoom, zoom))
    with open_slide(tmp_path / "b.zarr") as slide:
        assert slide.image.pixel_size_nm == pytest.approx(expected.pixel_size_nm)


@pytest.mark.parametrize("output", ["b.ome.zarr", "b.tif"])
def test_planes_of_a_stack_keep_their_places(
    make_lively: MakeModel, tmp_path: Path, output: str
) -> None:
    model, plan = make_lively(), replace(PLAN, channel="b", exact=True)
    channels = (Channel("a", "#ff0000"), Channel("b", "#00ff00"))
    more: dict[str, Any] = {"channels": channels, "z_step_nm": 400.0, "time_step_s": 2.0}
    source = write(tmp_path / "a.tif", grey(2, 2, 3, 70, 50), "tczyx", **more)
    predict_slide(model, source, tmp_path / output, plan=plan)
    expected = predict(model, read_image(source), plan=plan)
    with open_slide(tmp_path / output) as slide:
        assert slide.image.axes == expected.axes == "tzyx"
        assert slide.image.channels == expected.channels == channels[1:]
        assert (slide.image.z_step_nm, slide.image.time_step_s) == (400.0, 2.0)
    assert np.array_equal(read(tmp_path / output), expected.pixels)


@pytest.mark.parametrize("output", ["c.ome.zarr", "c.tif"])
@pytest.mark.parametrize("axes", ["cyx", "tczyx"])
def test_each_channel_is_served_by_its_model(
    make_lively: MakeModel, tmp_path: Path, axes: str, output: str
) -> None:
    models = {"TxRed": make_lively(seed=1), "dapi": make_lively(seed=2)}
    channels = (Channel("DAPI", "#0000ff"), Channel("FITC"), Channel("TxRed"))
    shape = (3, 70, 80) if axes == "cyx" else (2, 3, 2, 70, 80)
    source = write(tmp_path / "a.tif", grey(*shape), axes, channels=channels)
    plan = replace(PLAN, exact=True)
    made = predict_slide(models, source, tmp_path / output, plan=plan)
    expected = predict_channels(models, read_image(source), plan=plan)
    assert np.array_equal(read(tmp_path / output), expected.pixels)
    with open_slide(tmp_path / output) as slide:
        assert slide.image.axes == expected.axes == axes
        assert slide.image.channels == (channels[2], channels[0])
    assert made.composite
    assert made.composite.png == draw_composite(expected).png
    assert "channel FITC has no model" in " ".join(made.fit.reasons)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_becomes_one_of_its_version(
    make_lively: MakeModel, tmp_path: Path, version: str
) -> None:
    model, pixels = make_lively(), grey(100, 120)
    source = tmp_path / "a.ome.zarr"
    image = Image(slides.stand_in(pixels.shape, np.uint16), "yx", (30.0, 30.0))
    source.mkdir()
    canvas = slides.create_canvas(source, image, version=version, tile_px=64, about={})
    for part in slides.list_parts(canvas, 0):
        slides.write_part(canvas, part, pixels[part.y, part.x])
    slides.finish_canvas(canvas, image, version=version)
    made = predict_slide(model, source, tmp_path / "b.ome.zarr", plan=PLAN)
    expected = predict(model, image.with_pixels(pixels), plan=PLAN)
    assert np.array_equal(read(tmp_path / "b.ome.zarr"), expected.pixels)
    assert made.image.sha256 == sha256(source)
    valid = open_ome_zarr(zarr.open_group(tmp_path / "b.ome.zarr", mode="r"))
    assert valid.ome_zarr_version == version


def test_parts_know_the_offset_and_the_pixel_size_of_the_plan(
    make_lively: MakeModel, tmp_path: Path
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(70, 60), nm=500.0)
    plan = replace(PLAN, offset=120.0, pixel_size_nm=33.0)
    predict_slide(model, source, tmp_path / "b.zarr", plan=plan)
    expected = predict(model, read_image(source), plan=plan)
    assert np.array_equal(read(tmp_path / "b.zarr"), expected.pixels)


def test_empty_planes_are_told_as_in_memory(make_lively: MakeModel, tmp_path: Path) -> None:
    pixels = grey(2, 2, 70, 50)
    pixels[1, 0] = 7
    pixels[0, 1] = 100
    pixels[0, 1, 69, 49] = 101  # all but the last of many blocks
    channels = (Channel("a"), Channel("b"))
    source = write(tmp_path / "a.tif", pixels, "tcyx", channels=channels)
    runs: list[tuple[str, Any, str | None]] = [
        ("b.zarr", make_lively(), "a"),
        ("c.zarr", make_lively(), "b"),
        ("d.zarr", {"b": make_lively()}, None),
    ]
    for name, models, chosen in runs:
        plan = replace(PLAN, channel=chosen)
        made = predict_slide(models, source, tmp_path / name, plan=plan)
        image = read_image(source)
        if chosen:
            image = image.with_pixels(pixels[:, "ab".index(chosen)], axes="tyx")
        assert made.remarks == find_empty(image)
        assert bool(made.remarks) == (chosen != "b")
    empty = write(tmp_path / "e.tif", np.full((70, 50), 7, np.uint16))
    made = predict_slide(make_lively(), empty, tmp_path / "f.zarr", plan=PLAN)
    assert made.remarks == ("it is empty: all its pixels are 7",)


# --- by parts -------------------------------------------------------------------------------------


def test_no_more_is_read_at_once_than_a_part_with_its_halo(
    make_lively: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(300, 310))
    most_px = (64 + 2 * model.reach.halo_px) ** 2
    sizes: list[int] = []
    opened = slides._make_slide

    def note(*arguments: Any, **options: Any) -> Slide:
        slide = opened(*arguments, **options)

        def read(place: tuple[int, ...], y: slice, x: slice) -> Any:
            pixels = slide.read(place, y, x)
            sizes.append(pixels.size)
            return pixels

        return replace(slide, read=read)

    monkeypatch.setattr(slides, "_make_slide", note)
    predict_slide(model, source, tmp_path / "b.zarr", plan=PLAN)
    assert len(sizes) > 25
    assert max(sizes) <= most_px < 300 * 310 / 2


def test_no_image_is_held_in_memory(make_lively: MakeModel, tmp_path: Path) -> None:
    channels = (Channel("a"), Channel("b"))
    source = write(tmp_path / "a.tif", grey(2, 70, 80), "cyx", channels=channels)
    models = {"a": make_lively(), "b": make_lively()}
    made = predict_slide(models, source, tmp_path / "b.zarr", plan=PLAN)
    for image in (made.image, made.result):
        assert image.pixels.shape == (2, 70, 80)
        assert image.pixels.strides == (0, 0, 0)  # of one number


def test_progress_never_goes_back(make_lively: MakeModel, tmp_path: Path) -> None:
    told: list[float] = []
    source = write(tmp_path / "a.tif", grey(150, 200))
    predict_slide(make_lively(), source, tmp_path / "b.zarr", plan=PLAN, watch=told.append)
    assert told == sorted(told)
    assert len(told) > 12
    assert (told[0] > 0, told[-1]) == (True, 1)


# --- interrupted ----------------------------------------------------------------------------------


def stop_after(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    """Let a function of the module be called so often, then have the user stop the run."""
    module = home_of(name)
    done = getattr(module, name)
    left = [count]

    def call(*arguments: Any, **options: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return done(*arguments, **options)

    monkeypatch.setattr(module, name, call)


def home_of(name: str) -> ModuleType:
    """Return the module that calls a function on the way to an output."""
    return prediction if hasattr(prediction, name) else slides


@pytest.mark.parametrize(
    ("name", "count", "left"),
    [
        ("write_part", 0, 18),  # 12 parts of 150 x 200 px, 4 of 75 x 100, 1 each of 38 and of 19
        ("write_part", 5, 13),
        ("reduce_part", 1, 5),
        ("reduce_part", 5, 1),
        ("finish_canvas", 0, 0),
        ("take_place", 0, 0),
        ("write_tiff", 0, 0),
    ],
)
def test_a_run_that_was_stopped_goes_on_and_ends_the_same(
    make_lively: MakeModel, tmp_path: Path, name: str, count: int, left: int
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(150, 200))
    suffix = "tif" if name == "write_tiff" else "ome.zarr"
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / "out" / f"b.{suffix}"
    predict_slide(model, source, whole, plan=PLAN)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, name, count)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(model, source, out, plan=PLAN)
    assert names_in(out.parent) == [f".{out.name}.unfinished"]
    assert count_parts(model, source, out, PLAN) == left
    assert hashes(out) == hashes(whole)
    assert names_in(out.parent) == [out.name]


def count_parts(model: Model, source: Path, out: Path, plan: PredictionPlan, **more: Any) -> int:
    """Predict a slide; return how many parts were done."""
    counts: list[int] = []

    def run(job: Any, models: Any, parts: Sequence[Any], watch: Any) -> None:
        counts.append(len(parts))
        prediction.run_here(job, models, parts, watch)

    predict_slide(model, source, out, plan=plan, run=run, **more)
    return sum(counts)


def test_the_engine_of_the_run_that_was_stopped_is_kept(
    make_lively: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(150, 200))
    open_plan = PredictionPlan(tile_px=64)

    def settle(precision: str) -> None:
        settled = replace(open_plan, engine="torch", threads=1, precision=precision)
        monkeypatch.setattr(prediction, "settle", lambda *_: settled)

    settle("bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, "write_part", 5)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(model, source, tmp_path / "b.zarr", plan=open_plan)
    settle("float32")
    assert count_parts(model, source, tmp_path / "b.zarr", open_plan) == 13
    assert count_parts(model, source, tmp_path / "c.zarr", open_plan) == 18
    made = predict_slide(model, source, tmp_path / "d.zarr", plan=open_plan)
    assert made.plan.precision == "float32"


@pytest.mark.parametrize("changed", ["plan", "model", "input", "zarr input", "nothing"])
def test_what_a_run_goes_on_with_is_about_the_same(
    make_lively: MakeModel, tmp_path: Path, changed: str
) -> None:
    model, source, plan = make_lively(), write(tmp_path / "a.tif", grey(150, 200)), PLAN
    if changed == "zarr input":
        scaler = make_lively(seed=5)
        predict_slide(scaler, source, tmp_path / "a.zarr", plan=PLAN)
        source = tmp_path / "a.zarr"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, "write_part", 5)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(model, source, tmp_path / "b.zarr", plan=plan)
    if changed == "plan":
        plan = replace(PLAN, offset=120.0)
    elif changed == "model":
        model = make_lively(seed=3)
    elif changed == "input":
        source.unlink()
        write(source, grey(150, 200, seed=1))
    elif changed == "zarr input":
        array: Any = zarr.open_array(source / "0", mode="r+")
        array[0, 0] = 7
    left = count_parts(model, source, tmp_path / "b.zarr", plan)
    assert left == (13 if changed == "nothing" else 18)
    predict_slide(model, source, tmp_path / "c.zarr", plan=plan)
    assert hashes(tmp_path / "b.zarr") == hashes(tmp_path / "c.zarr")


KILLED = """
import hashlib, os, signal, sys, time
from pathlib import Path
import numpy as np
from crosscope.data import slides
from crosscope.model.model import Model
from crosscope.prediction.images import PredictionPlan
from crosscope.prediction.slides import predict_slide
slides.CHUNK_PX = 32
folder = Path(sys.argv[1])

def run(name):
    "Predict in a process of its own; return its id."
    child = os.fork()
    if child == 0:
        model = Model.load(folder / "model.zip")
        plan = PredictionPlan(engine="torch", threads=1, precision="float32", tile_px=64)
        predict_slide(model, folder / "a.tif", folder / name, plan=plan, overwrite=True)
        os._exit(0)
    return child

for suffix in sys.argv[2:]:
    began = time.monotonic()
    assert os.waitpid(run("whole" + suffix), 0)[1] == 0
    took_s = time.monotonic() - began
    kills = 0
    for share in np.random.default_rng(0).uniform(0.2, 0.9, 5):
        child = run("killed" + suffix)
        time.sleep(took_s * share)
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    assert os.waitpid(run("killed" + suffix), 0)[1] == 0
    print(suffix, kills)
"""


def test_runs_that_are_killed_at_any_moment_end_with_the_same_bytes(
    make_lively: MakeModel, tmp_path: Path
) -> None:
    make_lively().save(tmp_path / "model.zip")
    write(tmp_path / "a.tif", grey(330, 410))
    command = [sys.executable, "-c", KILLED, str(tmp_path), ".ome.zarr", ".tif"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    kills = dict(line.split() for line in told.stdout.splitlines())
    assert min(map(int, kills.values())) >= 1
    for suffix in kills:
        assert hashes(tmp_path / f"killed{suffix}") == hashes(tmp_path / f"whole{suffix}")
    left = {f"{name}{suffix}" for name in ("killed", "whole") for suffix in kills}
    assert set(names_in(tmp_path)) == {"a.tif", "model.zip", *left}


# --- nothing half-written -------------------------------------------------------------------------


def test_two_runs_do_not_write_one_output(make_lively: MakeModel, tmp_path: Path) -> None:
    model, source, out = make_lively(), write(tmp_path / "a.tif", grey(70, 60)), tmp_path / "b.zarr"
    with (
        unfinished_folder(out),
        pytest.raises(OutputError, match=r"b\.zarr: is being worked on by another process"),
    ):
        predict_slide(model, source, out, plan=PLAN)
    predict_slide(model, source, out, plan=PLAN)
    assert names_in(tmp_path) == ["a.tif", "b.zarr"]


@pytest.mark.parametrize("output", ["b.zarr", "b.tif"])
def test_what_is_replaced_stays_until_the_new_is_complete(
    make_lively: MakeModel, tmp_path: Path, output: str
) -> None:
    model, source, out = make_lively(), write(tmp_path / "a.tif", grey(70, 60)), tmp_path / output
    predict_slide(make_lively(seed=4), source, out, plan=PLAN)
    before = hashes(out)
    with pytest.raises(OutputError, match="exists already"):
        predict_slide(model, source, out, plan=PLAN)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, "deliver", 0)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(model, source, out, plan=PLAN, overwrite=True)
    assert hashes(out) == before
    predict_slide(model, source, out, plan=PLAN, overwrite=True)
    assert hashes(out).keys() == before.keys()
    assert hashes(out) != before
    assert names_in(tmp_path) == ["a.tif", output]


@pytest.mark.parametrize("output", ["b.zarr", "b.tif"])
def test_too_small_a_disk_is_told_before_any_work(
    make_lively: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(150, 200))
    needed = int(150 * 200 * 4 * 4 / 3 * (1 if output == "b.zarr" else 2))
    usage = shutil.disk_usage(tmp_path)

    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))

    leave(needed - 10)
    with pytest.raises(OutputError, match=r"needs up to .* GiB, and .* are free"):
        predict_slide(model, source, tmp_path / output, plan=PLAN, run=fail)
    assert names_in(tmp_path) == ["a.tif"]
    leave(needed + 10)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, "write_part", 8)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(model, source, tmp_path / output, plan=PLAN)
    hidden = tmp_path / f".{output}.unfinished"
    held = sum(file.stat().st_size for file in hidden.rglob("*") if file.is_file())
    leave(needed - held - 10)
    with pytest.raises(OutputError, match="are free"):
        predict_slide(model, source, tmp_path / output, plan=PLAN, run=fail)
    leave(needed - held + 10)
    assert count_parts(model, source, tmp_path / output, PLAN) == 10
    assert names_in(tmp_path) == ["a.tif", output]


def fail(*_: Any) -> None:
    raise AssertionError


def test_a_canvas_of_any_size_is_refused_at_once(make_lively: MakeModel, tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    image = Image(slides.stand_in((10**8, 10**8), np.uint8), "yx", (30.0, 30.0))
    arrays = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    arrays.create_array("0", shape=image.pixels.shape, dtype="u1", chunks=(512, 512))
    known = make_multiscale(image, version="0.4", levels=1, shown=[(0.0, 1.0, 0.0, 1.0)])
    arrays.attrs.update(known)
    with pytest.raises(OutputError, match="are free"):
        predict_slide(make_lively(), tmp_path / "a.zarr", tmp_path / "b.zarr", plan=PLAN)
    assert names_in(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize(
    ("name", "output"),
    [("write_part", "b.zarr"), ("reduce_part", "b.zarr"), ("write_tiff", "b.tif")],
)
def test_a_disk_that_fills_up_costs_nothing_that_was_done(
    make_lively: MakeModel, tmp_path: Path, name: str, output: str
) -> None:
    model, source = make_lively(), write(tmp_path / "a.tif", grey(150, 200))
    done, calls = getattr(home_of(name), name), []

    def full(*arguments: Any) -> None:
        calls.append(name)
        if name == "write_tiff":
            arguments[2].write_bytes(b"II+")
        if len(calls) == 4 or name == "write_tiff":
            raise OSError(errno.ENOSPC, "No space left on device")
        done(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home_of(name), name, full)
        with pytest.raises(OutputError, match=r"No space left.*kept in .*b\.\w+\.unfinished"):
            predict_slide(model, source, tmp_path / output, plan=PLAN)
    assert names_in(tmp_path) == [f".{output}.unfinished", "a.tif"]
    left = count_parts(model, source, tmp_path / output, PLAN)
    assert left == {"write_part": 15, "reduce_part": 3, "write_tiff": 0}[name]
    assert names_in(tmp_path) == ["a.tif", output]


def test_a_tiff_that_was_not_written_whole_is_noticed(
    make_lively: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.tif", grey(70, 60))

    def cut(canvas: Canvas, image: Image, path: Path) -> None:
        write_tiff(canvas, image, path)
        path.write_bytes(path.read_bytes()[:-2000])

    monkeypatch.setattr(slides, "write_tiff", cut)
    with pytest.raises(ImageError):
        predict_slide(make_lively(), source, tmp_path / "b.tif", plan=PLAN)
    assert names_in(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_told_with_their_place(
    make_lively: MakeModel, tmp_path: Path, value: float
) -> None:
    pixels = grey(2, 150, 200).astype(np.float32)
    pixels[1, 140, 190] = value
    source = write(tmp_path / "a.tif", pixels, "tyx")
    with pytest.raises(ImageError, match=r"a\.tif: .*NaN or infinite at about t 1 y \d+ x \d+"):
        predict_slide(make_lively(), source, tmp_path / "b.zarr", plan=PLAN)
    assert names_in(tmp_path) == ["a.tif"]


@pytest.mark.parametrize(
    ("nm", "plan", "models", "error"),
    [
        (100.0, None, "", DomainError),
        (30.0, replace(PLAN, channel="c"), "", ImageError),
        (30.0, PLAN, "", ImageError),
        (30.0, PLAN, "ac", ImageError),
        (30.0, replace(PLAN, channel="a"), "ab", InputError),
        (30.0, PLAN, "other grids", ModelError),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    make_lively: MakeModel,
    tmp_path: Path,
    nm: float,
    plan: PredictionPlan | None,
    models: str,
    error: type[Exception],
) -> None:
    channels = (Channel("a"), Channel("b"))
    source = write(tmp_path / "a.tif", grey(2, 70, 60), "cyx", nm=nm, channels=channels)
    plan = plan or replace(PLAN, channel="a")
    named: Any = {name: make_lively() for name in models} or make_lively()
    if models == "other grids":
        named = {"a": make_lively(), "b": make_lively(30.0, 15.0)}
    with pytest.raises(error):
        predict_slide(named, source, tmp_path / "out" / "b.zarr", plan=plan, run=fail)
    assert names_in(tmp_path) == ["a.tif"]
