"""File -> image: pixels that know their axes, their size in nm and what was assumed of them.

TIFF (plain, ImageJ, OME, BigTIFF) and Nikon ND2 come in, OME-TIFF goes out. Grey values are never
rescaled, wrapped or rounded without a word; where a file is silent, the image says what was
assumed. tifffile answers damage with a line in its log and zeros for pixels: here it is an error.

OME-TIFF: Goldberg et al., Genome Biology 6, R47 (2005), https://doi.org/10.1186/gb-2005-6-5-r47
"""

import importlib
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from defusedxml import ElementTree

from crosscope.data.errors import ImageError, OutputError
from crosscope.data.files import sha256, writing

SUFFIXES = (".tif", ".tiff", ".nd2")

NM_PER_UNIT = {"m": 1e9, "cm": 1e7, "mm": 1e6, "nm": 1.0, "å": 0.1, "pm": 1e-3}
NM_PER_UNIT |= dict.fromkeys(("in", "inch", "inches"), 2.54e7)
NM_PER_UNIT |= dict.fromkeys(("um", "µm", "micron", "microns", "micrometer", "micrometre"), 1e3)
NM_PER_UNIT |= {"meter": 1e9, "millimeter": 1e6, "nanometer": 1.0, "angstrom": 0.1}
S_PER_UNIT = {"h": 3600.0, "min": 60.0, "s": 1.0, "sec": 1.0, "ms": 1e-3, "µs": 1e-6}
S_PER_UNIT |= {"hour": 3600.0, "minute": 60.0, "second": 1.0, "millisecond": 1e-3}
# Below, ImageJ's tags that have overflowed; above, a screen's or a printer's dots (72 to 2400 per
# inch), which many programs write where they know no pixel size.
_PIXEL_NM_FROM, _PIXEL_NM_TO = 1.0, 1e4
ZLIB = {"level": 1}  # level 6 takes twice as long to make noise a twentieth smaller
_MOST_BYTES = 64 * 2**30
# Deflate cannot shrink data more than 1032 times (zlib's technical details).
_BOMB_BYTES, _BOMB_RATIO = 2**30, 1100

_PLACEHOLDER = "The pixel size of exactly 1 without a unit is a placeholder: it is taken as unknown"
_SAVE_AGAIN = "Copy it anew from the microscope, or open it in Fiji and save it as TIFF"


@dataclass(frozen=True)
class Channel:
    """A channel's name and its colour for display, "#rrggbb", or None where the file is silent."""

    name: str
    colour: str | None = None


@dataclass(frozen=True, eq=False)
class Image:
    """Pixels, and what they mean.

    Attributes
    ----------
    pixels : (...) uint8, uint16 or float32
        Grey values as the camera gave them; never rescaled.
    axes : str
        One letter for each dimension of `pixels`, in the order t c z y x; always ends with "yx".
    pixel_size_nm : (y, x) floats, or None
        None where the file says nothing.
    z_step_nm, time_step_s : float or None
    channels : tuple of Channel
        As many as the c axis is long; empty where there is no c axis and no name is known.
    name : str
        For messages: the file's name.
    sha256 : str or None
        Of the file that the image was read from.
    assumed : tuple of str
        What the reader had to assume because the file did not say, one sentence each.
    position_yx_nm : (y, x) floats, or None
        Where the stage stood when the image was taken, in the stage's own axes, which may be
        mirrored or swapped against the image's: `stitch` finds out. Files don't agree on which
        point of the field this is, but it is the same in all fields of a scan. A crop keeps it.
        None where the file says nothing, or no length.
    note : str or None
        Written into a TIFF as the image's description; not read back.
    """

    pixels: npt.NDArray[Any]
    axes: str
    pixel_size_nm: tuple[float, float] | None
    z_step_nm: float | None = None
    time_step_s: float | None = None
    channels: tuple[Channel, ...] = ()
    name: str = "image"
    sha256: str | None = None
    assumed: tuple[str, ...] = ()
    position_yx_nm: tuple[float, float] | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        assert self.pixels.ndim == len(self.axes), (self.pixels.shape, self.axes)
        assert self.axes.endswith("yx"), self.axes

    def with_pixels(self, pixels: npt.NDArray[Any], **changes: Any) -> "Image":
        """Return the same image with other pixels (and whatever else is named)."""
        return replace(self, pixels=pixels, **changes)


