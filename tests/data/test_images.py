"""Images come back as they were written, and what cannot be used is refused with a remedy."""

import contextlib
import logging
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscope.data.errors import ImageError, OutputError
from crosscope.data.files import sha256
from crosscope.data.images import (
    Channel,
    Image,
    list_images,
    read_image,
    read_tiles,
    require_finite,
    select_plane,
    write_image,
)

REAL = Path(__file__).parents[3] / "shared" / "data"
OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'


def _ramp(*shape: int, dtype: str = "uint16") -> npt.NDArray[Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def _tiff(folder: Path, pixels: npt.NDArray[Any], **options: Any) -> Path:
    path = folder / "image.tif"
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack"} | options)
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert caught.value.remedy
    return message


sizes_nm = st.floats(1, 9999, exclude_max=True)
places_nm = st.floats(-1e9, 1e9)
names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
colours = st.none() | st.integers(0, 0xFFFFFF).map(lambda rgb: f"#{rgb:06x}")


@st.composite
def _fields(draw: st.DrawFn) -> dict[str, Any]:
    axes = "".join(axis for axis in "tcz" if draw(st.booleans())) + "yx"
    shape = [draw(st.integers(1 if axis in "yx" else 2, 5)) for axis in axes]
    ramp = draw(st.integers(1, 63)) / 4 * _ramp(*shape) % 256
    count = shape[axes.index("c")] if "c" in axes else draw(st.integers(0, 1))
    return {
        "pixels": ramp.astype(draw(st.sampled_from(["uint8", "uint16", "float32"]))),
        "axes": axes,
        "pixel_size_nm": draw(st.none() | st.tuples(sizes_nm, sizes_nm)),
        "z_step_nm": draw(st.none() | sizes_nm),
        "time_step_s": draw(st.none() | st.floats(1e-6, 1e6)),
        "channels": tuple(Channel(draw(names), draw(colours)) for _ in range(count)),
        "name": "cell <1> & µ 日本.tif",
        "position_yx_nm": draw(st.none() | st.tuples(places_nm, places_nm)),
    }


@settings(max_examples=60, deadline=None)
@given(fields=_fields())
def test_what_is_written_is_read_back_exactly(
    fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = Image(**fields)
    path = tmp_path_factory.mktemp("round") / "image.ome.tif"
    write_image(image, path)
    back = read_image(path)
    assert back.pixels.dtype == image.pixels.dtype
    assert np.array_equal(back.pixels, image.pixels)
    kept = ("axes", "pixel_size_nm", "z_step_nm", "time_step_s", "channels", "position_yx_nm")
    for field in kept:
        assert getattr(back, field) == getattr(image, field), field
    assert back.sha256 == sha256(path)
    assert list(path.parent.iterdir()) == [path]


def test_the_name_is_kept_in_the_file(tmp_path: Path) -> None:
    write_image(Image(_ramp(4, 4), "yx", None, name="a\x07 <b>"), tmp_path / "a.tif")
    assert b'Name="a &lt;b&gt;"' in (tmp_path / "a.tif").read_bytes()


def test_an_image_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_image(Image(_ramp(4, 4), "yx", None), path)
    with pytest.raises(OutputError):
        write_image(Image(_ramp(5, 5), "yx", None), path)
    assert read_image(path).pixels.shape == (4, 4)
    write_image(Image(_ramp(5, 5), "yx", None), path, overwrite=True)
    assert read_image(path).pixels.shape == (5, 5)


def test_other_types_and_other_suffixes_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="float64"):
        write_image(Image(np.zeros((4, 4)), "yx", None), tmp_path / "a.tif")
    with pytest.raises(OutputError, match=r"\.ome\.tif"):
        write_image(Image(_ramp(4, 4), "yx", None), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lost_bytes", [100, 6000])  # of the metadata, of the pixels
def test_a_written_file_that_is_cut_short_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_bytes: int
) -> None:
    write = tifffile.imwrite

    def cut(path: Path, *args: Any, **options: Any) -> None:
        write(path, *args, **options | {"compression": None})
        os.truncate(path, path.stat().st_size - lost_bytes)

    monkeypatch.setattr(tifffile, "imwrite", cut)
    with pytest.raises(OutputError, match="read back"):
        write_image(Image(_ramp(64, 64), "yx", None), tmp_path / "a.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("unit", "per_px", "nm"),
    [
        ("micron", 0.03, 30),
        ("um", 0.03, 30),
        ("\\u00B5m", 0.03, 30),
        ("µm", 0.03, 30),
        ("nm", 65.0, 65),
        ("mm", 0.00065, 650),
        ("cm", 0.000065, 650),
        ("inch", 0.00001, 254),
    ],
)
def test_imagej_units_become_nm(tmp_path: Path, unit: str, per_px: float, nm: float) -> None:
    # tifffile writes ASCII only: the µ of old ImageJ versions is Latin-1
    metadata = {"unit": unit.replace("µ", "\\u00B5"), "spacing": 2 * per_px, "finterval": 0.5}
    path = _tiff(
        tmp_path,
        _ramp(2, 3, 8, 9),
        imagej=True,
        resolution=(1 / per_px, 0.5 / per_px),
        metadata=metadata | {"axes": "TZYX"},
    )
    image = read_image(path)
    assert image.axes == "tzyx"
    assert image.pixel_size_nm == pytest.approx((2 * nm, nm), rel=1e-6)
    assert image.z_step_nm == pytest.approx(2 * nm)
    assert image.time_step_s == 0.5
    assert image.assumed == ()


def test_imagej_hyperstack_keeps_axes_labels_and_colours(tmp_path: Path) -> None:
    pixels, lut = _ramp(3, 8, 9), np.zeros((3, 256), np.uint8)
    lut[1] = np.arange(256)
    luts = [lut, lut[[1, 0, 2]], lut[[0, 2, 1]]]
    metadata = {"axes": "CYX", "Labels": ["DAPI", "FITC", "TxRed"], "LUTs": luts}
    image = read_image(_tiff(tmp_path, pixels, imagej=True, metadata=metadata))
    assert image.axes == "cyx"
    assert image.channels == (
        Channel("DAPI", "#00ff00"),
        Channel("FITC", "#ff0000"),
        Channel("TxRed", "#0000ff"),
    )
    assert np.array_equal(image.pixels, pixels)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "says nothing of the pixel size"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, "no microscope's"),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, "no microscope's"),
        ({"resolution": (1, 1), "imagej": True}, "placeholder"),
        ({"resolution": (100, 100), "imagej": True}, "not a length"),
        ({"resolution": (2, 2), "imagej": True, "metadata": {"unit": "pixel"}}, "not a length"),
        ({"resolution": (4e5, 4e5), "imagej": True, "metadata": {"unit": "um"}}, "no microscope's"),
        ({"ome": True}, "says nothing of the pixel size"),
        ({"ome": True, "metadata": {"PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}}, "placeholder"),
        (
            {
                "ome": True,
                "metadata": {
                    "PhysicalSizeX": 2,
                    "PhysicalSizeXUnit": "pixel",
                    "PhysicalSizeY": 2,
                    "PhysicalSizeYUnit": "pixel",
                },
            },
            "says nothing of the pixel size",
        ),
    ],
)
def test_an_unknown_pixel_size_is_said_to_be_so(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    image = read_image(_tiff(tmp_path, _ramp(8, 9), **options))
    assert image.pixel_size_nm is None
    assert len(image.assumed) == 1
    assert said in image.assumed[0]


def test_resolution_per_cm_and_ome_units_become_nm(tmp_path: Path) -> None:
    path = _tiff(tmp_path, _ramp(8, 9), resolution=(2e5, 1e5), resolutionunit="CENTIMETER")
    assert read_image(path).pixel_size_nm == pytest.approx((100, 50))
    metadata = {"PhysicalSizeX": 0.05, "PhysicalSizeY": 0.0001, "PhysicalSizeYUnit": "mm"}
    path = _tiff(tmp_path, _ramp(8, 9), ome=True, metadata=metadata)
    assert read_image(path).pixel_size_nm == pytest.approx((100, 50))


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"byteorder": ">"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
def test_every_kind_of_tiff_gives_the_same_pixels(
    tmp_path: Path, options: dict[str, Any], compression: str | None
) -> None:
    pixels = _ramp(31, 17)
    image = read_image(_tiff(tmp_path, pixels, compression=compression, **options))
    assert image.pixels.dtype == np.dtype("uint16")
    assert np.array_equal(image.pixels, pixels)


def test_of_a_pyramid_the_full_resolution_is_read(tmp_path: Path) -> None:
    pixels = _ramp(64, 64)
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as tif:
        tif.write(pixels, subifds=1, metadata={"axes": "YX"})
        tif.write(pixels[::2, ::2], subfiletype=1)
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.pixels, pixels)
    assert len(image.assumed) == 1


def test_of_several_series_the_first_is_read_and_the_rest_counted(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for side in (8, 9, 10):
            tif.write(_ramp(side, side), photometric="minisblack")
    image = read_image(tmp_path / "a.tif")
    assert image.pixels.shape == (8, 8)
    assert "3 images: the first is read, 2 are ignored" in " ".join(image.assumed)


@pytest.mark.parametrize("metadata", [{}, None])
def test_unnamed_planes_are_taken_as_z(tmp_path: Path, metadata: dict[str, Any] | None) -> None:
    image = read_image(_tiff(tmp_path, _ramp(5, 8, 9), metadata=metadata))
    assert image.axes == "zyx"
    assert "5 planes are: they are taken as z" in " ".join(image.assumed)


def test_more_than_one_unnamed_axis_is_refused(tmp_path: Path) -> None:
    assert "axes" in _refusal(_tiff(tmp_path, _ramp(2, 5, 8, 9)))


def test_channels_without_names_are_numbered(tmp_path: Path) -> None:
    image = read_image(_tiff(tmp_path, _ramp(2, 8, 9), imagej=True, metadata={"axes": "CYX"}))
    assert [channel.name for channel in image.channels] == ["channel 1", "channel 2"]
    assert "does not name all its channels" in " ".join(image.assumed)


@pytest.mark.parametrize(
    ("values", "dtype", "becomes"),
    [
        ([0, 65535], "uint32", "uint16"),
        ([0, 65535], "int32", "uint16"),
        ([0, 127], "int8", "uint16"),
        ([-5, 32767], "int16", "float32"),
        ([-5, 2**24], "int32", "float32"),
        ([0.25, np.nan], "float64", "float32"),
        ([0.1, -3.7], "float16", "float32"),
    ],
)
def test_other_types_are_converted_without_change(
    tmp_path: Path, values: list[float], dtype: str, becomes: str
) -> None:
    pixels = np.array([values, values], dtype)
    image = read_image(_tiff(tmp_path, pixels))
    assert image.pixels.dtype == np.dtype(becomes)
    assert np.array_equal(image.pixels.astype("float64"), pixels.astype("float64"), equal_nan=True)
    assert f"{dtype} values" in image.assumed[-1]


def test_float64_is_rounded_with_a_word(tmp_path: Path) -> None:
    image = read_image(_tiff(tmp_path, np.full((4, 4), 0.1)))
    assert image.pixels.dtype == np.dtype("float32")
    assert "rounded to float32" in image.assumed[-1]


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[0, 2**24 + 1]], "uint32"),
        np.array([[-(2**24) - 1, 0]], "int32"),
        np.array([[0.1, 1e30]]),
        np.array([[0.1, np.inf]]),
        np.array([[1e300, 0.0]]),
        np.ones((4, 4), bool),
        np.ones((4, 4), "complex64"),
    ],
)
def test_values_that_would_be_lost_are_refused(tmp_path: Path, pixels: npt.NDArray[Any]) -> None:
    assert str(pixels.dtype) in _refusal(_tiff(tmp_path, pixels))


