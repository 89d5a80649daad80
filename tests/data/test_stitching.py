"""Tiles of a known field, taken by a stage that errs, come back to where they were taken."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crosscope.data.errors import ImageError
from crosscope.data.images import Channel, Image, read_tiles, write_image
from crosscope.data.stitching import Layout, locate_tiles, stitch
from crosscope.optics.psf import fwhm_nm, widefield_otf
from crosscope.optics.rendering import Grid, render
from crosscope.optics.samples import beads, filaments
from crosscope.optics.systems import Sample

OTF = widefield_otf(na=1.2, emission_nm=520.0)
PIXEL_NM = fwhm_nm(OTF) / 3
STRAIGHT = np.eye(2, dtype=np.int64)
WAYS = [
    np.array(way)
    for way in (
        [[1, 0], [0, 1]], [[1, 0], [0, -1]], [[-1, 0], [0, 1]], [[-1, 0], [0, -1]],
        [[0, 1], [1, 0]], [[0, 1], [-1, 0]], [[0, -1], [1, 0]], [[0, -1], [-1, 0]],
    )
]  # fmt: skip


def scan(
    grid: tuple[int, int],
    *,
    side_px: int = 128,
    overlap: float = 0.2,
    stage_px: float = 4.0,
    photons: float = 200.0,
    way: npt.NDArray[Any] = STRAIGHT,
    sample: Sample = beads,
    seed: int = 0,
) -> tuple[list[Image], npt.NDArray[Any]]:
    """Return tiles and where they were taken (px); the stage says where they should have been."""
    random = np.random.default_rng(seed)
    step = round(side_px * (1 - overlap))
    extent_nm = (step * max(grid) + side_px) * PIXEL_NM
    emitters = sample(random, extent_nm=extent_nm, finest_nm=fwhm_nm(OTF))
    frame = Grid(side_px, PIXEL_NM, integrates=True)
    tiles: list[Image] = []
    truth = []
    for place in np.ndindex(grid):
        wanted = 10 + step * np.array(place, float)
        taken = wanted + random.uniform(-stage_px, stage_px, 2)
        light = render(emitters.yx_nm - taken * PIXEL_NM, emitters.weight, otf=OTF, grid=frame)
        # a bead's light, some of it in the brightest pixel
        expected = photons * 9 * light + 5 if sample is beads else photons / 8 * light + 5
        grey = 100 + random.poisson(expected) + random.normal(0, 1.5, light.shape)
        y_nm, x_nm = (way.T @ (wanted * PIXEL_NM) + (777, -1e6)).tolist()
        pixels = np.clip(np.rint(grey), 0, 65535).astype(np.uint16)
        name = f"tile{len(tiles)}"
        size_nm = PIXEL_NM, PIXEL_NM
        tiles.append(Image(pixels, "yx", size_nm, name=name, position_yx_nm=(y_nm, x_nm)))
        truth.append(taken)
    return tiles, np.array(truth)


def errors_px(layout: Layout, truth: npt.NDArray[Any]) -> npt.NDArray[Any]:
    away = layout.yx_px - truth
    return np.hypot(*(away - np.median(away, axis=0)).T)


def cut(field: npt.NDArray[Any], places: Sequence[tuple[int, int]], side_px: int) -> list[Image]:
    """Cut tiles of a field at whole pixels, without any noise."""
    return [
        Image(
            field[..., y : y + side_px, x : x + side_px],
            "cyx" if field.ndim == 3 else "yx",
            (100.0, 100.0),
            name=f"tile{n}",
            position_yx_nm=(100.0 * y, 100.0 * x),
        )
        for n, (y, x) in enumerate(places)
    ]


def spots(shape: tuple[int, int], *, seed: int = 0) -> npt.NDArray[Any]:
    random = np.random.default_rng(seed)
    places = random.uniform(0, shape, (shape[0] * shape[1] // 80, 2))
    y, x = (np.exp(-((np.arange(n) - places[:, i : i + 1]) ** 2) / 6) for i, n in enumerate(shape))
    light = np.einsum("n,ny,nx->yx", random.lognormal(6, 0.5, len(places)), y, x)
    return (150 + light).astype(np.float32)


# --- where the tiles lie --------------------------------------------------------------------------


@pytest.mark.parametrize(("photons", "median_px"), [(200.0, 0.06), (30.0, 0.15)])
@pytest.mark.parametrize("seed", [0, 1])
def test_tiles_that_overlap_by_a_tenth_are_found(
    photons: float, median_px: float, seed: int
) -> None:
    tiles, truth = scan((3, 3), side_px=256, overlap=0.1, stage_px=5.0, photons=photons, seed=seed)
    layout = locate_tiles(tiles)
    assert np.median(errors_px(layout, truth)) < median_px
    assert errors_px(layout, truth).max() < 5 * median_px
    assert layout.overlaps == 12
    assert layout.measured >= 9
    assert layout.residual_px is not None
    assert layout.residual_px < 0.4
    assert 2 < layout.moved_px.max() < 10
    assert (layout.yx_px.min(axis=0) == 0).all()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.tolist()))
def test_the_stages_axes_are_found_whichever_way_they_lie(way: npt.NDArray[Any]) -> None:
    tiles, truth = scan((2, 3), way=way, seed=3)
    layout = locate_tiles(tiles)
    assert layout.stage_to_image.tolist() == way.tolist()
    assert np.median(errors_px(layout, truth)) < 0.15
    y_of_stage = "x" if way[0, 0] == 0 else "y"
    direction = "downwards" if way[0].sum() > 0 else "upwards"
    assert f"the stage's {y_of_stage} grows {direction}" in layout.assumed[0]


def test_a_row_of_filaments() -> None:
    tiles, truth = scan((1, 4), sample=filaments, seed=1, way=WAYS[1])
    layout = locate_tiles(tiles)
    assert errors_px(layout, truth).max() < 0.15
    assert layout.overlaps == layout.measured == 3
    assert layout.residual_px is None  # nothing measured twice
    assert layout.stage_to_image[1].tolist() == [0, -1]


def test_a_tile_without_structure_lies_where_the_stage_says() -> None:
    tiles, truth = scan((3, 3), seed=2)
    noise = np.random.default_rng(0).poisson(105, (128, 128)).astype(np.uint16)
    tiles[4] = tiles[4].with_pixels(noise)
    errors = errors_px(locate_tiles(tiles), truth)
    assert errors[4] < 8
    assert np.delete(errors, 4).max() < 0.3
    assert (
        "Tiles without such an overlap lie where the stage says"
        in stitch(tiles, name="a").assumed[2]
    )


def test_a_tile_of_another_field_doesnt_lead_the_others_astray() -> None:
    tiles, truth = scan((3, 3), seed=4)
    stranger = scan((1, 1), seed=99)[0][0]
    tiles[4] = tiles[4].with_pixels(stranger.pixels)
    layout = locate_tiles(tiles)
    assert np.delete(errors_px(layout, truth), 4).max() < 0.3


def test_where_overlaps_tell_nothing_the_orientation_must_be_said() -> None:
    tiles, truth = scan((2, 2))
    random = np.random.default_rng(0)
    empty = [t.with_pixels(random.poisson(105, (128, 128)).astype(np.uint16)) for t in tiles]
    with pytest.raises(ImageError, match="don't show how the stage's axes lie") as caught:
        locate_tiles(empty)
    assert "stage_to_image" in caught.value.remedy
    layout = locate_tiles(empty, stage_to_image=STRAIGHT)
    assert errors_px(layout, truth).max() < 12
    assert layout.measured == 0
    assert layout.moved_px.max() < 1e-6
    assert "As was said" in layout.assumed[0]


# --- one image ------------------------------------------------------------------------------------


def test_without_noise_the_field_comes_back() -> None:
    field = spots((220, 260))
    places = [(0, 3), (2, 80), (1, 160), (78, 0), (80, 82), (81, 161)]
    mosaic = stitch(cut(field, places, 99), name="scan")
    height, width = mosaic.pixels.shape
    worst = min(
        np.abs(mosaic.pixels - field[y : y + height, x : x + width]).max()
        for y in range(8)
        for x in range(8)
    )
    assert (height, width) >= (170, 250)
    assert worst < 0.02 * field.max()
    assert mosaic.pixels.dtype == np.float32
    assert mosaic.name == "scan"
    assert mosaic.pixel_size_nm == (100.0, 100.0)
    assert mosaic.position_yx_nm is None
    assert "of the rectangle around it is kept" in mosaic.assumed[-1]


def test_levels_are_those_of_the_camera_and_blend_linearly() -> None:
    left, right = cut(np.ones((60, 150), np.float32), [(0, 0), (0, 50)], 100)
    tiles = [
        left.with_pixels(np.full((60, 100), 100.0, np.float32)),
        right.with_pixels(np.full((60, 100), 200.0, np.float32)),
    ]
    mosaic = stitch(tiles, name="a", stage_to_image=STRAIGHT).pixels
    np.testing.assert_allclose(mosaic, np.broadcast_to(mosaic[0], mosaic.shape), rtol=1e-6)
    assert mosaic[0, :45] == pytest.approx(100)
    assert mosaic[0, -45:] == pytest.approx(200)
    steps = np.diff(mosaic[0, 51:96])
    assert steps == pytest.approx(steps.mean(), rel=0.02)


def test_channels_are_put_together_alike() -> None:
    field = np.stack([spots((120, 200)), 3 * spots((120, 200), seed=5)])
    channels = (Channel("DAPI"), Channel("FITC"))
    tiles = [replace(t, channels=channels) for t in cut(field, [(0, 0), (3, 80)], 110)]
    mosaic = stitch(tiles, name="a")
    assert mosaic.axes == "cyx"
    assert mosaic.channels == channels
    height, width = mosaic.pixels.shape[1:]
    assert min(
        np.abs(mosaic.pixels - field[:, y : y + height, 1 : 1 + width]).max() for y in range(8)
    ) < 0.02 * float(field.max())


def test_a_folder_of_tiles_becomes_one_image(tmp_path: Path) -> None:
    tiles, truth = scan((2, 2), seed=5)
    for tile in tiles:
        write_image(tile, tmp_path / f"{tile.name}.ome.tif")
    back = read_tiles(tmp_path)
    assert np.median(errors_px(locate_tiles(back), truth)) < 0.15
    assert np.array_equal(stitch(back, name="a").pixels, stitch(tiles, name="a").pixels)


# --- refusals -------------------------------------------------------------------------------------

GRID = [(y, x) for y in (0, 80, 160) for x in (0, 80, 160)]


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([p for p in GRID if p != (80, 80)], r"a hole of 6\d x 6\d px between tile0, tile1"),
        ([p for p in GRID if p not in ((80, 160), (160, 160), (160, 80))], "would be lost"),
        ([(0, 0), (0, 80), (0, 300), (80, 0), (80, 80)], "tile2 overlap with none of the other 4"),
        ([(0, 0), (0, 100), (100, 0)], "tile0 overlap with none of the other 2"),
        ([(0, 0), (0, 80), (1, 82)], "tile1: lies at the same place of the stage as tile2"),
        ([(0, 0)], "1 images are no tile scan"),
        ([], "0 images are no tile scan"),
    ],
)
def test_tiles_that_form_no_rectangle_are_refused(places: list[tuple[int, int]], said: str) -> None:
    tiles = cut(spots((270, 420)), places, 100)
    with pytest.raises(ImageError, match=said) as caught:
        stitch(tiles, name="scan")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixels": np.ones((100, 99), np.float32)}, "is y=100 x=99, but tile0 is y=100 x=100"),
        ({"pixels": np.full((100, 100), np.nan, np.float32)}, "10000 pixels are NaN"),
        ({"position_yx_nm": None}, "stage position is not known"),
        ({"position_yx_nm": (np.nan, 0.0)}, "stage position is not known"),
        ({"pixel_size_nm": None}, "pixel size is not known"),
        ({"pixel_size_nm": (100.0, 90.0)}, "has pixels of"),
        ({"channels": (Channel("DAPI"),)}, "DAPI"),
    ],
)
def test_tiles_that_are_not_alike_are_refused(change: dict[str, Any], said: str) -> None:
    tiles = cut(spots((120, 200)), [(0, 0), (0, 80)], 100)
    tiles[1] = replace(tiles[1], **change)
    with pytest.raises(ImageError, match=said) as caught:
        stitch(tiles, name="scan")
    assert caught.value.where == "tile1"
    assert caught.value.remedy