def read_image(path: Path | str) -> Image:
    """Read a TIFF, ImageJ TIFF, OME-TIFF, BigTIFF or ND2 file, the first image series of it.

    Parameters
    ----------
    path : Path or str

    Returns
    -------
    Image
        Axes in the order t c z y x, those of length 1 dropped except y and x; grey values as in
        the file. Non-finite pixels are let through: see `require_finite`. A pixel size outside
        1 nm to 10 µm is taken as unknown, and `assumed` says so.

    Raises
    ------
    ImageError
        The file is missing, damaged, in colour, of values that uint8, uint16 or float32 cannot
        hold, of unnamed axes, or declares more pixels than it, or the memory, can hold.

    Notes
    -----
    An uncompressed or LZW file does not notice a flipped byte: what comes from afar is compared
    by its `sha256`.
    """
    return _read_file(Path(path), all_of_it=False)[0]


def read_tiles(path: Path | str) -> list[Image]:
    """Read the fields of a tile scan, each with the position of the stage.

    Parameters
    ----------
    path : Path or str
        A folder of image files, one field each; or one OME-TIFF or ND2 file that holds several.

    Returns
    -------
    list of Image
        At least two, in the order of the files' names or of the file. Fields of one file are
        called "scan.ome.tif, image 1", and have the same `sha256`.

    Raises
    ------
    ImageError
        As for `read_image`; or there is only one field, or one without a position that is a
        length.
    """
    path = Path(path)
    if path.is_dir():
        tiles = [read_image(file) for file in list_images(path)]
    else:
        tiles = _read_file(path, all_of_it=True)
    if len(tiles) == 1:
        reason = "holds one image, where the fields of a tile scan are needed"
        raise ImageError(path, reason, "Name the folder that holds them all")
    lost = [tile for tile in tiles if tile.position_yx_nm is None]
    if lost:
        said = lost[0].assumed[-1:] if "stage" in "".join(lost[0].assumed[-1:]) else ()
        reason = f"{len(lost)} of {len(tiles)} images have no stage position ({lost[0].name})"
        remedy = "Export them as OME-TIFF with PositionX and PositionY in µm"
        raise ImageError(path, ": ".join((reason, *said)), remedy)
    return tiles


def _read_file(path: Path, *, all_of_it: bool) -> list[Image]:
    """Read the first image of a file, or all."""
    with one_kind_of_error(path):
        require_file(path)
        read = _read_nd2 if path.suffix.lower() == ".nd2" else _read_tiff
        images = read(path, all_of_it=all_of_it)
        digest = sha256(path)
        return [
            image.with_pixels(np.ascontiguousarray(image.pixels), sha256=digest) for image in images
        ]


def write_image(image: Image, path: Path | str, *, overwrite: bool = False) -> None:
    """Write an image as OME-TIFF (zlib; BigTIFF above 2 GiB), complete or not at all.

    Axes, pixel size, z and time steps, channels and the stage's position come back exactly by
    `read_image`.

    Parameters
    ----------
    image : Image
        uint8, uint16 or float32.
    path : Path or str
        Ends in .tif or .tiff.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    ImageError
        The pixels are of another type, or there are none.
    OutputError
        `path` exists, has another suffix, or cannot be written.
    """
    path, pixels = Path(path), image.pixels
    if pixels.dtype not in (np.uint8, np.uint16, np.float32) or pixels.size == 0:
        reason = f"{pixels.size} pixels of {pixels.dtype} cannot be written"
        raise ImageError(image.name, reason, "Convert them to uint8, uint16 or float32")
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(path, "is not the name of a TIFF file", "End it in .ome.tif")
    with writing(path, overwrite=overwrite) as part:
        tifffile.imwrite(
            part,
            pixels,
            bigtiff=pixels.nbytes > 2 * 2**30,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            compressionargs=ZLIB,
            metadata=ome_attributes(image),
        )
        _require_written(part, image, path)


def require_finite(image: Image) -> None:
    """Raise ImageError where pixels are NaN or infinite, saying how many.

    Parameters
    ----------
    image : Image
    """
    if image.pixels.dtype.kind != "f" or np.isfinite(image.pixels).all():
        return
    nan, infinite = int(np.isnan(image.pixels).sum()), int(np.isinf(image.pixels).sum())
    reason = f"{nan} pixels are NaN and {infinite} infinite, of {image.pixels.size}"
    raise ImageError(image.name, reason, "Crop them away or fill them in before use")


