"""Parts of slides as `read_image` gives the whole; canvases that no two parts write one file of."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models import open_ome_zarr
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec

from crosscope.data import slides
from crosscope.data.errors import ImageError
from crosscope.data.images import Channel, Image, read_image
from crosscope.data.slides import (
    Canvas,
    Part,
    create_canvas,
    finish_canvas,
    is_slide,
    is_written,
    is_zarr,
    list_parts,
    open_canvas,
    open_slide,
    read_about,
    read_overview,
    reduce_part,
    stand_in,
    write_part,
    write_slide,
    write_tiff,
)

TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def noise(*shape: int, dtype: Any = np.uint16) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 250, shape).astype(dtype)


def require_same_parts(path: Path, whole: np.ndarray, axes: str) -> None:
    """Compare parts of a slide, corners, edges and insides of each plane, with the whole."""
    with open_slide(path) as slide:
        assert slide.image.axes == axes
        assert slide.image.pixels.shape == whole.shape
        assert slide.image.pixels.dtype == whole.dtype
        height, width = whole.shape[-2:]
        for place in np.ndindex(*whole.shape[:-2]):
            for y, x in [(0, 0), (height // 3, width // 2), (height - 5, width - 7)]:
                rows = slice(y, min(y + 37, height))
                columns = slice(x, min(x + 53, width))
                found = slide.read(place, rows, columns)
                assert found.dtype == whole.dtype
                assert np.array_equal(found, whole[(*place, rows, columns)])


# --- TIFF in --------------------------------------------------------------------------------------

TILES: dict[str, Any] = {"tile": (32, 48)}
ZLIB: dict[str, Any] = {"compression": "zlib"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, **ZLIB},
        {"rowsperstrip": 150, **ZLIB},
        TILES,
        {**TILES, **ZLIB, "byteorder": ">"},
        {**TILES, "compression": "lzw", "predictor": True, "bigtiff": True},
    ],
    ids=str,
)
def test_parts_of_a_tiff_are_those_of_the_whole(
    tmp_path: Path, layout: dict[str, Any], dtype: type
) -> None:
    path = tmp_path / "a.tif"
    creation: dict[str, Any] = {k: v for k, v in layout.items() if k in ("byteorder", "bigtiff")}
    how = {key: value for key, value in layout.items() if key not in creation}
    with tifffile.TiffWriter(path, **creation) as tif:
        tif.write(noise(150, 130, dtype=dtype), photometric="minisblack", **how)
    require_same_parts(path, read_image(path).pixels, "yx")


@pytest.mark.parametrize("options", [{}, {**TILES, **ZLIB}, {"rowsperstrip": 9, **ZLIB}], ids=str)
@pytest.mark.parametrize("axes", ["TCZYX", "ZCTYX", "CTYX", "ZYX", "TYX", "YX", "CZTYX"])
def test_planes_may_be_stored_in_any_order(
    tmp_path: Path, axes: str, options: dict[str, Any]
) -> None:
    lengths = {"T": 2, "C": 3, "Z": 4, "Y": 60, "X": 70}
    path = tmp_path / "a.ome.tif"
    pixels = noise(*(lengths[axis] for axis in axes))
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": axes}, **options)
    image = read_image(path)
    assert image.pixels.size == pixels.size
    require_same_parts(path, image.pixels, image.axes)


def test_an_imagej_stack_is_read_with_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    metadata = {"axes": "TZCYX", "unit": "um", "spacing": 0.5, "finterval": 3.0}
    pixels = noise(2, 3, 2, 40, 50)
    tifffile.imwrite(path, pixels, imagej=True, metadata=metadata, resolution=(10, 20))
    whole = read_image(path)
    require_same_parts(path, whole.pixels, "tczyx")
    with open_slide(path) as slide:
        known = vars(slide.image) | {"pixels": None, "sha256": None}
    assert known == vars(whole) | {"pixels": None, "sha256": None}


def test_unnamed_planes_are_taken_as_z_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(3, 40, 50), photometric="minisblack")
    require_same_parts(path, read_image(path).pixels, "zyx")
    with open_slide(path) as slide:
        assert slide.image.assumed == read_image(path).assumed
        assert "taken as z" in " ".join(slide.image.assumed)


def test_planes_that_lie_on_their_side_are_turned(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(60, 90), metadata={"axes": "XY"})
    require_same_parts(path, read_image(path).pixels, "yx")


def test_of_a_pyramid_the_full_resolution_is_read(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.ome.tif", noise(2, 128, 160)
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tif:
        tif.write(pixels, subifds=2, metadata={"axes": "CYX"}, **TILES, **ZLIB)
        for fold in (2, 4):
            tif.write(pixels[:, ::fold, ::fold], subfiletype=1, **TILES, **ZLIB)
    require_same_parts(path, pixels, "cyx")


def test_images_beside_the_first_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(noise(40, 50), metadata={"axes": "YX"})
        tif.write(noise(20, 30), metadata={"axes": "YX"})
    with open_slide(path) as slide:
        assert slide.image.assumed == read_image(path).assumed
        assert "2 images: the first is read" in " ".join(slide.image.assumed)


@pytest.mark.parametrize("dtype", [np.int32, np.int16, np.uint32, np.float64, np.int8])
def test_types_that_only_the_whole_can_be_converted_from_are_refused(
    tmp_path: Path, dtype: type
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(20, 30, dtype=dtype))
    with pytest.raises(ImageError, match=f"{np.dtype(dtype)} pixels.*uint8, uint16 or float32"):
        open_slide(path)
    assert not is_slide(path)


def test_xml_that_may_harm_is_not_parsed(tmp_path: Path) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "b">]><OME>&a;</OME>'
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30), description=bomb, metadata=None)
    with pytest.raises(ImageError, match="DOCTYPE"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("content", [b"", b"this is no image", b"II*\0\x08\0\0\0"])
def test_what_is_no_tiff_is_one_kind_of_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError):
        open_slide(tmp_path / "a.tif")
    assert not is_slide(tmp_path / "a.tif")


def test_a_tile_that_is_damaged_is_an_error_and_not_black(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 96), **TILES, **ZLIB)
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.dataoffsets[3]
    with path.open("rb+") as file:
        file.seek(offset)
        file.write(bytes(40))
    with open_slide(path) as slide:
        assert slide.read((), slice(0, 32), slice(0, 96)).any()
        with pytest.raises(ImageError, match=r"a\.tif: "):
            slide.read((), slice(32, 64), slice(48, 96))


def test_large_tiffs_are_slides_and_small_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30))
    assert not is_slide(tmp_path / "a.tif")
    monkeypatch.setattr(slides, "LARGE_PX", 600)
    assert is_slide(tmp_path / "a.tif")
    assert not is_slide(tmp_path / "b.tif")
    assert not is_slide(tmp_path)


def test_no_parts_of_nd2_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.nd2").write_bytes(b"anything")
    with pytest.raises(ImageError, match="Nikon file"):
        open_slide(tmp_path / "a.nd2")


# --- OME-Zarr in ----------------------------------------------------------------------------------


def write_zarr(
    path: Path, pixels: np.ndarray, axes: str = "yx", *, version: str = "0.4", **options: Any
) -> Path:
    """Write an OME-Zarr by the zarr library alone, 30 nm a pixel."""
    named = [{"name": axis, "type": TYPES[axis]} for axis in axes]
    for axis in named:
        if axis["type"] == "space":
            axis["unit"] = "nanometer"
    scale = [30.0 if axis in "yx" else 1.0 for axis in axes]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    multiscale: dict[str, Any] = {"axes": named, "datasets": [dataset]}
    known: dict[str, Any] = {"ome": {"version": "0.5", "multiscales": [multiscale]}}
    if version == "0.4":
        known = {"multiscales": [multiscale | {"version": "0.4"}]}
    form: Any = {"0.4": 2, "0.5": 3}[version]
    group = zarr.open_group(path, mode="w", zarr_format=form, attributes=known)
    options = {"chunks": (1,) * (len(axes) - 2) + (32, 48)} | options
    array = group.create_array("0", shape=pixels.shape, dtype=pixels.dtype, **options)
    array[:] = pixels
    return path


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def separated(by: str) -> dict[str, Any]:
    return {"chunk_key_encoding": {"name": "v2", "separator": by}}


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("0.4", {}),
        ("0.4", {"compressors": None}),
        ("0.4", {"compressors": {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1}}),
        ("0.4", {"compressors": {"id": "zlib", "level": 1}}),
        ("0.4", {"filters": [numcodecs.Delta("<u2")]}),
        ("0.4", separated(".")),
        ("0.4", separated("/")),
        ("0.4", {"order": "F"}),
        ("0.5", {}),
        ("0.5", {"compressors": None}),
        ("0.5", {"compressors": BloscCodec(cname="lz4")}),
        ("0.5", {"compressors": GzipCodec()}),
        ("0.5", {"shards": (64, 96)}),
        ("0.5", {"shards": (64, 96), "compressors": BloscCodec()}),
        ("0.5", {"filters": TransposeCodec(order=(1, 0))}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "plain",
)
def test_parts_of_an_ome_zarr_are_those_of_the_whole(
    tmp_path: Path, version: str, options: dict[str, Any]
) -> None:
    pixels = noise(150, 130)
    path = write_zarr(tmp_path / "a.ome.zarr", pixels, version=version, **options)
    require_same_parts(path, pixels, "yx")
    with open_slide(path) as slide:
        assert (slide.version, slide.image.pixel_size_nm) == (version, (30, 30))


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<f4", ">f4"])
def test_every_type_and_order_of_bytes_is_read(tmp_path: Path, dtype: str) -> None:
    pixels = noise(70, 60).astype(dtype)
    path = write_zarr(tmp_path / "a.zarr", pixels)
    require_same_parts(path, pixels.astype(pixels.dtype.newbyteorder("=")), "yx")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "zyx", "tyx", "cyx", "czyx", "tzyx", "tcyx", "tczyx"])
def test_axes_may_be_any_of_five(tmp_path: Path, axes: str, version: str) -> None:
    lengths = {"t": 2, "c": 3, "z": 2, "y": 60, "x": 70}
    pixels = noise(*(lengths[axis] for axis in axes))
    path = write_zarr(tmp_path / "a.ome.zarr", pixels, axes, version=version)
    require_same_parts(path, pixels, axes)


def test_axes_of_length_1_are_dropped_and_others_are_ordered(tmp_path: Path) -> None:
    pixels = noise(3, 1, 2, 60, 70)
    path = write_zarr(tmp_path / "a.zarr", pixels, "zctyx")
    require_same_parts(path, pixels[:, 0].transpose(1, 0, 2, 3), "tzyx")


def test_chunks_that_are_not_there_hold_the_fill_value(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(64, 96), fill_value=7)
    (path / "0" / "1.1").unlink()
    with open_slide(path) as slide:
        assert (slide.read((), slice(32, 64), slice(48, 96)) == 7).all()


def test_a_name_need_not_end_in_zarr_and_may_be_a_link(tmp_path: Path) -> None:
    pixels = noise(40, 50)
    path = write_zarr(tmp_path / "plain", pixels, version="0.5")
    (tmp_path / "link").symlink_to(path)
    for name in ("plain", "link", "plain/"):
        assert is_zarr(tmp_path / name)
        require_same_parts(tmp_path / name, pixels, "yx")
    assert not is_zarr(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no group|cannot be read"),
        ("text", "no group|cannot be read"),
        ("[1, 2]", "no group|cannot be read"),
        ('{"zarr_format": 3, "node_type": "group"}', "without multiscales"),
        ('{"zarr_format": 3, "node_type": "group", "attributes": {"ome": [1]}}', "damaged"),
        ('{"zarr_format": 9, "node_type": "group"}', "no group|cannot be read"),
        ("{", "no group|cannot be read"),
    ],
)
def test_damaged_metadata_are_one_kind_of_error(tmp_path: Path, content: str, words: str) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(40, 50), version="0.5")
    (path / "zarr.json").write_text(content)
    with pytest.raises(ImageError, match=words):
        open_slide(path)


@pytest.mark.parametrize("content", ["", "text", "[1, 2]", "3", '{"multiscales": 3}', "{}"])
def test_damaged_attributes_are_one_kind_of_error(tmp_path: Path, content: str) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(40, 50))
    (path / ".zattrs").write_text(content)
    with pytest.raises(ImageError):
        open_slide(path)


@pytest.mark.parametrize("content", ["", "text", "[1]", '{"zarr_format": 2}'])
def test_damaged_metadata_of_an_array_are_one_kind_of_error(tmp_path: Path, content: str) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(40, 50))
    (path / "0" / ".zarray").write_text(content)
    with pytest.raises(ImageError):
        open_slide(path)


def test_what_is_no_group_of_an_image_is_told(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(40, 50))
    (tmp_path / "file.zarr").write_text("text")
    (tmp_path / "empty.zarr").mkdir()
    for name, words in {
        "none.zarr": "does not exist",
        "file.zarr": "is a file",
        "empty.zarr": "no OME-Zarr image",
        "a.zarr/0": "no OME-Zarr image",
    }.items():
        with pytest.raises(ImageError, match=words):
            open_slide(tmp_path / name if name != "a.zarr/0" else path / "0")
    shutil.rmtree(path / "0")
    with pytest.raises(ImageError):
        open_slide(path)


def test_axes_and_pixels_have_as_many_dimensions(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(2, 40, 50), "zyx")
    group = zarr.open_group(path, mode="r+")
    group.create_array("1", shape=(40, 50), dtype="u2")
    shutil.rmtree(path / "0")
    (path / "1").rename(path / "0")
    with pytest.raises(ImageError, match="name 3 axes, its pixels have others"):
        open_slide(path)


def test_chunks_above_1_gib_are_refused(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(40, 50))
    change_json(path / "0" / ".zarray", chunks=[32768, 32768], shape=[40000, 50000])
    with pytest.raises(ImageError, match="more than 1 GiB"):
        open_slide(path)


class Trap:
    """Tells when it is unpickled."""

    sprung = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize("key", ["filters", "compressor"])
def test_codecs_that_execute_are_refused_before_a_chunk_is_read(tmp_path: Path, key: str) -> None:
    import pickle

    path = write_zarr(tmp_path / "a.zarr", noise(32, 48), compressors=None)
    (path / "0" / "0.0").write_bytes(pickle.dumps(Trap()))
    codec = {"id": "pickle", "protocol": 5}
    change_json(path / "0" / ".zarray", **{key: [codec] if key == "filters" else codec})
    with pytest.raises(ImageError, match="pickle"):
        open_slide(path)
    assert not Trap.sprung


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_codecs_within_shards_are_looked_at(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(64, 96), version="0.5", shards=(64, 96))
    known = json.loads((path / "0" / "zarr.json").read_text())
    known["codecs"][0]["configuration"]["codecs"].append(
        {"name": "numcodecs.fletcher32", "configuration": {}}
    )
    (path / "0" / "zarr.json").write_text(json.dumps(known))
    with pytest.raises(ImageError, match="fletcher32"):
        open_slide(path)


def test_a_chunk_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", noise(64, 96))
    (path / "0" / "1.1").write_bytes(b"damaged")
    with open_slide(path) as slide:
        assert slide.read((), slice(0, 32), slice(0, 96)).any()
        with pytest.raises(ImageError, match=r"a\.zarr: cannot be read"):
            slide.read((), slice(0, 64), slice(0, 96))


# --- out ------------------------------------------------------------------------------------------


def blank(*shape: int, axes: str = "yx", **more: Any) -> Image:
    return Image(stand_in(shape, np.float32), axes, (30.0, 30.0), **more)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 32 px, so that small images have levels and parts have several chunks."""
    monkeypatch.setattr(slides, "CHUNK_PX", 32)


