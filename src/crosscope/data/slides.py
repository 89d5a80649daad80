"""Images too large for the memory: read part by part, written chunk by chunk.

OME-Zarr (0.4, 0.5) and TIFF (BigTIFF, pyramids) come in; OME-Zarr goes out, with its pyramid, and
becomes a BigTIFF where that is wanted. A part is written by whole chunks, in 0.5 by whole shards,
each once and in one piece: several processes may write at the same time, and a chunk that is there
is complete.
"""

import itertools
import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from jaxtyping import Num

from crosscope.data.cores import count_cores
from crosscope.data.errors import ImageError
from crosscope.data.files import flush, take_place, unfinished_folder
from crosscope.data.images import (
    ZLIB,
    Image,
    Said,
    damage_is_an_error,
    make_image,
    ome_attributes,
    one_kind_of_error,
    others_of,
    read_said,
    require_file,
    require_pages,
)
from crosscope.data.omezarr import VERSIONS, make_multiscale, parse_multiscale

LARGE_PX = 2**26
"""Pixels of an image from which a TIFF, too, is done part by part."""
CHUNK_PX = 512
"""Side of a chunk, where tiles are a multiple of it: what viewers load at once."""
_MOST_CHUNK_BYTES = 2**30
# what turns chunks into bytes; not "pickle" and the like, which can execute what they read
_CODECS = {"blosc", "bytes", "crc32c", "delta", "gzip", "lz4", "lzma", "sharding_indexed"}
_CODECS |= {"shuffle", "transpose", "zlib", "zstd", "bz2"}
_SAVE_TILED = "Save it in tiles, as a pyramidal OME-TIFF or as OME-Zarr"

Place = tuple[int, ...]
"""Which plane: an index for each axis before y and x."""


@dataclass(frozen=True, eq=False)
class Slide:
    """An image that stays on the disk.

    Attributes
    ----------
    image : Image
        What is known of it. Its pixels stand in: of the true shape and type, all 0, no memory.
    version : str or None
        Of OME-Zarr; None for a TIFF.
    read : callable
        (place, y, x) -> grey values, y x: a part of one plane, within its borders.
    close : callable
        Lets go of the file; `with` does that, too.
    """

    image: Image
    version: str | None
    read: Callable[[Place, slice, slice], Num[np.ndarray, "_y _x"]]
    close: Callable[[], None]

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_zarr(path: Path) -> bool:
    """Tell whether a path names an OME-Zarr: by its suffix, or as a folder that holds one."""
    known = ("zarr.json", ".zgroup", ".zattrs")
    return path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in known)


def is_slide(path: Path) -> bool:
    """Tell whether an image is to be done part by part: an OME-Zarr, or a large TIFF."""
    if is_zarr(path):
        return True
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return False
    try:
        with open_slide(path) as slide:
            return slide.image.pixels.size >= LARGE_PX
    except ImageError:  # of types that only the whole can be converted from, or damaged
        return False


def open_slide(path: Path) -> Slide:
    """Open an OME-Zarr or a TIFF, the first image of it; nothing but its metadata is read.

    Raises
    ------
    ImageError
        As `read_image`; or pixels that are not uint8, uint16 or float32, chunks above 1 GiB, or
        compressed by what may execute code.
    """
    with one_kind_of_error(path):
        if is_zarr(path):
            return _open_zarr(path)
        require_file(path)
        if path.suffix.lower() == ".nd2":
            reason = "is a Nikon file, of which no parts can be read"
            raise ImageError(path, reason, "Save it as OME-TIFF or OME-Zarr")
        return _open_tiff(path)


def slide_of(image: Image) -> Slide:
    """Return an image in memory as what is read part by part."""

    def read(place: Place, y: slice, x: slice) -> Num[np.ndarray, "_y _x"]:
        at: tuple[Any, ...] = (*place, y, x)
        part: Num[np.ndarray, "_y _x"] = image.pixels[at]
        return part

    known = image.with_pixels(stand_in(image.pixels.shape, image.pixels.dtype))
    return Slide(image=known, version=None, read=read, close=lambda: None)