def select_channel(image: Image, *, channel: str | None = None) -> Image:
    """Return the image of one channel, its other axes kept.

    Parameters
    ----------
    image : Image
    channel : str, optional
        Needed where there are several; "TxRed" also finds "TXRED" where that is the only one.

    Returns
    -------
    Image
        Without c axis; `channels` holds the chosen channel, if it has a name.

    Raises
    ------
    ImageError
        Several channels and none chosen, or the channel is not there once.
    """
    names = [known.name for known in image.channels]
    count = image.pixels.shape[image.axes.index("c")] if "c" in image.axes else 1
    if channel is None and count > 1:
        reason = f"has several channels ({describe_axes(image)})"
        raise ImageError(image.name, reason, "Name one by --channel")
    if channel is not None and channel not in names:
        alike = [name for name in names if name.casefold() == channel.casefold()]
        channel = alike[0] if len(alike) == 1 else channel
    if channel is not None and names.count(channel) != 1:
        reason = f"has no single channel {channel!r} ({describe_axes(image)})"
        raise ImageError(image.name, reason, "Name one of its channels by --channel")
    if "c" not in image.axes:
        return image
    index = 0 if channel is None else names.index(channel)
    pixels = image.pixels[(slice(None),) * image.axes.index("c") + (index,)]
    axes = image.axes.replace("c", "")
    return image.with_pixels(pixels, axes=axes, channels=image.channels[index : index + 1])


def select_plane(image: Image, *, channel: str | None = None) -> Image:
    """Return the one y x plane of an image, or that of a named channel.

    Raises, beside what `select_channel` raises, ImageError where planes of t or z are left.
    """
    plane = select_channel(image, channel=channel)
    if plane.pixels.size != math.prod(plane.pixels.shape[-2:]):
        reason = f"is a stack of planes ({describe_axes(image)}) where one plane is needed"
        raise ImageError(image.name, reason, "Save the plane wanted as an image of its own")
    return plane.with_pixels(plane.pixels.reshape(plane.pixels.shape[-2:]), axes="yx")


def index_of_channel(image: Image, chosen: Image) -> int:
    """Return which channel of an image was chosen; 0 of one that has no name."""
    return image.channels.index(chosen.channels[0]) if chosen.channels else 0


def describe_axes(image: Image) -> str:
    """Return the axes with their lengths, and the channels' names, for messages."""
    lengths = (f"{a}={n}" for a, n in zip(image.axes, image.pixels.shape, strict=True))
    names = ", ".join(known.name for known in image.channels) or "without names"
    return f"axes {' '.join(lengths)}, channels {names}"


def list_images(folder: Path) -> list[Path]:
    """List the image files of a folder in natural order: img2 before img10.

    Parameters
    ----------
    folder : Path
        Not searched any deeper; names that begin with a dot are passed over.

    Raises
    ------
    ImageError
        There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ImageError(folder, "is not a folder", "Check the name")
    images = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not images:
        reason = f"has no images ({', '.join(SUFFIXES)})"
        raise ImageError(folder, reason, "Name the folder that holds the image files themselves")
    return sorted(images, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    # re.split puts text at even and digits at odd places, so that like meets like
    parts = re.split(r"(\d+)", path.name)
    return [int(p) if i % 2 else p.casefold() for i, p in enumerate(parts)], path.name


# --- what a file says of its pixels ---------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What the file says; a channel without a name has the name ""."""

    pixel_size_nm: tuple[float, float] | None = None
    z_step_nm: float | None = None
    time_step_s: float | None = None
    channels: tuple[Channel, ...] = ()
    assumed: tuple[str, ...] = ()
    position_yx_nm: tuple[float, float] | None = None