def taken(pixels: np.ndarray, part: Part) -> np.ndarray:
    at: Any = (*part.place, part.y, part.x)
    return pixels[at]


def lay_out(folder: Path, image: Image, version: str, tile_px: int) -> Canvas:
    folder.mkdir(exist_ok=True)
    about = {"made": "of noise"}
    return create_canvas(folder, image, version=version, tile_px=tile_px, about=about)


def fill(canvas: Canvas, pixels: np.ndarray) -> None:
    for part in list_parts(canvas, 0):
        write_part(canvas, part, taken(pixels, part))
    for level in range(1, len(canvas.levels)):
        for part in list_parts(canvas, level):
            reduce_part(canvas, part)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


both = pytest.mark.parametrize("version", ["0.4", "0.5"])


@both
@pytest.mark.parametrize("tile_px", [32, 48, 96])
@pytest.mark.usefixtures("small_chunks")
def test_threads_that_write_parts_in_any_order_lose_nothing(
    tmp_path: Path, version: str, tile_px: int
) -> None:
    pixels = noise(2, 333, 277, dtype=np.float32)
    canvas = lay_out(tmp_path / "a", blank(2, 333, 277, axes="tyx"), version, tile_px)
    parts = list(list_parts(canvas, 0))
    np.random.default_rng(0).shuffle(parts)

    def write(part: Part) -> None:
        write_part(canvas, part, taken(pixels, part))

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(write, parts))) == len(parts)
    assert np.array_equal(canvas.levels[0][:], pixels)
    assert all(is_written(canvas, part) for part in parts)


