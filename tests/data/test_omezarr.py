"""Metadata as others write them, and as we do."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosscope.data.errors import ImageError
from crosscope.data.images import Channel, Image
from crosscope.data.omezarr import VERSIONS, make_multiscale, parse_multiscale

PATH = Path("x.ome.zarr")
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def attributes(
    axes: str = "yx",
    scale: list[float] | None = None,
    unit: str | None = "micrometer",
    **more: Any,
) -> dict[str, Any]:
    """Return what version 0.4 says of an image whose axes of space have this unit."""
    said: list[dict[str, str]] = [{"name": axis, "type": TYPES[axis]} for axis in axes]
    for axis in said:
        if unit and axis["type"] == "space":
            axis["unit"] = unit
        if axis["type"] == "time":
            axis["unit"] = "second"
    dataset: dict[str, Any] = {"path": "0"}
    if scale:
        dataset["coordinateTransformations"] = [{"type": "scale", "scale": scale}]
    return {"multiscales": [{"version": "0.4", "axes": said, "datasets": [dataset]}], **more}


@pytest.mark.parametrize(
    ("unit", "scale", "size_nm", "assumed"),
    [
        ("micrometer", [0.325, 0.3], (325, 300), ""),
        ("nanometer", [30.0, 32.5], (30, 32.5), ""),
        ("angstrom", [300.0, 300.0], (30, 30), ""),
        ("Micrometer", [0.03, 0.03], (30, 30), ""),
        ("millimeter", [1e-4, 1e-4], (100, 100), ""),
        (None, [0.65, 0.65], (650, 650), "no unit"),
        (None, [1.0, 1.0], None, "says nothing"),
        (None, None, None, "says nothing"),
        ("micrometer", [1.0, 1.0], (1000, 1000), "placeholder"),
        ("pixel", [1.0, 1.0], None, "says nothing"),
        ("micrometer", [50.0, 50.0], None, "no microscope's"),
        ("micrometer", [0.0, -1.0], None, "says nothing"),
    ],
)
def test_pixel_sizes_are_taken_with_their_unit(
    unit: str | None, scale: list[float] | None, size_nm: tuple[float, float] | None, assumed: str
) -> None:
    said = parse_multiscale(PATH, attributes("yx", scale, unit)).said
    assert said.pixel_size_nm == (None if size_nm is None else pytest.approx(size_nm))
    assert assumed in " ".join(said.assumed)
    assert bool(assumed) == bool(said.assumed)


def test_the_scale_of_all_levels_is_a_factor() -> None:
    known = attributes("tyx", [1.0, 0.5, 0.5])
    known["multiscales"][0]["coordinateTransformations"] = [
        {"type": "translation", "translation": [0, 1, 1]},
        {"type": "scale", "scale": [3.0, 0.2, 0.1]},
    ]
    said = parse_multiscale(PATH, known).said
    assert said.pixel_size_nm == pytest.approx((100, 50))
    assert said.time_step_s == 3


def test_a_length_without_a_unit_among_others_that_have_one_is_unknown() -> None:
    known = attributes("zyx", [1.0, 0.1, 0.1])
    del known["multiscales"][0]["axes"][0]["unit"]
    said = parse_multiscale(PATH, known).said
    assert said.z_step_nm is None
    assert said.pixel_size_nm == pytest.approx((100, 100))


def test_axes_need_no_type_and_may_be_large() -> None:
    known = attributes("zyx", [2.0, 0.1, 0.1])
    for axis in known["multiscales"][0]["axes"]:
        del axis["type"]
        axis["name"] = axis["name"].upper()
    found = parse_multiscale(PATH, known)
    assert (found.axes, found.said.z_step_nm) == ("zyx", 2000)


def test_channels_are_named_and_coloured_where_the_file_does() -> None:
    channels = [
        {"label": "DAPI", "color": "0000FF"},
        {"label": None, "color": "FFFFFF"},
        {"color": "no hex"},
        {"label": "b", "color": "GG00FF"},
        {},
    ]
    found = parse_multiscale(PATH, attributes("cyx", None, omero={"channels": channels}))
    assert found.said.channels == (
        Channel("DAPI", "#0000ff"),
        Channel(""),
        Channel(""),
        Channel("b"),
        Channel(""),
    )


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3", "0.6", "1.0"])
def test_other_versions_are_named(version: str) -> None:
    known = {"multiscales": [{"version": version, "datasets": [{"path": "0"}]}]}
    with pytest.raises(ImageError, match=rf"is OME-Zarr {version}; 0\.4 and 0\.5 are read"):
        parse_multiscale(PATH, known)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "without multiscales"),
        ({"multiscales": []}, "without multiscales"),
        ({"ome": {"version": "0.5", "plate": {}}}, "no image: plate"),
        ({"plate": {"wells": []}}, "no image: plate"),
        ({"well": {"images": []}}, "no image: well"),
        ({"labels": ["nuclei"]}, "no image: labels"),
        ({**attributes(), "image-label": {}}, "no image: image-label"),
        ({"ome": [1, 2]}, "damaged"),
        ({"ome": "text"}, "damaged"),
        ({"multiscales": 3}, "damaged"),
        ({"multiscales": ["text"]}, "damaged"),
        ({"multiscales": [{"version": "0.4"}]}, "damaged"),
        (attributes("yx", [0.1, 0.1, 0.1]), "damaged"),
        (attributes("yx", ["a", "b"]), "damaged"),  # type: ignore[list-item]
        (attributes("cyx", omero={"channels": ["red"]}), "damaged"),
        (attributes("cyx", omero=None), "damaged"),
    ],
)
def test_what_is_no_image_is_refused_in_words(known: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        parse_multiscale(PATH, known)


@pytest.mark.parametrize(
    "names", [["y", "y"], ["q", "y", "x"], ["y"], ["zy", "x"], ["yx"], ["c", "t"]]
)
def test_other_axes_are_refused(names: list[str]) -> None:
    known = attributes()
    known["multiscales"][0]["axes"] = [{"name": name} for name in names]
    with pytest.raises(ImageError, match="axes that are not t, c, z, y, x"):
        parse_multiscale(PATH, known)


@pytest.mark.parametrize("path", ["../0", "/etc", "a/../../b", "..", ""])
def test_pixels_lie_within_the_folder(path: str) -> None:
    known = attributes()
    known["multiscales"][0]["datasets"][0]["path"] = path
    with pytest.raises(ImageError, match="lie outside of it"):
        parse_multiscale(PATH, known)


@given(
    st.sampled_from(["yx", "zyx", "tyx", "cyx", "tczyx", "czyx"]),
    st.sampled_from(sorted(VERSIONS)),
    st.none() | st.floats(10, 1e5),
    st.none() | st.floats(1e-3, 1e4),
)
def test_what_is_written_is_read_again(
    axes: str, version: str, z_nm: float | None, step_s: float | None
) -> None:
    channels = (Channel("a", "#123456"), Channel("b"))
    image = Image(
        np.zeros([2] * len(axes), np.float32),
        axes,
        (32.5, 30.0),
        z_step_nm=z_nm if "z" in axes else None,
        time_step_s=step_s if "t" in axes else None,
        channels=channels if "c" in axes else (),
    )
    shown = [(0.0, 1.0, 0.2, 0.8)] * (2 if "c" in axes else 1)
    made = make_multiscale(image, version=version, levels=3, shown=shown)
    found = parse_multiscale(PATH, copy.deepcopy(made))
    assert (found.version, found.axes, found.dataset) == (version, axes, "0")
    assert found.said.pixel_size_nm == pytest.approx(image.pixel_size_nm)
    assert found.said.z_step_nm == (image.z_step_nm and pytest.approx(image.z_step_nm))
    assert found.said.time_step_s == image.time_step_s
    if "c" in axes:
        assert found.said.channels == channels
    assert not found.said.assumed


def test_a_coarser_pixels_centre_lies_between_those_it_is_the_mean_of() -> None:
    image = Image(np.zeros((8, 8), np.float32), "yx", (100.0, 50.0))
    made = make_multiscale(image, version="0.5", levels=3, shown=[(0.0, 1.0, 0.0, 1.0)])
    (multiscale,) = made["ome"]["multiscales"]
    moves = [
        dataset["coordinateTransformations"][1]["translation"] for dataset in multiscale["datasets"]
    ]
    assert moves == [
        pytest.approx([0, 0]),
        pytest.approx([0.05, 0.025]),
        pytest.approx([0.15, 0.075]),
    ]