def make_image(path: Path, pixels: npt.NDArray[Any], axes: str, said: Said) -> Image:
    """Bring pixels into the order t c z y x and say what had to be assumed."""
    assumed = list(said.assumed)
    unnamed = [axis for axis in axes if axis in "qi"]  # tifffile: "other" and "sequence"
    if len(unnamed) == 1 and "z" not in axes:
        axes = axes.replace(unnamed[0], "z")
        count = pixels.shape[axes.index("z")]
        assumed.append(f"The file does not say what its {count} planes are: they are taken as z")
    shape = " x ".join(map(str, pixels.shape))
    if len(set(axes)) < len(axes) or not set("yx") <= set(axes) <= set("tczyx"):
        reason = f"has axes that are not t, c, z, y, x ({axes}: {shape})"
        raise ImageError(path, reason, "Save it from Fiji as a hyperstack with named axes")
    if pixels.size == 0:
        raise ImageError(path, f"has no pixels ({shape})", _SAVE_AGAIN)

    order = [axis for axis in "tczyx" if axis in axes]
    pixels = pixels.transpose([axes.index(axis) for axis in order])
    kept = [a for a, n in zip(order, pixels.shape, strict=True) if a in "yx" or n > 1]
    pixels = pixels.reshape([pixels.shape[order.index(axis)] for axis in kept])
    pixels, conversion = _storable(path, pixels)
    channels, naming = _named(said.channels, pixels.shape[kept.index("c")] if "c" in kept else 1)
    return Image(
        pixels=pixels,
        axes="".join(kept),
        pixel_size_nm=said.pixel_size_nm,
        z_step_nm=said.z_step_nm,
        time_step_s=said.time_step_s,
        channels=channels,
        name=path.name,
        assumed=(*assumed, *naming, *conversion),
        position_yx_nm=said.position_yx_nm,
    )


def _named(channels: tuple[Channel, ...], count: int) -> tuple[tuple[Channel, ...], list[str]]:
    if len(channels) != count:
        channels = (Channel(""),) * count
    if all(channel.name for channel in channels):
        return channels, []
    if count == 1:
        return (), []
    named = [replace(c, name=c.name or f"channel {i + 1}") for i, c in enumerate(channels)]
    names = ", ".join(channel.name for channel in named)
    return tuple(named), [f"The file does not name all its channels: they are called {names}"]


def _storable(path: Path, pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], list[str]]:
    """Keep uint8, uint16 and float32; bring others there only where no value is lost."""
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    dtype = pixels.dtype
    if dtype in (np.uint8, np.uint16, np.float32):
        return pixels, []
    if dtype.kind in "iu":
        low, high = int(pixels.min()), int(pixels.max())
        if low >= 0 and high < 2**16:
            return pixels.astype(np.uint16), [
                f"{dtype} values from {low} to {high} fit uint16: none was changed"
            ]
        if max(-low, high) <= 2**24:  # the whole numbers that float32 holds exactly
            return pixels.astype(np.float32), [
                f"{dtype} values from {low} to {high} fit float32: none was changed"
            ]
        reason = f"its {dtype} values from {low} to {high} fit neither uint16 nor float32"
        raise ImageError(path, reason, "Save it as 16-bit, minding the scaling")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            single = pixels.astype(np.float32)
        if np.array_equal(single, pixels, equal_nan=True):
            return single, [f"{dtype} values fit float32: none was changed"]
        if np.isfinite(pixels).all() and np.abs(pixels).max() < 1e30:
            return single, [f"{dtype} values were rounded to float32 (relative change up to 6e-8)"]
        raise ImageError(path, f"its {dtype} values do not fit float32", "Save it as 32-bit float")
    remedy = "Save it as 8-bit, 16-bit or 32-bit grey values"
    raise ImageError(path, f"has {dtype} pixels, which are not grey values", remedy)


# --- TIFF -----------------------------------------------------------------------------------------


def _read_tiff(path: Path, *, all_of_it: bool) -> list[Image]:
    # _multifile: an OME-TIFF may name other files, which would be opened; this one is to be whole
    with damage_is_an_error(path), tifffile.TiffFile(path, _multifile=False) as tif:
        require_pages(path, tif)
        if not all_of_it:
            return [_series(path, tif, 0, others_of(tif))]
        _require_room(path, sum(series.nbytes for series in tif.series))
        return _numbered([_series(path, tif, n) for n in range(len(tif.series))])


def require_pages(path: Path, tif: tifffile.TiffFile) -> None:
    """Refuse a TIFF without an image, and one whose XML may harm whoever parses it."""
    if not tif.pages:
        raise ImageError(path, "is a TIFF file without an image", _SAVE_AGAIN)
    if "<!DOCTYPE" in tif.pages.first.description:
        reason = "its metadata hold a DOCTYPE, which can harm the reader"
        raise ImageError(path, reason, "Save it from Fiji as TIFF")