@both
@pytest.mark.parametrize("tile_px", [32, 48, 96])
@pytest.mark.usefixtures("small_chunks")
def test_no_two_parts_share_a_file(tmp_path: Path, version: str, tile_px: int) -> None:
    pixels = np.zeros((2, 130, 110), np.float32)
    canvas = lay_out(tmp_path / "a", blank(2, 130, 110, axes="zyx"), version, tile_px)
    before = set(files_of(canvas.folder))
    for level in range(len(canvas.levels)):
        for part in list_parts(canvas, level):
            assert not is_written(canvas, part)
            old = {name: file.stat().st_ino for name in before for file in [canvas.folder / name]}
            if level:
                reduce_part(canvas, part)
            else:
                write_part(canvas, part, taken(pixels, part))
            assert is_written(canvas, part)  # though all its pixels are 0
            after = set(files_of(canvas.folder))
            assert after > before
            assert old == {name: (canvas.folder / name).stat().st_ino for name in before}
            before = after


@both
@pytest.mark.usefixtures("small_chunks")
def test_a_part_of_which_a_file_is_missing_is_not_written(tmp_path: Path, version: str) -> None:
    canvas = lay_out(tmp_path / "a", blank(130, 110), version, 64)
    fill(canvas, noise(130, 110, dtype=np.float32))
    parts = list(list_parts(canvas, 0))
    chunks = sorted(f for f in (canvas.folder / "0").rglob("*") if f.is_file())
    chunks = [f for f in chunks if f.name not in ("zarr.json", ".zarray", ".zattrs")]
    for chunk in chunks:
        content = chunk.read_bytes()
        chunk.unlink()
        assert sum(not is_written(canvas, part) for part in parts) == 1
        chunk.write_bytes(b"")  # what is left of it where the power failed
        assert sum(not is_written(canvas, part) for part in parts) == 1
        chunk.write_bytes(content)
    assert all(is_written(canvas, part) for part in parts)