def test_colour_and_palette_pictures_are_refused(tmp_path: Path) -> None:
    rgb = _ramp(8, 9, 3, dtype="uint8")
    assert "colour picture" in _refusal(_tiff(tmp_path, rgb, photometric="rgb"))
    assert "colour picture" in _refusal(
        _tiff(
            tmp_path, _ramp(8, 9, 4, dtype="uint8"), photometric="rgb", extrasamples=["unassalpha"]
        )
    )
    planes = _ramp(3, 8, 9, dtype="uint8")
    assert "colour" in _refusal(_tiff(tmp_path, planes, photometric="rgb", planarconfig="separate"))
    two = _ramp(8, 9, 2)
    assert "colour" in _refusal(_tiff(tmp_path, two, planarconfig="contig"))
    table = np.zeros((3, 256), "uint16")
    palette = _tiff(tmp_path, rgb[..., 0], photometric="palette", colormap=table)
    assert "palette" in _refusal(palette)


def test_an_imagej_look_up_table_is_only_for_display(tmp_path: Path) -> None:
    pixels = _ramp(8, 9, dtype="uint8")
    table = np.zeros((3, 256), "uint16")
    path = _tiff(
        tmp_path,
        pixels,
        photometric="palette",
        colormap=table,
        description="ImageJ=1.53f\nunit=nm\n",
        metadata=None,
    )
    image = read_image(path)
    assert np.array_equal(image.pixels, pixels)
    assert "colour table is for display" in " ".join(image.assumed)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in _refusal(tmp_path / "none.tif")
    (tmp_path / "folder.tif").mkdir()
    assert "is a folder" in _refusal(tmp_path / "folder.tif")
    (tmp_path / "empty.tif").touch()
    assert "empty" in _refusal(tmp_path / "empty.tif")
    (tmp_path / "text.tif").write_text("no image\n" * 99)
    assert "cannot be read" in _refusal(tmp_path / "text.tif")
    (tmp_path / "text.nd2").write_text("no image\n" * 99)
    assert "cannot be read" in _refusal(tmp_path / "text.nd2")
    (tmp_path / "loop.tif").symlink_to(tmp_path / "loop.tif")
    assert "does not exist" in _refusal(tmp_path / "loop.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    assert "not an ordinary file" in _refusal(tmp_path / "pipe.tif")


def test_nd2_without_its_package_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nd2", None)
    (tmp_path / "a.nd2").write_bytes(b"x")
    assert "pip install 'crosscope[nd2]'" in _refusal(tmp_path / "a.nd2")


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"compression": "lzw"}, {"tile": (16, 16)}, {"imagej": True},
     {"ome": True}],
)  # fmt: skip
def test_a_file_that_is_cut_short_is_refused(
    tmp_path: Path, share: float, options: dict[str, Any]
) -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (4, 100, 100)).astype("uint16")
    path = _tiff(tmp_path, noise, **options)
    os.truncate(path, int(share * path.stat().st_size))
    _refusal(path)


