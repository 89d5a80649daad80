from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crosscope.data.sampling import Scaling
from crosscope.model.engine import Engine
from crosscope.model.generator import build_generator
from crosscope.model.model import Model
from crosscope.model.reach import Reach, measure_reach
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


@pytest.mark.parametrize("library", ["torch", "openvino"])
def test_bfloat16_tiles_differ_from_the_whole_by_less_than_rounding_does(library: str) -> None:
    if library == "openvino":
        pytest.importorskip("openvino")
    plane = make_plane(200, 230)
    engine = Engine(1, "bfloat16", library)
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