@both
@pytest.mark.parametrize("shape", [(133, 97), (1, 1), (32, 33), (257, 1)])
@pytest.mark.usefixtures("small_chunks")
def test_levels_are_means_of_blocks(tmp_path: Path, version: str, shape: tuple[int, int]) -> None:
    pixels = noise(3, *shape, dtype=np.float32)
    canvas = lay_out(tmp_path / "a", blank(3, *shape, axes="cyx"), version, 64)
    fill(canvas, pixels)
    assert max(canvas.levels[-1].shape[-2:]) <= 32
    assert all(max(level.shape[-2:]) > 32 for level in canvas.levels[:-1])
    for finer, level in zip(canvas.levels, canvas.levels[1:], strict=False):
        height, width = finer.shape[-2:]
        assert level.shape[-2:] == (-(-height // 2), -(-width // 2))
        whole, halved = finer[:], level[:]
        for y, x in np.ndindex(*halved.shape[1:]):
            block = whole[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            assert halved[:, y, x] == pytest.approx(block.mean(axis=(1, 2)))


CHANNELS = (Channel("DAPI", "#0000ff"), Channel("FITC"))


@both
@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx"])
@pytest.mark.usefixtures("small_chunks")
def test_what_is_written_is_valid_ome_zarr(tmp_path: Path, version: str, axes: str) -> None:
    lengths = {"t": 2, "c": 2, "z": 2, "y": 70, "x": 90}
    shape = tuple(lengths[axis] for axis in axes)
    more: dict[str, Any] = {"channels": CHANNELS} if "c" in axes else {}
    if "z" in axes:
        more |= {"z_step_nm": 400.0, "time_step_s": 3.0}
    image, pixels = blank(*shape, axes=axes, **more), noise(*shape, dtype=np.float32)
    canvas = lay_out(tmp_path / "a.zarr", image, version, 64)
    fill(canvas, pixels)
    finish_canvas(canvas, image, version=version)
    model = open_ome_zarr(zarr.open_group(canvas.folder, mode="r"))
    assert model.ome_zarr_version == version
    for level in canvas.levels:
        assert level.metadata.zarr_format == {"0.4": 2, "0.5": 3}[version]
        if version == "0.5":
            assert level.metadata.dimension_names == tuple(axes)
    require_same_parts(canvas.folder, pixels, axes)
    with open_slide(canvas.folder) as slide:
        assert slide.version == version
        known = vars(slide.image) | {"pixels": None, "name": image.name}
        assert known == vars(image) | {"pixels": None}


@both
def test_the_window_that_is_shown_is_each_channels_own(tmp_path: Path, version: str) -> None:
    image = blank(2, 3, 40, 50, axes="tcyx", channels=(*CHANNELS, Channel("c")))
    pixels = noise(2, 3, 40, 50, dtype=np.float32) * np.array([1, 10, 100])[:, None, None]
    canvas = lay_out(tmp_path / "a.zarr", image, version, 64)
    fill(canvas, pixels.astype(np.float32))
    finish_canvas(canvas, image, version=version)
    attributes: Any = zarr.open_group(canvas.folder, mode="r").attrs.asdict()
    omero = attributes.get("ome", attributes)["omero"]
    for n, channel in enumerate(omero["channels"]):
        window = channel["window"]
        assert (window["min"], window["max"]) == (pixels[:, n].min(), pixels[:, n].max())
        assert window["min"] <= window["start"] < window["end"] <= window["max"]


def test_a_canvas_about_the_same_is_gone_on_with(tmp_path: Path) -> None:
    canvas = lay_out(tmp_path / "a", blank(100, 100), "0.5", 64)
    part = next(list_parts(canvas, 0))
    write_part(canvas, part, np.ones((64, 64), np.float32))
    assert is_written(lay_out(tmp_path / "a", blank(100, 100), "0.5", 64), part)
    assert not is_written(lay_out(tmp_path / "a", blank(100, 100), "0.5", 48), part)
    write_part(canvas := open_canvas(tmp_path / "a"), next(list_parts(canvas, 0)), noise48())
    other = create_canvas(
        tmp_path / "a", blank(100, 100), version="0.5", tile_px=48, about={"made": "anew"}
    )
    assert not is_written(other, next(list_parts(other, 0)))
    assert read_about(tmp_path / "a") == {"made": "anew", "tile_px": 48}


def noise48() -> np.ndarray:
    return noise(48, 48, dtype=np.float32)


def test_a_layout_that_was_broken_off_is_made_anew(tmp_path: Path) -> None:
    canvas = lay_out(tmp_path / "a", blank(100, 100), "0.5", 64)
    write_part(canvas, next(list_parts(canvas, 0)), np.ones((64, 64), np.float32))
    change_json(tmp_path / "a" / "zarr.json", attributes={})
    assert read_about(tmp_path / "a") is None
    again = lay_out(tmp_path / "a", blank(100, 100), "0.5", 64)
    assert not any(is_written(again, part) for part in list_parts(again, 0))


@pytest.mark.parametrize("content", ["", "text", "[]"])
def test_a_layout_whose_metadata_are_damaged_is_made_anew(tmp_path: Path, content: str) -> None:
    lay_out(tmp_path / "a", blank(100, 100), "0.5", 64)
    (tmp_path / "a" / "zarr.json").write_text(content)
    again = lay_out(tmp_path / "a", blank(100, 100), "0.5", 64)
    assert again.levels[0].shape == (100, 100)


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    image = blank(40, 50)
    canvas = lay_out(tmp_path / "a", image, "0.5", 64)
    fill(canvas, noise(40, 50, dtype=np.float32))
    (canvas.folder / "0" / "c" / "0" / "0.123.partial").write_bytes(b"half")
    finish_canvas(canvas, image, version="0.5")
    assert not list(canvas.folder.rglob("*.partial"))


@pytest.mark.parametrize("axes", ["yx", "tcyx"])
@pytest.mark.usefixtures("small_chunks")
def test_a_tiff_holds_all_levels_and_is_the_same_each_time(tmp_path: Path, axes: str) -> None:
    shape = (133, 97) if axes == "yx" else (2, 2, 133, 97)
    more: dict[str, Any] = {"channels": CHANNELS, "time_step_s": 2.0} if "c" in axes else {}
    image, pixels = blank(*shape, axes=axes, **more), noise(*shape, dtype=np.float32)
    canvas = lay_out(tmp_path / "a", image, "0.5", 64)
    fill(canvas, pixels)
    for name in ("a.tif", "b.tif"):
        write_tiff(canvas, image, tmp_path / name)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_bigtiff
        (series,) = tif.series
        assert len(series.levels) == len(canvas.levels) == 4
        for stored, level in zip(series.levels, canvas.levels, strict=True):
            assert np.array_equal(stored.asarray(), level[:])
    back = read_image(tmp_path / "a.tif")
    known = vars(back) | {"pixels": None, "sha256": None, "name": "image"}
    assert known == vars(image) | {"pixels": None}
    require_same_parts(tmp_path / "a.tif", pixels, axes)


@pytest.mark.usefixtures("small_chunks")
def test_an_overview_is_the_first_frame_and_the_brightest_in_z(tmp_path: Path) -> None:
    image = blank(2, 3, 4, 60, 50, axes="tczyx", channels=(*CHANNELS, Channel("c")))
    pixels = noise(2, 3, 4, 60, 50, dtype=np.float32)
    canvas = lay_out(tmp_path / "a", image, "0.5", 64)
    fill(canvas, pixels)
    assert np.array_equal(read_overview(canvas, image, most_px=60), pixels[0].max(axis=1))
    assert read_overview(canvas, image, most_px=59).shape == (3, 30, 25)


def test_a_slide_lets_go_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(40, 50), **TILES, **ZLIB)
    with open_slide(path) as slide:
        slide.read((), slice(0, 40), slice(0, 50))
    with pytest.raises(ImageError):
        slide.read((), slice(0, 40), slice(0, 50))


def test_what_was_broken_off_is_not_gone_on_with_for_another_image(tmp_path: Path) -> None:
    def break_off(part: Part) -> np.ndarray:
        if part.x.start:
            raise KeyboardInterrupt
        return np.ones((part.y.stop - part.y.start, part.x.stop - part.x.start), np.uint8)

    def make(part: Part) -> np.ndarray:
        return np.full((part.y.stop - part.y.start, part.x.stop - part.x.start), 2, np.uint8)

    small, large = (Image(stand_in((n, n), np.uint8), "yx", (30.0, 30.0)) for n in (64, 96))
    for first, second in ((small, large), (large, small)):
        out = tmp_path / f"{second.pixels.shape[0]}.zarr"
        with pytest.raises(KeyboardInterrupt):
            write_slide(first, out, break_off, version="0.5", tile_px=32)
        write_slide(second, out, make, version="0.5", tile_px=32)
        with open_slide(out) as slide:
            assert slide.image.pixels.shape == second.pixels.shape
            everything = slice(0, second.pixels.shape[0])
            assert (slide.read((), everything, everything) == 2).all()
