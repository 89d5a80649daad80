import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crosscope.data.errors import InputError
from crosscope.data.sampling import Scaling
from crosscope.model.engine import Engine
from crosscope.model.generator import build_generator
from crosscope.model.model import Model
from crosscope.model.reach import Reach, measure_reach
from crosscope.model.runners import openvino_precisions
from crosscope.prediction import tiling
from crosscope.prediction.tiling import cut_axis

FINE, COARSE = Engine(1, "float32"), Engine(1, "bfloat16")
WHOLE_PX = 4096


def make_model(name: str, base: int, *, std: float = 0.05) -> Model:
    """Return a model whose residuals, which begin at zero, are at work."""
    torch.manual_seed(0)
    network = build_generator(name, base).eval()
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=std)
    field = np.random.default_rng(9).random((128, 128), dtype=np.float32)
    return Model(
        network=name,
        base=base,
        generator=network,
        twin=None,
        source_scaling=Scaling(100.0, 200.0),
        target_scaling=Scaling(50.0, 500.0),
        source_pixel_size_nm=(30.0, 30.0),
        target_pixel_size_nm=(30.0, 30.0),
        reach=measure_reach(network, field),
    )


FAST, PAPER = make_model("fast", 4), make_model("paper", 4)


def make_plane(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng([height, width])
    return random.uniform(100, 300, (height, width)).astype(np.float32)


def sharpen(model: Model, plane: np.ndarray, **options: Any) -> np.ndarray:
    return tiling.sharpen(model, plane[None], **options)[0]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference as a part of the range."""
    return float(np.abs(a - b).max() / max(np.ptp(b), 1.0))


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.square(difference, dtype=float).mean()))


SIZES = [(1, 1), (5, 3), (7, 150), (83, 131)]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("model", [FAST, PAPER], ids=["fast", "paper"])
def test_exact_tiles_are_the_whole_to_the_last_bit(model: Model, shape: tuple[int, int]) -> None:
    plane = make_plane(*shape)
    whole = sharpen(model, plane, engine=FINE, tile_px=WHOLE_PX, exact=True)
    assert whole.shape == shape
    assert difference(whole, sharpen(model, plane, engine=FINE, tile_px=WHOLE_PX)) < 1e-5
    for tile_px in (33, 64):
        tiled = sharpen(model, plane, engine=FINE, tile_px=tile_px, exact=True)
        assert np.array_equal(tiled, whole)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("model", [FAST, PAPER], ids=["fast", "paper"])
def test_exact_bfloat16_tiles_are_the_whole(model: Model, shape: tuple[int, int]) -> None:
    plane = make_plane(*shape)
    whole = sharpen(model, plane, engine=COARSE, tile_px=WHOLE_PX, exact=True)
    for tile_px in (33, 64):
        tiled = sharpen(model, plane, engine=COARSE, tile_px=tile_px, exact=True)
        assert np.array_equal(tiled, whole)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_tiles_differ_from_the_whole_by_less_than_rounding_does(backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
        if "bfloat16" not in openvino_precisions():
            pytest.skip("OpenVINO has no bfloat16 on this processor")
    plane = make_plane(200, 230)
    engine = Engine(1, "bfloat16", backend)
    fine = sharpen(FAST, plane, engine=FINE, tile_px=WHOLE_PX)
    whole, tiled = (sharpen(FAST, plane, engine=engine, tile_px=px) for px in (WHOLE_PX, 64))
    assert FAST.reach.rounded_px < FAST.reach.halo_px
    assert rms(tiled - whole) < rms(whole - fine)
    assert rms(tiled - fine) < 1.1 * rms(whole - fine)
    seams = np.arange(64, 200, 64)
    steps = [rms(np.diff(made - fine, axis=0)[seams - 1]) for made in (tiled, whole)]
    assert steps[0] < 1.2 * steps[1]


def test_one_tile_is_the_network_itself() -> None:
    plane = make_plane(32, 48)
    with torch.no_grad():
        scaled = torch.from_numpy(FAST.source_scaling.apply(plane))
        output = FAST.generator(scaled[None, None])[0, 0]
    expected = output.numpy() * 500 + 50
    assert difference(sharpen(FAST, plane, engine=FINE), expected) < 1e-6


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 90))
def test_the_measured_halo_leaves_1e_5_of_the_range(height: int, width: int, tile_px: int) -> None:
    plane = make_plane(height, width)
    tiled = sharpen(FAST, plane, engine=FINE, tile_px=max(tile_px, 24))
    assert difference(tiled, sharpen(FAST, plane, engine=FINE, tile_px=WHOLE_PX)) <= 1e-5


def test_the_last_pixels_are_repeated_up_to_the_stride() -> None:
    plane = make_plane(29, 45)
    filled = np.pad(plane, ((0, 3), (0, 3)), mode="edge")
    assert np.array_equal(
        sharpen(FAST, plane, engine=FINE), sharpen(FAST, filled, engine=FINE)[:29, :45]
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_type_of_pixel_is_taken_as_the_same_grey_values(dtype: type) -> None:
    plane = np.arange(16 * 15).reshape(16, 15) + 10
    sharp = sharpen(FAST, plane.astype(dtype), engine=FINE)
    assert sharp.dtype == np.float32
    assert np.array_equal(sharp, sharpen(FAST, plane.astype(np.float64), engine=FINE))


def test_an_untrained_fast_model_only_changes_the_scale() -> None:
    plane = make_plane(20, 30)
    network = build_generator("fast", 2)
    sharp = sharpen(FAST, plane, engine=FINE, network=network)
    assert sharp == pytest.approx((plane - 100) / 200 * 500 + 50, rel=1e-5)
    shifted = sharpen(
        FAST, plane, engine=FINE, network=network, source_scaling=Scaling(120.0, 200.0)
    )
    assert shifted == pytest.approx(sharp - 50, rel=1e-4, abs=1e-3)


def test_progress_goes_to_1_tile_by_tile() -> None:
    told: list[float] = []
    sharpen(FAST, make_plane(40, 70), engine=FINE, tile_px=64, watch=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0] or told == pytest.approx([0.5, 1.0])
    assert told[-1] == 1


@given(st.integers(1, 500), st.integers(1, 20), st.integers(0, 12))
def test_tiles_cover_an_axis_once(length: int, tile_cells: int, halo_cells: int) -> None:
    tiles = list(cut_axis(8 * length, 8 * tile_cells, 8 * halo_cells))
    assert [tile.start for tile in tiles[1:]] == [tile.stop for tile in tiles[:-1]]
    assert (tiles[0].start, tiles[-1].stop) == (0, 8 * length)
    for tile in tiles:
        assert tile.read_start == max(0, tile.start - 8 * halo_cells)
        assert tile.read_stop == min(8 * length, tile.stop + 8 * halo_cells)
        assert tile.read_start % 8 == tile.read_stop % 8 == 0


def test_a_halo_that_is_too_small_is_noticed_by_these_tests() -> None:
    blind = Model(**{**vars(FAST), "reach": Reach(8, 8, 8)})
    plane = make_plane(100, 100)
    tiled = sharpen(blind, plane, engine=FINE, tile_px=32)
    assert difference(tiled, sharpen(FAST, plane, engine=FINE, tile_px=WHOLE_PX)) > 1e-5


# --- several planes -------------------------------------------------------------------------------


PLANES = np.stack([make_plane(24, 40 + n)[:, :40] for n in range(5)])


@pytest.mark.parametrize(("model", "threads"), [(FAST, 1), (PAPER, 1), (FAST, 2)])
def test_planes_together_are_planes_one_by_one(model: Model, threads: int) -> None:
    engine = Engine(threads, "float32")
    for exact in (False, True):
        options: dict[str, Any] = {"engine": engine, "exact": exact}
        together = tiling.sharpen(model, PLANES, tile_px=64, **options)  # four at once
        one_by_one = np.stack([sharpen(model, plane, tile_px=32, **options) for plane in PLANES])
        assert difference(together, one_by_one) < 1e-5
        assert np.array_equal(together, one_by_one) or not exact


@pytest.mark.parametrize("model", [FAST, PAPER], ids=["fast", "paper"])
def test_planes_together_are_planes_one_by_one_in_bfloat16(model: Model) -> None:
    together = tiling.sharpen(model, PLANES, tile_px=64, engine=COARSE, exact=True)
    one_by_one = np.stack([sharpen(model, plane, engine=COARSE, exact=True) for plane in PLANES])
    assert np.array_equal(together, one_by_one)


def test_threads_at_one_time_do_not_disturb_each_other() -> None:
    planes = [make_plane(70, 60 + n) for n in range(8)]
    threads = torch.get_num_threads()
    alone = [sharpen(FAST, plane, engine=FINE, exact=True) for plane in planes]
    start = threading.Barrier(4)

    def work(n: int) -> np.ndarray:
        if n < 4:
            start.wait()
        return sharpen(FAST, planes[n], engine=FINE, exact=True, tile_px=32)

    with ThreadPoolExecutor(4) as pool:
        for made, known in zip(pool.map(work, range(8)), alone, strict=True):
            assert np.array_equal(made, known)
    assert torch.backends.mkldnn.enabled
    assert torch.get_num_threads() == threads


# --- where the memory ends ------------------------------------------------------------------------

ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 9 bytes"
)


def limit_area(monkeypatch: pytest.MonkeyPatch, area_px: int, error: Exception) -> list[int]:
    """Let networks fail on larger inputs; return the list of all that are tried."""
    run, tried = Engine.run, list[int]()

    def limited(engine: Engine, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        tried.append(x.numel())
        if x.numel() > area_px:
            raise error
        return run(engine, network, x)

    monkeypatch.setattr(Engine, "run", limited)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ALLOCATOR),
        RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
    ids=repr,
)
@pytest.mark.parametrize("exact", [False, True])
def test_tiles_are_halved_where_the_memory_ends(
    monkeypatch: pytest.MonkeyPatch, exact: bool, error: Exception
) -> None:
    plane = make_plane(205, 333)
    whole = sharpen(FAST, plane, engine=FINE, tile_px=WHOLE_PX, exact=exact)
    tried = limit_area(monkeypatch, 52_000, error)
    halved = sharpen(FAST, plane, engine=FINE, tile_px=200, exact=exact)
    assert max(tried) > 52_000 > min(tried)
    assert difference(halved, whole) <= 1e-5
    assert np.array_equal(halved, whole) or not exact


def test_halves_of_a_resampled_tile_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"engine": FINE, "exact": True, "zoom": (1.9, 2.2)}
    plane = make_plane(97, 110)
    whole = sharpen(FAST, plane, tile_px=WHOLE_PX, **options)
    tried = limit_area(monkeypatch, 44_000, RuntimeError(ALLOCATOR))
    assert np.array_equal(sharpen(FAST, plane, tile_px=WHOLE_PX, **options), whole)
    assert len(tried) >= 3


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = limit_area(monkeypatch, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sharpen(FAST, make_plane(200, 200), engine=FINE)
    assert len(tried) == 1


def test_a_machine_too_small_for_a_small_tile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_area(monkeypatch, 32**2, RuntimeError(ALLOCATOR))
    with pytest.raises(InputError, match="memory does not suffice for a tile of 64 px"):
        sharpen(FAST, make_plane(200, 200), engine=FINE)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction import tiling
model = Model.load(sys.argv[1])
options = {"engine": Engine(1, "float32"), "tile_px": 1536}
plane = np.random.default_rng(0).uniform(100, 300, (1, 1024, 1536)).astype(np.float32)
tiling.sharpen(model, plane[:, :64, :64], **options)  # what is loaded late is loaded now
tried = []
apply = tiling.Sharpener.apply
def note(sharpener, planes):
    tried.append(planes.size)
    return apply(sharpener, planes)
tiling.Sharpener.apply = note
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for more in range(300, 100, -40):  # MiB; about 300 are enough for the whole, 140 for halves
    tried.clear()
    resource.setrlimit(resource.RLIMIT_AS, (used + more * 2**20, resource.RLIM_INFINITY))
    halved = tiling.sharpen(model, plane, **options)
    if len(tried) > 1:
        break
print(len(tried))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
print(np.abs(halved - tiling.sharpen(model, plane, **options)).max() / np.ptp(halved))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits as Linux has them")
def test_a_process_whose_memory_ends_goes_on_in_halves(tmp_path: Path) -> None:
    make_model("fast", 16).save(tmp_path / "model.zip")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "model.zip")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    tried, off = told.stdout.split()
    assert int(tried) >= 3  # the whole, and its halves at least
    assert float(off) <= 1e-5