def others_of(tif: tifffile.TiffFile) -> tuple[str, ...]:
    """Say that a file holds more images than the first, where it does."""
    count = len(tif.series)
    return () if count == 1 else (_first_of(count),)


def _numbered(images: list[Image]) -> list[Image]:
    """Give the images of one file names of their own."""
    if len(images) == 1:
        return images
    return [replace(i, name=f"{i.name}, image {n + 1}") for n, i in enumerate(images)]


def _series(path: Path, tif: tifffile.TiffFile, n: int, more: tuple[str, ...] = ()) -> Image:
    """Read the n-th image of a file."""
    series = tif.series[n]
    _require_room(path, series.nbytes)
    said = read_said(path, tif, n, more)
    return make_image(path, series.asarray(), series.axes.lower(), said)


def read_said(path: Path, tif: tifffile.TiffFile, n: int, more: tuple[str, ...] = ()) -> Said:
    """Read what is said of the n-th image of a file; refuse what is damaged or not grey."""
    series = tif.series[n]
    if series.is_multifile or (tif.is_ome and series.kind not in ("ome", "mmstack")):
        reason = "its OME-XML does not fit the file: one of a set of files, or damaged"
        raise ImageError(path, reason, "Open the set in Fiji and save it as one TIFF")
    palette = series.keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE
    _require_grey(path, series, palette=palette and not tif.is_imagej)
    _require_no_bomb(path, series.nbytes)
    if series.keyframe.is_tiled:
        _require_room(path, math.prod(series.keyframe.chunks) * series.dtype.itemsize)
    _require_whole(path, series)
    if tif.is_ome:
        said = _said_by_ome(tif.ome_metadata or "", n, len(tif.series))
    elif tif.is_imagej:
        said = _said_by_imagej(tif.imagej_metadata or {}, series)
    else:
        said = _said_by_tags(series.keyframe if n else tif.pages.first)
    if palette:  # ImageJ stores 8-bit grey values shown by a look-up table in this way
        more += ("The file's colour table is for display: its values are taken as grey",)
    if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        more += ("The file displays 0 as white: its values are taken as they are",)
    return replace(said, assumed=(*said.assumed, *more))


def _require_grey(path: Path, series: tifffile.TiffPageSeries, *, palette: bool) -> None:
    page = series.keyframe
    if palette:
        reason = "is a palette picture: its values are places in a colour table"
        raise ImageError(path, reason, "In Fiji: Image > Lookup Tables > Grays, then save")
    if page.samplesperpixel > 1 or page.photometric == tifffile.PHOTOMETRIC.RGB:
        raise _colour_error(path, page.samplesperpixel)


def _colour_error(path: Path, samples: int) -> ImageError:
    reason = f"is a colour picture ({samples} samples in a pixel), not a camera's grey values"
    return ImageError(path, reason, "Split its channels, or export the grey data as 16-bit TIFF")


def _require_whole(path: Path, series: tifffile.TiffPageSeries) -> None:
    """Refuse a file that lacks a part of its pixels: tifffile would fill in zeros."""
    size = path.stat().st_size
    if series.dataoffset is not None:
        whole = series.dataoffset + series.nbytes <= size
    else:
        whole = all(
            page is not None
            and len(page.dataoffsets) == len(page.databytecounts) == math.prod(page.chunked)
            and all(
                start > 0 and count > 0 and start + count <= size
                for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            )
            for page in series.pages
        )
    if not whole:
        raise ImageError(path, "is cut short or damaged: pixels are missing", _SAVE_AGAIN)