def stand_in(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of this shape and type that takes no memory: all 0, read-only."""
    return np.broadcast_to(np.zeros((), dtype), shape)


# --- OME-Zarr in ----------------------------------------------------------------------------------


def _open_zarr(path: Path) -> Slide:
    if not path.is_dir():
        what = "is a file, not the folder of an OME-Zarr" if path.exists() else "does not exist"
        raise ImageError(path, what, "Check the name")
    try:
        group = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        reason = "is a folder, but no OME-Zarr image (no group with metadata)"
        raise ImageError(path, reason, "Name the folder that ends in .zarr") from error
    known = parse_multiscale(path, group.attrs.asdict())
    array = group[known.dataset]
    if not isinstance(array, zarr.Array) or array.ndim != len(known.axes):
        reason = f"its metadata name {len(known.axes)} axes, its pixels have others"
        raise ImageError(path, reason, "Write it anew")
    _require_safe(path, array)
    return _make_slide(
        path, known.said, known.axes, array, lambda at: array[at], version=known.version
    )


def _require_safe(path: Path, array: "zarr.Array[Any]") -> None:
    """Refuse chunks that the memory can't hold, and codecs that may execute what they decode."""
    if math.prod(array.chunks) * array.dtype.itemsize > _MOST_CHUNK_BYTES:
        reason = f"has chunks of {array.chunks} pixels, more than 1 GiB"
        raise ImageError(path, reason, "Write it anew with smaller chunks")
    unknown = sorted(set(_codecs_of(array.metadata.to_dict())) - _CODECS)
    if unknown:
        reason = f"its pixels are coded by {', '.join(unknown)}, which is not read"
        raise ImageError(path, reason, "Write it anew with zstd or blosc")


def _codecs_of(said: Any) -> Iterator[str]:
    """Yield the names of all codecs in an array's metadata, those within shards too."""
    if isinstance(said, Mapping):
        for key, value in said.items():
            if key in ("codecs", "index_codecs", "filters", "compressor"):
                for codec in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(codec, Mapping):
                        name = str(codec.get("name", codec.get("id")))
                        yield name.removeprefix("numcodecs.")
                        yield from _codecs_of(codec.get("configuration"))


# --- TIFF in --------------------------------------------------------------------------------------


def _open_tiff(path: Path) -> Slide:
    tif = tifffile.TiffFile(path, _multifile=False)
    try:
        with damage_is_an_error(path):
            require_pages(path, tif)
            said = read_said(path, tif, 0, others_of(tif))
            series = tif.series[0]
            stored = zarr.open(series.aszarr(level=0), mode="r")
        if isinstance(stored, zarr.Group):
            stored = stored["0"]
        if not isinstance(stored, zarr.Array):
            raise ImageError(path, "is not laid out as one image", _SAVE_TILED)
        get = stored.__getitem__ if series.keyframe.is_tiled else _rows(stored)
        if series.dataoffset is not None:
            get = _contiguous(path, tif, series)
        else:
            _require_safe(path, stored)
        return _make_slide(path, said, series.axes.lower(), series, get, close=tif.close)
    except BaseException:
        tif.close()
        raise


def _contiguous(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Any:
    """Read from an uncompressed file; mapped anew for each part, so that no memory is held."""
    dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
    mapped = partial(np.memmap, path, dtype, "r", series.dataoffset, series.shape)
    return lambda at: np.array(mapped()[at])


def _rows(stored: Any) -> Callable[[tuple[Any, ...]], npt.NDArray[Any]]:
    """Read whole rows, as strips hold them, and keep the last: parts side by side share them."""

    @lru_cache(maxsize=1)
    def rows(place: tuple[Any, ...], start: int, stop: int) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = stored[(*place, slice(start, stop), slice(None))]
        return found

    return lambda at: rows(at[:-2], at[-2].start, at[-2].stop)[:, at[-1]]


# --- both -----------------------------------------------------------------------------------------


def _make_slide(
    path: Path,
    said: Said,
    axes: str,
    stored: Any,
    get: Callable[[tuple[Any, ...]], Any],
    *,
    version: str | None = None,
    close: Callable[[], None] = lambda: None,
) -> Slide:
    dtype = np.dtype(stored.dtype).newbyteorder("=")
    if dtype not in (np.uint8, np.uint16, np.float32):
        reason = f"has {dtype} pixels, which can't be read part by part"
        raise ImageError(path, reason, "Save it as uint8, uint16 or float32")
    image = make_image(path, stand_in(stored.shape, dtype), axes, said)
    # a single unnamed axis is taken as z
    named = [axis if axis in "tczyx" else "z" for axis in axes]

    def read(place: Place, y: slice, x: slice) -> Num[np.ndarray, "_y _x"]:
        at: dict[str, Any] = dict(zip(image.axes[:-2], place, strict=True)) | {"y": y, "x": x}
        with one_kind_of_error(path), damage_is_an_error(path):
            found = np.asarray(get(tuple(at.get(axis, 0) for axis in named)), dtype)
        return found if named.index("y") < named.index("x") else found.T

    return Slide(image, version, read, close)


# --- out ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Canvas:
    """An OME-Zarr while it is written.

    Attributes
    ----------
    folder : Path
    levels : tuple of zarr.Array
        Full resolution first, each next of half the pixels along y and x.
    tile_px : int
        Side of the parts that are written; those at the right and lower border are smaller.
    """

    folder: Path
    levels: tuple[Any, ...]
    tile_px: int


def create_canvas(
    folder: Path,
    image: Image,
    *,
    version: str,
    tile_px: int,
    about: Mapping[str, Any],
    compressed: bool = True,
) -> Canvas:
    """Lay out an OME-Zarr for an image, or go on with the one that is there and about the same.

    Parameters
    ----------
    folder : Path
        Exists. What it holds is kept where `about` is as it was, else nothing of it.
    image : Image
        float32 or integers; its pixels stand in.
    version : str
        "0.4" or "0.5"; 0.5 has one shard a tile.
    tile_px : int
        A multiple of 16. A chunk is `CHUNK_PX` wide where this is a multiple, else as wide as this.
    compressed : bool
        Zstd; not worth its time for what is copied and removed.
    about : mapping
        Kept in the attributes as "crosscope": what the pixels are made from, as JSON.
    """
    wanted = {**about, "tile_px": tile_px}
    if read_about(folder) == wanted:
        return open_canvas(folder)
    zarr_format: Any = VERSIONS[version]
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    chunk_px = CHUNK_PX if tile_px % CHUNK_PX == 0 else tile_px
    shape = image.pixels.shape
    leading = (1,) * (len(shape) - 2)
    level = 0
    while True:
        group.create_array(
            str(level),
            shape=shape,
            dtype=image.pixels.dtype,
            chunks=(*leading, chunk_px, chunk_px),
            shards=(*leading, tile_px, tile_px) if version == "0.5" else None,
            compressors="auto" if compressed else None,
            chunk_key_encoding={"name": "v2", "separator": "/"} if version == "0.4" else None,
            dimension_names=list(image.axes) if version == "0.5" else None,
            fill_value=0,
        )
        if max(shape[-2:]) <= CHUNK_PX:
            break
        shape = (*shape[:-2], *(-(-n // 2) for n in shape[-2:]))
        level += 1
    group.attrs["crosscope"] = wanted  # last: without it the layout is made anew
    return open_canvas(folder)


def read_about(folder: Path) -> Mapping[str, Any] | None:
    """Return what a canvas that was laid out here is about; None where there is none."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        about: Any = zarr.open_group(folder, mode="r").attrs["crosscope"]
        return about
    return None


def open_canvas(folder: Path) -> Canvas:
    """Open what `create_canvas` laid out, in another process, say."""
    group = zarr.open_group(folder, mode="r+")
    names = sorted(int(name) for name in group.array_keys())
    # a chunk that is all 0 is a file too: what is there is done
    levels = [group[str(name)].with_config({"write_empty_chunks": True}) for name in names]  # type: ignore[union-attr]
    return Canvas(folder, tuple(levels), int(group.attrs["crosscope"]["tile_px"]))  # type: ignore[index, call-overload, arg-type]


@dataclass(frozen=True)
class Part:
    """A tile of a level of a canvas: which plane, and where. Pixels of that level."""

    level: int
    place: Place
    y: slice
    x: slice


def list_parts(canvas: Canvas, level: int) -> Iterator[Part]:
    """Yield the parts of one level, plane by plane and row by row."""
    return cut_parts(canvas.levels[level].shape, canvas.tile_px, level=level)


def cut_parts(shape: tuple[int, ...], tile_px: int, *, level: int = 0) -> Iterator[Part]:
    """Yield the parts of an image of this shape, plane by plane and row by row."""
    *leading, height, width = shape
    for place in np.ndindex(*leading):
        for y in range(0, height, tile_px):
            for x in range(0, width, tile_px):
                rows = slice(y, min(y + tile_px, height))
                columns = slice(x, min(x + tile_px, width))
                yield Part(level, place, rows, columns)


def is_written(canvas: Canvas, part: Part) -> bool:
    """Tell whether a part is there, whole."""
    array = canvas.levels[part.level]
    outer_px = (array.shards or array.chunks)[-1]
    cells = (range(s.start // outer_px, -(-s.stop // outer_px)) for s in (part.y, part.x))
    rows, columns = map(list, cells)
    folder = canvas.folder / str(part.level)
    names = (
        array.metadata.encode_chunk_key((*part.place, row, column))
        for row in rows
        for column in columns
    )
    return all(_holds_bytes(folder / name) for name in names)


def _holds_bytes(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return file.stat().st_size > 0  # where the power failed a file may be empty
    return False


def write_part(canvas: Canvas, part: Part, pixels: Num[np.ndarray, "y x"]) -> None:
    """Write a part by whole chunks."""
    canvas.levels[part.level][(*part.place, part.y, part.x)] = pixels


def reduce_part(canvas: Canvas, part: Part) -> None:
    """Write a part of a coarser level: means of 2 x 2 pixels of the level before.

    It is read by a quarter, one part of that level, at a time: less memory.
    """
    finer, step = canvas.levels[part.level - 1], canvas.tile_px // 2
    height, width = finer.shape[-2:]
    top, left = part.y.start, part.x.start
    pixels = np.empty((part.y.stop - top, part.x.stop - left), finer.dtype)
    for y, x in itertools.product(range(top, part.y.stop, step), range(left, part.x.stop, step)):
        rows = slice(2 * y, min(2 * (y + step), height))
        columns = slice(2 * x, min(2 * (x + step), width))
        means = _mean_of_quads(finer[(*part.place, rows, columns)])
        v, u = means.shape
        pixels[y - top : y - top + v, x - left : x - left + u] = means
    write_part(canvas, part, pixels)


def _mean_of_quads(pixels: Num[np.ndarray, "y x"]) -> Num[np.ndarray, "v u"]:
    """Return the means of 2 x 2 pixels; of an odd side the last row or column is repeated."""
    odd = [(0, n % 2) for n in pixels.shape]
    quads = np.pad(pixels, odd, mode="edge")
    v, u = (n // 2 for n in quads.shape)
    means = quads.reshape(v, 2, u, 2).mean(axis=(1, 3), dtype=np.float64)
    return means.astype(pixels.dtype)


def finish_canvas(canvas: Canvas, image: Image, *, version: str) -> None:
    """Write the metadata that make an OME-Zarr of it, and remove what killed writers left."""
    coarse = canvas.levels[-1]
    seen: dict[int, list[tuple[float, ...]]] = {}
    for place in np.ndindex(*coarse.shape[:-2]):
        limits = np.percentile(coarse[place], (0, 100, 1, 99.8))
        seen.setdefault(_channel_at(image, place), []).append(tuple(limits.tolist()))
    shown = [
        (min(lows), max(highs), min(starts), max(ends))
        for lows, highs, starts, ends in (zip(*seen[n], strict=True) for n in sorted(seen))
    ]
    group = zarr.open_group(canvas.folder, mode="r+")
    multiscale = make_multiscale(image, version=version, levels=len(canvas.levels), shown=shown)
    group.attrs.update(multiscale)
    for rest in canvas.folder.rglob("*.partial"):
        rest.unlink()


def read_overview(canvas: Canvas, image: Image, *, most_px: int) -> Num[np.ndarray, "c y x"]:
    """Return each channel's first frame, the brightest in z, at most this wide and high."""
    level = next(array for array in canvas.levels if max(array.shape[-2:]) <= most_px)
    found: dict[int, npt.NDArray[Any]] = {}
    for place in np.ndindex(*level.shape[:-2]):
        if image.axes.startswith("t") and place[0]:
            break
        channel, plane = _channel_at(image, place), level[place]
        found[channel] = np.maximum(found.get(channel, plane), plane)
    return np.stack([found[channel] for channel in sorted(found)])


def _channel_at(image: Image, place: Place) -> int:
    return dict(zip(image.axes[:-2], place, strict=True)).get("c", 0)


def deliver(canvas: Canvas, image: Image, output: Path, *, version: str) -> None:
    """Finish a canvas and put it, or the BigTIFF made of it, in the place of the output."""
    finish_canvas(canvas, image, version=version)
    made = canvas.folder
    if not is_zarr(output):
        made = canvas.folder.with_name(f"image{output.suffix}")
        write_tiff(canvas, image, made)
        open_slide(made).close()  # a full disk can leave a TIFF without its end
        flush(made)
    take_place(made, output)


def write_slide(
    image: Image,
    output: Path,
    make: Callable[[Part], Num[np.ndarray, "y x"]],
    *,
    version: str,
    tile_px: int,
    overwrite: bool = False,
    watch: Callable[[float], None] = lambda done: None,
) -> None:
    """Write an OME-Zarr or a BigTIFF with its pyramid, making its parts several at a time.

    Parameters
    ----------
    image : Image
        What is said of it; its pixels stand in.
    output : Path
    make : callable
        From a part of the full resolution to its pixels; called by several threads.
    version, tile_px
        As `create_canvas`.
    watch : callable
        Told the part done, 0 to 1.
    """
    needed_bytes = image.pixels.size * image.pixels.dtype.itemsize * (4 / 3)
    with unfinished_folder(output, overwrite=overwrite, needed_bytes=needed_bytes) as folder:
        (folder / "image.zarr").mkdir(exist_ok=True)
        canvas = create_canvas(
            folder / "image.zarr",
            image,
            version=version,
            tile_px=tile_px,
            about={"image": [*image.pixels.shape, str(image.pixels.dtype), image.axes, version]},
            compressed=is_zarr(output),
        )

        def do(part: Part) -> None:
            write_part(canvas, part, make(part))

        with ThreadPoolExecutor(count_cores()) as pool:
            parts = list(list_parts(canvas, 0))
            for n, _ in enumerate(pool.map(do, parts)):
                watch((n + 1) / len(parts))
            for level in range(1, len(canvas.levels)):
                list(pool.map(partial(reduce_part, canvas), list_parts(canvas, level)))
        deliver(canvas, image, output, version=version)


def write_tiff(canvas: Canvas, image: Image, path: Path) -> None:
    """Copy a canvas into one OME-BigTIFF in tiles (zlib), with its pyramid; same bytes each time.

    `path` is replaced; a file that is not complete stays where it fails.
    """
    tile_px = canvas.levels[0].chunks[-1]
    options: dict[str, Any] = {
        "tile": (tile_px, tile_px),
        "compression": "zlib",
        "compressionargs": ZLIB,
        "buffersize": 2**24,  # of tiles that wait to be written
        "photometric": "minisblack",
        "dtype": image.pixels.dtype,
    }
    name = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(read_about(canvas.folder)))
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tif:
        for n, level in enumerate(canvas.levels):
            more: dict[str, Any] = {"subfiletype": 1}
            if n == 0:
                metadata = ome_attributes(image) | {"UUID": f"urn:uuid:{name}"}
                more = {"subifds": len(canvas.levels) - 1, "metadata": metadata}
            tif.write(_tiles(level, tile_px), shape=level.shape, **options, **more)


def _tiles(level: Any, tile_px: int) -> Iterator[npt.NDArray[Any]]:
    """Yield tiles in the order of a TIFF, those at the border filled up with 0."""
    *leading, height, width = level.shape
    for place in np.ndindex(*leading):
        for y in range(0, height, tile_px):
            for x in range(0, width, tile_px):
                part = level[(*place, slice(y, y + tile_px), slice(x, x + tile_px))]
                missing = [(0, tile_px - n) for n in part.shape]
                yield np.pad(part, missing)