def test_a_file_that_lacks_tiles_is_refused(tmp_path: Path) -> None:
    path = _tiff(tmp_path, _ramp(64, 64), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tif:
        tag = tif.pages.first.tags["TileOffsets"]
        tag.overwrite([0, *tag.value[1:]])
    assert "pixels are missing" in _refusal(path)


def test_a_doctype_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]>' + OME.format("<Image>&a;</Image>")
    path = _tiff(tmp_path, _ramp(8, 9), description=bomb, metadata=None)
    assert "DOCTYPE" in _refusal(path)


def test_ome_metadata_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    other_file = (
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="9" '
        'SizeY="8" SizeC="1" SizeZ="2" SizeT="1"><TiffData IFD="0" PlaneCount="1">'
        '<UUID FileName="../secret.tif">urn:uuid:1</UUID></TiffData></Pixels></Image>'
    )
    for xml in (OME.format(other_file), OME.format("<Image"), OME.format("")):
        path = _tiff(tmp_path, _ramp(8, 9), description=xml, metadata=None)
        _refusal(path)


def test_more_pixels_than_the_file_can_hold_are_refused(tmp_path: Path) -> None:
    path = _tiff(tmp_path, _ramp(8, 9), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages.first.tags[tag].overwrite(40_000, dtype="I")
    assert "GiB of pixels" in _refusal(path)
    zeros = zlib.compress(bytes(10**6))
    assert len(zeros) * 1100 > 10**6  # what deflate can shrink is never called a bomb


def test_a_complaint_in_the_log_of_tifffile_is_an_error_and_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, said = _tiff(tmp_path, _ramp(8, 9)), tifffile.TiffPageSeries.asarray

    def complain(*args: Any, **options: Any) -> Any:
        logging.getLogger("tifffile").warning("missing data are zeroed")
        return said(*args, **options)

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", complain)
    assert "missing data are zeroed" in _refusal(path)
    assert not caplog.records
    assert not logging.getLogger("tifffile").filters


@settings(max_examples=300, deadline=None)
@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    kind=st.sampled_from(["ome", "imagej", "plain"]),
)
def test_flipped_bytes_end_in_an_image_or_an_image_error(
    places: list[tuple[float, int]], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"flip_{kind}.tif"
    options: dict[str, Any] = {} if kind == "plain" else {kind: True}
    tifffile.imwrite(path, _ramp(2, 6, 7), photometric="minisblack", **options)
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[int(place * (len(content) - 1))] = value
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        assert isinstance(read_image(path), Image)


def test_not_a_number_is_let_in_and_counted(tmp_path: Path) -> None:
    pixels = _ramp(8, 9, dtype="float32")
    pixels[0, :3], pixels[1, 0] = np.nan, np.inf
    image = read_image(_tiff(tmp_path, pixels))
    with pytest.raises(ImageError, match="3 pixels are NaN and 1 infinite, of 72"):
        require_finite(image)
    require_finite(image.with_pixels(pixels[2:]))


def test_one_plane_is_selected_or_the_choice_is_named() -> None:
    two = Image(_ramp(2, 4, 5), "cyx", (1.0, 2.0), channels=(Channel("DAPI"), Channel("FITC")))
    plane = select_plane(two, channel="FITC")
    assert (plane.axes, plane.channels, plane.pixel_size_nm) == ("yx", (Channel("FITC"),), (1, 2))
    assert np.array_equal(plane.pixels, two.pixels[1])
    with pytest.raises(ImageError, match="DAPI, FITC"):
        select_plane(two)
    with pytest.raises(ImageError, match=r"TxRed.*DAPI, FITC"):
        select_plane(two, channel="TxRed")
    with pytest.raises(ImageError, match="z=3"):
        select_plane(Image(_ramp(3, 4, 5), "zyx", None))
    flat = Image(_ramp(1, 1, 4, 5), "tzyx", None)
    assert select_plane(flat).pixels.shape == (4, 5)
    with pytest.raises(ImageError, match="without names"):
        select_plane(flat, channel="DAPI")


def test_images_are_listed_in_natural_order(tmp_path: Path) -> None:
    for name in ("img10.TIF", "img2.tif", "Img1.nd2", ".hidden.tif", "notes.txt", "²3.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "folder.tif").mkdir()
    found = [path.name for path in list_images(tmp_path)]
    assert found == ["Img1.nd2", "img2.tif", "img10.TIF", "²3.tiff"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"\.tif, \.tiff, \.nd2"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match="not a folder"):
        list_images(tmp_path / "none")


# --- tile scans -----------------------------------------------------------------------------------


def _place(y: float | None, x: float | None, unit: str | None) -> dict[str, Any]:
    """Stage positions as tifffile writes them; a unit of None is left out."""
    plane: dict[str, Any] = {}
    for axis, value in (("Y", y), ("X", x)):
        if value is not None:
            plane[f"Position{axis}"] = [value]
            if unit is not None:
                plane[f"Position{axis}Unit"] = [unit]
    return {"Plane": plane}


@pytest.mark.parametrize(
    ("unit", "nm"), [("µm", 1e3), ("um", 1e3), ("nm", 1.0), ("mm", 1e6), ("m", 1e9), ("cm", 1e7)]
)
def test_stage_positions_become_nm(tmp_path: Path, unit: str, nm: float) -> None:
    metadata = _place(-0.25, 4.5, unit)
    image = read_image(_tiff(tmp_path, _ramp(8, 9), ome=True, metadata=metadata))
    assert image.position_yx_nm == pytest.approx((-0.25 * nm, 4.5 * nm))


@pytest.mark.parametrize(
    ("position", "said"),
    [
        (_place(3, 4, None), "(3 reference frame, 4 reference frame) is no length"),
        (_place(3, 4, "pixel"), "(3 pixel, 4 pixel) is no length"),
        (_place(float("inf"), 4, "nm"), "is no length"),
        (_place(None, 4, "nm"), ""),
        ({}, ""),
    ],
)
def test_a_stage_position_that_is_no_length_is_unknown(
    tmp_path: Path, position: dict[str, Any], said: str
) -> None:
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", _ramp(8, 9), ome=True, metadata=position)
    image = read_image(tmp_path / "a.tif")
    assert image.position_yx_nm is None
    assert said in " ".join(image.assumed)
    with pytest.raises(ImageError, match="2 of 2 images have no stage position") as caught:
        read_tiles(tmp_path)
    assert said in caught.value.reason
    assert "PositionX" in caught.value.remedy


def test_the_tiles_of_a_folder_and_those_of_one_file_are_the_same(tmp_path: Path) -> None:
    places = [(0.0, 0.0), (0.0, 90.5), (-80.25, 1.0)]
    folder, file = tmp_path / "tiles", tmp_path / "scan.ome.tif"
    with tifffile.TiffWriter(file, ome=True) as tif:
        for n, (y, x) in enumerate(places):
            pixels = n + _ramp(2, 8, 9)
            image = Image(pixels, "cyx", (100.0, 50.0), position_yx_nm=(1e3 * y, 1e3 * x))
            write_image(image, folder / f"tile{n}.ome.tif")
            plane: dict[str, Any] = {"PositionY": [y] * 2, "PositionX": [x] * 2}
            plane |= {f"Position{axis}Unit": ["µm"] * 2 for axis in "YX"}
            metadata = {"axes": "CYX", "Plane": plane, "PhysicalSizeY": 0.1, "PhysicalSizeX": 0.05}
            tif.write(pixels, photometric="minisblack", metadata=metadata)
    apart, together = read_tiles(folder), read_tiles(file)
    for n, (y, x) in enumerate(places):
        for tile in (apart[n], together[n]):
            assert np.array_equal(tile.pixels, n + _ramp(2, 8, 9))
            assert tile.pixel_size_nm == pytest.approx((100, 50))
            assert tile.position_yx_nm == pytest.approx((1e3 * y, 1e3 * x))
    assert [tile.name for tile in apart] == ["tile0.ome.tif", "tile1.ome.tif", "tile2.ome.tif"]
    assert together[2].name == "scan.ome.tif, image 3"
    assert {tile.sha256 for tile in together} == {sha256(file)}
    assert not [said for tile in together for said in tile.assumed if "ignored" in said]
    assert "3 images: the first is read" in " ".join(read_image(file).assumed)


def test_one_image_is_no_tile_scan(tmp_path: Path) -> None:
    path = _tiff(tmp_path, _ramp(8, 9), ome=True, metadata=_place(1, 2, "µm"))
    for where in (path, tmp_path):
        with pytest.raises(ImageError, match="holds one image"):
            read_tiles(where)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_real_images_are_read() -> None:
    pytest.importorskip("nd2")
    images = {path.name: read_image(path) for path in REAL.rglob("*") if _is_image(path)}
    assert len(images) >= 22
    assert all(image.pixel_size_nm or image.assumed for image in images.values())
    confocal, beads = images["FRC_GaAsP_AU04.nd2"], images["Bead_Image1_crop.tif"]
    assert confocal.pixel_size_nm == pytest.approx((51.79, 51.79), abs=0.01)
    assert confocal.channels == (Channel("DiO", "#00ff00"),)
    assert confocal.position_yx_nm == pytest.approx((3_652_500, 7_011_300))
    assert beads.axes == "zyx"
    assert beads.z_step_nm == pytest.approx(125)
    assert beads.pixel_size_nm == pytest.approx((22.49, 22.49), abs=0.01)
    assert images["sim.tif"].pixel_size_nm == pytest.approx((30, 30))
    assert images["IXMtest_A02_s9.tif"].axes == "cyx"


def _is_image(path: Path) -> bool:
    return path.suffix in (".tif", ".nd2")