def _said_by_ome(xml: str, n: int, count: int) -> Said:
    """Return what is said of the n-th of `count` images."""
    found = ElementTree.fromstring(xml, forbid_dtd=True).iterfind(".//{*}Image/{*}Pixels")
    images = [pixels for pixels in found if pixels.find("{*}TiffData") is not None]
    one_to_one = len(images) == count  # else the file holds a part of what its XML tells of
    pixels = images[n if one_to_one else 0]

    def nm(axis: str) -> float | None:
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")  # the schema's default
        return positive(pixels.get(f"PhysicalSize{axis}"), NM_PER_UNIT.get(_plain(unit)))

    placeholder = nm("X") == nm("Y") == 1e3 and "PhysicalSizeXUnit" not in pixels.attrib
    size_nm, assumed = (
        sane_pixel_size(None, None) if placeholder else sane_pixel_size(nm("Y"), nm("X"))
    )
    position_nm, unplaced = _position_of_ome(pixels) if one_to_one else (None, ())
    return Said(
        pixel_size_nm=size_nm,
        z_step_nm=nm("Z"),
        time_step_s=positive(
            pixels.get("TimeIncrement"),
            S_PER_UNIT.get(_plain(pixels.get("TimeIncrementUnit", "s"))),
        ),
        channels=tuple(
            Channel(channel.get("Name", ""), _colour_of_ome(channel.get("Color")))
            for channel in pixels.iterfind("{*}Channel")
        ),
        assumed=(*((_PLACEHOLDER,) if placeholder else assumed), *unplaced),
        position_yx_nm=position_nm,
    )


def _position_of_ome(pixels: Any) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Return where the stage stood for the first plane, and what is to be said of it."""
    for plane in pixels.iterfind("{*}Plane"):
        said = [plane.get(f"Position{axis}") for axis in "YX"]
        if None in said:
            continue
        units = [plane.get(f"Position{axis}Unit", "reference frame") for axis in "YX"]
        factors = [NM_PER_UNIT.get(_plain(unit)) for unit in units]
        y_nm, x_nm = (
            math.nan if factor is None else float(value) * factor
            for value, factor in zip(said, factors, strict=True)
        )
        if math.isfinite(y_nm) and math.isfinite(x_nm):
            return (y_nm, x_nm), ()
        told = ", ".join(f"{value} {unit}" for value, unit in zip(said, units, strict=True))
        return None, (f"The stage position in the file ({told}) is no length: it is unknown",)
    return None, ()


def _said_by_imagej(said: dict[str, Any], series: tifffile.TiffPageSeries) -> Said:
    unit = str(said.get("unit", ""))
    y, x = (_unit_per_px(series.keyframe, tag) for tag in ("YResolution", "XResolution"))

    def nm(axis: str, size: float | None) -> float | None:
        return positive(size, NM_PER_UNIT.get(_plain(str(said.get(f"{axis}unit", unit)))))

    size_nm, assumed = sane_pixel_size(nm("y", y), nm("x", x))
    if x == 1 and not unit.strip():
        assumed = (_PLACEHOLDER,)
    elif x and nm("x", x) is None:
        told = f"{x:g} {unit.strip() or 'of no unit'}"
        assumed = (f"The pixel size in the file, {told}, is not a length: it is unknown",)
    luts, labels = said.get("LUTs", []), said.get("Labels", [])
    channels = said.get("channels", 1)
    names = labels if isinstance(labels, list) and len(labels) == channels > 1 else [""] * channels
    colours = ["#" + bytes(lut[:, -1].tolist()).hex() for lut in luts]
    known = colours if len(colours) == channels else [None] * channels
    return Said(
        pixel_size_nm=size_nm,
        z_step_nm=nm("z", said.get("spacing")),
        time_step_s=positive(
            said.get("finterval"), S_PER_UNIT.get(_plain(str(said.get("tunit", "s"))))
        ),
        channels=tuple(map(Channel, names, known)),
        assumed=assumed,
    )


def _said_by_tags(page: tifffile.TiffPage) -> Said:
    nm_per_unit = {2: NM_PER_UNIT["inch"], 3: NM_PER_UNIT["cm"]}.get(page.resolutionunit)
    y_nm, x_nm = (
        positive(_unit_per_px(page, tag), nm_per_unit) for tag in ("YResolution", "XResolution")
    )
    size_nm, assumed = sane_pixel_size(y_nm, x_nm)
    return Said(size_nm, assumed=assumed)


def _unit_per_px(page: tifffile.TiffPage, tag: str) -> float | None:
    pixels, units = page.tags.valueof(tag, (0, 0))
    return units / pixels if pixels > 0 else None


def sane_pixel_size(
    y_nm: float | None, x_nm: float | None
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Return the pixel size and what is to be said of it."""
    if y_nm is None or x_nm is None:
        return None, ("The file says nothing of the pixel size: it is unknown",)
    if not all(_PIXEL_NM_FROM <= size < _PIXEL_NM_TO for size in (y_nm, x_nm)):
        size = f"{y_nm:.4g} x {x_nm:.4g} nm"
        return None, (f"The pixel size in the file, {size}, is no microscope's: it is unknown",)
    if y_nm == x_nm == 1e3:
        return (y_nm, x_nm), ("The pixel size of exactly 1 µm may be a placeholder: check it",)
    return (y_nm, x_nm), ()


