"""Workers give the same bytes as one process, though some of them die."""

import importlib
import json
import math
import operator
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscope.data import slides
from crosscope.data.errors import DomainError, ImageError, InputError
from crosscope.data.images import Channel, Image, read_image, write_image
from crosscope.model.model import Model
from crosscope.prediction import cluster as module
from crosscope.prediction.cluster import Cluster, connect
from crosscope.prediction.files import predict_files
from crosscope.prediction.images import PredictionPlan
from crosscope.prediction.slides import predict_slide

MakeModel = Callable[..., Model]
PLAN = PredictionPlan(engine="torch", threads=1, precision="float32", tile_px=32)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connect(workers=2) as started:
        yield started


def grey(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 300, shape).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, axes: str = "yx", **more: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_image(Image(pixels, axes, (30.0, 30.0), **more), path)
    return path


def bytes_of(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def entries_of(sidecar: Path) -> Any:
    """Return what a sidecar says but for the time that it took."""
    entries = json.loads(sidecar.read_text())["outputs"]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


@pytest.mark.parametrize("output", ["ome.zarr", "tif"])
def test_workers_give_the_same_bytes_as_one_process(
    make_lively: MakeModel,
    tmp_path: Path,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
) -> None:
    monkeypatch.setattr(slides, "CHUNK_PX", 32)  # of the layout, which workers read
    models = {"a": make_lively(), "b": make_lively(seed=1)}
    channels = (Channel("a"), Channel("b"))
    source = write(tmp_path / "a.tif", grey(2, 70, 90), "cyx", channels=channels)
    told: list[float] = []
    made = predict_slide(models, source, tmp_path / f"one.{output}", plan=PLAN)
    spread = predict_slide(
        models,
        source,
        tmp_path / f"many.{output}",
        plan=PLAN,
        run=cluster.run,
        watch=told.append,
    )
    assert bytes_of(tmp_path / f"one.{output}") == bytes_of(tmp_path / f"many.{output}")
    assert made.composite == spread.composite
    assert told == sorted(told)
    assert len(told) > 20
    assert len(names_in(tmp_path)) == 3


def test_a_worker_that_dies_costs_its_part_only(
    make_lively: MakeModel, tmp_path: Path, cluster: Cluster
) -> None:
    source = write(tmp_path / "a.tif", grey(160, 150))
    killed: list[int] = []

    def watch(done: float) -> None:
        if done > 0.2 and not killed:
            killed.append(next(iter(cluster.client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    predict_slide(make_lively(), source, tmp_path / "one.zarr", plan=PLAN)
    predict_slide(
        make_lively(), source, tmp_path / "many.zarr", plan=PLAN, run=cluster.run, watch=watch
    )
    assert bytes_of(tmp_path / "one.zarr") == bytes_of(tmp_path / "many.zarr")
    cluster.client.wait_for_workers(2, timeout=60)
    assert killed[0] not in cluster.client.run(os.getpid).values()
    assert names_in(tmp_path) == ["a.tif", "many.zarr", "one.zarr"]


def test_an_error_in_a_part_is_ours_and_nobody_writes_after_it(
    make_lively: MakeModel, tmp_path: Path, cluster: Cluster
) -> None:
    pixels = grey(200, 180).astype(np.float32)
    pixels[10, 40] = np.nan
    source = write(tmp_path / "a.tif", pixels)
    with pytest.raises(ImageError, match=r"a\.tif: .*NaN or infinite"):
        predict_slide(make_lively(), source, tmp_path / "b.zarr", plan=PLAN, run=cluster.run)
    assert not any(cluster.client.processing().values())
    assert names_in(tmp_path) == ["a.tif"]


def test_a_folder_is_spread_and_told_as_without(
    make_lively: MakeModel, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        write(tmp_path / "in" / f"{n}.tif", grey(40, 50 + n))
    write(tmp_path / "in" / "5.tif", np.full((40, 50), np.nan, np.float32))
    (tmp_path / "in" / "6.tif").write_text("this is no image")
    write_image(Image(grey(40, 50), "yx", (90.0, 90.0)), tmp_path / "in" / "7.tif")
    monkeypatch.chdir(tmp_path)
    alone = predict_files(make_lively(), tmp_path / "in", tmp_path / "out", plan=PLAN)
    names, sidecar = names_in(tmp_path / "out"), entries_of(tmp_path / "out.json")
    assert names == ["0.tif", "1.tif", "2.tif", "3.tif"]
    pixels = [read_image(tmp_path / "out" / name).pixels for name in names]
    spread = predict_files(  # named from a folder that the workers are not in
        make_lively(), Path("in"), Path("out"), plan=PLAN, overwrite=True, cluster=cluster
    )
    assert names_in(tmp_path / "out") == names
    for name, known in zip(names, pixels, strict=True):
        assert np.array_equal(read_image(tmp_path / "out" / name).pixels, known)
    assert entries_of(tmp_path / "out.json") == sidecar
    failed = [(failure.path, str(failure.error)) for failure in alone.failures]
    assert [(failure.path, str(failure.error)) for failure in spread.failures] == failed
    kinds = [type(failure.error) for failure in spread.failures]
    assert kinds == [ImageError, ImageError, DomainError]


def test_the_engine_is_measured_before_files_are_spread(
    make_lively: MakeModel, tmp_path: Path, cluster: Cluster
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tif").write_text("this is no image")
    for n in range(1, 4):
        write(tmp_path / "in" / f"{n}.tif", grey(40, 50 + n))
    plan = PredictionPlan(tile_px=32)
    found = predict_files(
        make_lively(), tmp_path / "in", tmp_path / "out", plan=plan, cluster=cluster
    )
    plans = [entry["plan"] for entry in found.outputs if entry["output"]]
    assert len(plans) == 3
    assert all(each == plans[0] for each in plans)
    assert plans[0]["threads"] == 1


def test_frames_of_a_time_lapse_are_spread(
    make_lively: MakeModel, tmp_path: Path, cluster: Cluster
) -> None:
    film = grey(5, 40, 50)
    film[3] = 7
    source = write(tmp_path / "a.tif", film, "tyx", time_step_s=2.0)
    plan = replace(PLAN, exact=True, tile_px=64)
    (alone,) = predict_files(make_lively(), source, tmp_path / "b.tif", plan=plan).outputs
    (spread,) = predict_files(
        make_lively(), source, tmp_path / "c.tif", plan=plan, cluster=cluster
    ).outputs
    one, many = (slides.open_slide(tmp_path / name) for name in ("b.tif", "c.tif"))
    with one, many:
        whole = slice(0, 40), slice(0, 50)
        for frame in range(5):
            assert np.array_equal(one.read((frame,), *whole), many.read((frame,), *whole))
        assert many.image.time_step_s == 2.0
    assert spread["reasons"] == alone["reasons"]
    assert "1 of 5 planes are empty" in " ".join(spread["reasons"])


def test_results_come_in_the_order_of_the_items(cluster: Cluster) -> None:
    told: list[float] = []
    items = list(range(23))
    found = cluster.do_all(operator.call, math.sqrt, items, told.append)
    assert found == list(map(math.sqrt, items))
    assert told == [(n + 1) / 23 for n in range(23)]
    assert cluster.do_all(operator.call, math.sqrt, [], told.append) == []


def test_no_more_is_begun_after_an_error(cluster: Cluster) -> None:
    told: list[float] = []
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        cluster.do_all(operator.call, math.sqrt, [-1, *range(100)], told.append)
    assert len(told) < 20


def test_a_part_that_kills_its_workers_is_told(cluster: Cluster) -> None:
    scheduler = cluster.client.cluster.scheduler
    allowed, scheduler.allowed_failures = scheduler.allowed_failures, 0
    try:
        with pytest.raises(InputError, match=r"cost several workers their lives.*it goes on"):
            cluster.do_all(operator.call, os._exit, [1], lambda _: None)
    finally:
        scheduler.allowed_failures = allowed
    cluster.client.wait_for_workers(2, timeout=60)


def test_a_cluster_that_exists_is_connected_to(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = cluster.client.scheduler.address
    with connect(address) as known:
        assert known.do_all(operator.call, math.sqrt, [4.0], lambda _: None) == [2.0]
    assert cluster.client.status == "running"
    monkeypatch.setattr(module, "version", lambda name: f"another {name}")
    other = pytest.raises(InputError, match=r"has crosscope .*, here it is another crosscope")
    with other, connect(address):
        raise AssertionError


def test_a_worker_that_cannot_import_the_program_is_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getpid()

    def broken() -> dict[str, str]:
        if os.getpid() == here:
            return {}
        raise ModuleNotFoundError("No module named 'crosscope'")

    monkeypatch.setattr(module, "list_versions", broken)
    monkeypatch.setattr(module, "ALIKE", ())
    address = cluster.client.scheduler.address
    with (
        pytest.raises(InputError, match=r"cannot import crosscope \(.*No module"),
        connect(address),
    ):
        raise AssertionError


def test_a_scheduler_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://a:1"):
        with pytest.raises(InputError, match="no Dask scheduler answers there"), connect(address):
            raise AssertionError


def test_a_scheduler_without_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = importlib.import_module("distributed")
    monkeypatch.setattr(module, "WAIT_S", 1.0)
    options = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with (
        distributed.LocalCluster(n_workers=0, **options) as empty,
        pytest.raises(InputError, match="the scheduler has no worker"),
        connect(empty.scheduler_address),
    ):
        raise AssertionError


def test_workers_of_here_or_there_but_not_both() -> None:
    with pytest.raises(InputError, match="has its own workers"), connect("tcp://a:1", workers=2):
        raise AssertionError


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'crosscope\[cluster\]'"), connect(workers=1):
        raise AssertionError