def positive(value: str | float | None, factor: float | None) -> float | None:
    """Return value x factor where both are known and make sense, else None."""
    if value is None or factor is None:
        return None
    number = float(value) * factor
    return number if math.isfinite(number) and number > 0 else None


def _plain(unit: str) -> str:
    # ImageJ escapes the micro sign; Unicode has it twice
    return unit.strip().lower().replace("\\u00b5", "µ").replace("μ", "µ")


def _colour_of_ome(colour: str | None) -> str | None:
    # a signed 32-bit integer, RGBA from the highest byte
    return None if colour is None else f"#{(int(colour) & 0xFFFFFFFF) >> 8:06x}"


def ome_attributes(image: Image) -> dict[str, Any]:
    """Return what tifffile is to write into the OME-XML; lengths in nm, so that none is rounded."""
    said: dict[str, Any] = {"axes": image.axes.upper(), "Name": _printable(image.name)}
    if image.note is not None:
        said["Description"] = _printable(image.note)
    if image.pixel_size_nm is not None:
        y_nm, x_nm = image.pixel_size_nm
        said |= {"PhysicalSizeY": y_nm, "PhysicalSizeYUnit": "nm"}
        said |= {"PhysicalSizeX": x_nm, "PhysicalSizeXUnit": "nm"}
    if image.z_step_nm is not None:
        said |= {"PhysicalSizeZ": image.z_step_nm, "PhysicalSizeZUnit": "nm"}
    if image.time_step_s is not None:
        said |= {"TimeIncrement": image.time_step_s, "TimeIncrementUnit": "s"}
    if image.channels:
        said["Channel"] = [_ome_channel(channel) for channel in image.channels]
    if image.position_yx_nm is not None:
        planes = math.prod(image.pixels.shape[:-2])
        said["Plane"] = {}
        for axis, position_nm in zip("YX", image.position_yx_nm, strict=True):
            said["Plane"] |= {f"Position{axis}": [position_nm] * planes}
            said["Plane"] |= {f"Position{axis}Unit": ["nm"] * planes}
    return said


def _ome_channel(channel: Channel) -> dict[str, Any]:
    if channel.colour is None:
        return {"Name": _printable(channel.name)}
    rgba = bytes.fromhex(channel.colour.removeprefix("#") + "ff")
    return {
        "Name": _printable(channel.name),
        "Color": int.from_bytes(rgba, "big", signed=True),
    }


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())  # XML has no control letters


def _require_written(part: Path, image: Image, path: Path) -> None:
    """Read back what was written: a full disk can leave a TIFF that opens as an empty array."""
    try:
        back = read_image(part).pixels
    except ImageError as error:
        reason = f"could not be read back ({error.reason})"
        raise OutputError(path, reason, "Choose a folder with free space") from error
    same = back.dtype == image.pixels.dtype and back.size == image.pixels.size
    if not same or not np.array_equal(
        back.reshape(image.pixels.shape), image.pixels, equal_nan=True
    ):
        raise OutputError(path, "was not written as it is", "Choose another folder")


# --- ND2 ------------------------------------------------------------------------------------------


def _read_nd2(path: Path, *, all_of_it: bool) -> list[Image]:
    try:
        nd2 = importlib.import_module("nd2")
    except ImportError as error:
        reason = "is a Nikon file, which needs the package nd2"
        raise ImageError(path, reason, "pip install 'crosscope[nd2]'") from error
    with nd2.ND2File(path) as file:
        sizes = dict(file.sizes)
        if "S" in sizes:
            raise _colour_error(path, sizes["S"])
        _require_room(path, math.prod(sizes.values()) * file.dtype.itemsize)
        positions = sizes.pop("P", 1)
        more = () if all_of_it or positions == 1 else (_first_of(positions),)
        images = []
        for n in range(positions if all_of_it else 1):
            pixels = file.asarray(position=n if positions > 1 else None)
            pixels = pixels.reshape(tuple(sizes.values()))
            said = _said_by_nd2(file, n, more)
            images.append(make_image(path, pixels, "".join(sizes).lower(), said))
        return _numbered(images)


def _said_by_nd2(file: Any, n: int, more: tuple[str, ...]) -> Said:
    channels = file.metadata.channels or []
    calibrated = [bool(channels and channels[0].volume.axesCalibrated[i]) for i in range(3)]
    x_nm, y_nm, z_nm = (
        positive(um, 1e3 if known else None)
        for um, known in zip(file.voxel_size(), calibrated, strict=True)
    )
    size_nm, assumed = sane_pixel_size(y_nm, x_nm)
    period_ms = [loop.parameters.periodMs for loop in file.experiment if loop.type == "TimeLoop"]
    return Said(
        pixel_size_nm=size_nm,
        z_step_nm=z_nm,
        time_step_s=positive(period_ms[0], 1e-3) if period_ms else None,
        channels=tuple(
            Channel(known.channel.name, "#" + bytes(known.channel.color[:3]).hex())
            for known in channels
        ),
        assumed=(*assumed, *more),
        position_yx_nm=_position_of_nd2(file, n),
    )


def _position_of_nd2(file: Any, n: int) -> tuple[float, float] | None:
    """Return where the stage stood for the n-th position's first frame."""
    if file.is_legacy:
        return None
    frames = [i for i, at in enumerate(file.loop_indices) if at.get("P", 0) == n]
    channels = file.frame_metadata(frames[0]).channels if frames else []
    if not channels or channels[0].position is None:
        return None
    stage_um = channels[0].position.stagePositionUm
    y_nm, x_nm = float(stage_um.y) * 1e3, float(stage_um.x) * 1e3
    return (y_nm, x_nm) if math.isfinite(y_nm) and math.isfinite(x_nm) else None


# --- what is refused before it is read ------------------------------------------------------------


def _first_of(count: int) -> str:
    return f"The file holds {count} images: the first is read, {count - 1} are ignored"


def require_file(path: Path) -> None:
    if path.is_dir():
        raise ImageError(path, "is a folder, not an image", "Name an image in it")
    if not path.is_file():
        reason = "is not an ordinary file" if path.exists() else "does not exist"
        raise ImageError(path, reason, "Check the name")
    if path.stat().st_size == 0:
        raise ImageError(path, "is empty (0 bytes)", "Copy it anew from the microscope")


def _require_room(path: Path, needed_bytes: int) -> None:
    """Refuse what the file cannot hold honestly, and what the memory cannot hold at all."""
    most_bytes = _MOST_BYTES
    if hasattr(os, "sysconf"):  # not on Windows
        most_bytes = min(most_bytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    said = f"declares {needed_bytes / 2**30:.1f} GiB of pixels"
    if needed_bytes > most_bytes:
        reason = f"{said}, more than the {most_bytes / 2**30:.1f} GiB that can be read"
        raise ImageError(path, reason, "Cut it into smaller images")
    _require_no_bomb(path, needed_bytes)


def _require_no_bomb(path: Path, needed_bytes: int) -> None:
    size = path.stat().st_size
    if needed_bytes > _BOMB_BYTES and needed_bytes > _BOMB_RATIO * size:
        said = f"declares {needed_bytes / 2**30:.1f} GiB of pixels"
        raise ImageError(path, f"{said} in a file of {size} bytes", _SAVE_AGAIN)


@contextmanager
def damage_is_an_error(path: Path) -> Iterator[None]:
    """Raise ImageError where tifffile only complains in its log."""
    complaints: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        complaints.append(record.getMessage())
        return False

    log = logging.getLogger("tifffile")
    log.addFilter(note)
    try:
        yield
    finally:
        log.removeFilter(note)
    if complaints:
        raise ImageError(path, f"is damaged ({complaints[0][:200]})", _SAVE_AGAIN)


@contextmanager
def one_kind_of_error(path: Path) -> Iterator[None]:
    """Turn whatever a reader throws at a bad file into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ImageError(path, f"cannot be read as an image ({why[:100]})", _SAVE_AGAIN) from error
