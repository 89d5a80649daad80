"""The metadata of OME-Zarr 0.4 and 0.5 <-> axes, pixel sizes, channels.

Next-generation file formats: Moore et al., Nature Methods 18, 1496 (2021),
https://doi.org/10.1038/s41592-021-01326-w; https://ngff.openmicroscopy.org.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscope.data.errors import ImageError
from crosscope.data.images import (
    NM_PER_UNIT,
    S_PER_UNIT,
    Channel,
    Image,
    Said,
    positive,
    sane_pixel_size,
)

VERSIONS = {"0.4": 2, "0.5": 3}
"""Of OME-Zarr, and of the Zarr that each is written in."""
_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
_CONVERT = "Convert it by bioformats2raw, or save it from napari or Fiji as OME-Zarr 0.4 or 0.5"


@dataclass(frozen=True)
class Multiscale:
    """What the metadata say: where the full resolution lies, its stored axes, and of its pixels."""

    version: str
    dataset: str
    axes: str
    said: Said


def parse_multiscale(path: Path, attributes: Mapping[str, Any]) -> Multiscale:
    """Read the attributes of an OME-Zarr image, the first multiscale of it.

    Raises
    ------
    ImageError
        There is no multiscale (a plate, a well, labels, another Zarr), or one of another version.
    """
    try:
        ome = attributes.get("ome", attributes)  # 0.5 has a level of its own
        if not ome.get("multiscales") or "image-label" in ome:
            raise _no_image(path, ome)
        first = ome["multiscales"][0]
        version = str(ome.get("version", first.get("version", "0.4")))
        if version not in VERSIONS:
            raise ImageError(path, f"is OME-Zarr {version}; 0.4 and 0.5 are read", _CONVERT)
        names = [axis["name"].lower() for axis in first["axes"]]
        axes = "".join(names)
        if len(set(names)) < len(names) or not set("yx") <= set(names) <= set("tczyx"):
            reason = f"has axes that are not t, c, z, y, x ({', '.join(names)})"
            raise ImageError(path, reason, _CONVERT)
        dataset = first["datasets"][0]
        if {"..", ""} & set(dataset["path"].split("/")):
            raise ImageError(path, f"its pixels lie outside of it ({dataset['path']})", _CONVERT)
        units = [str(axis.get("unit") or "").lower() for axis in first["axes"]]
        silent = not any(unit for axis, unit in zip(axes, units, strict=True) if axis in "zyx")
        scale = _scale_of(dataset, len(axes)), _scale_of(first, len(axes))
        sizes = {
            axis: positive(a * b, _factor(axis, unit, silent=silent))
            for axis, unit, a, b in zip(axes, units, *scale, strict=True)
        }
        channels = tuple(
            Channel(str(channel.get("label") or ""), _colour(channel.get("color")))
            for channel in ome.get("omero", {}).get("channels", [])
        )
        size_nm, assumed = sane_pixel_size(sizes["y"], sizes["x"])
        if silent and size_nm == (1e3, 1e3):  # what writers put where they know nothing
            size_nm, assumed = sane_pixel_size(None, None)
        elif silent and size_nm:
            assumed += (f"The pixel size of {size_nm[0] / 1e3:.4g} has no unit: it is taken as µm",)
        said = Said(size_nm, sizes.get("z"), sizes.get("t"), channels, assumed)
        return Multiscale(version, str(dataset["path"]), axes, said)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"its OME-Zarr metadata are damaged ({type(error).__name__}: {str(error)[:80]})"
        raise ImageError(path, reason, _CONVERT) from error


def make_multiscale(
    image: Image, *, version: str, levels: int, shown: Sequence[tuple[float, float, float, float]]
) -> dict[str, Any]:
    """Return the attributes of an image written as OME-Zarr, level n in the dataset "n".

    Parameters
    ----------
    image : Image
        Its pixels may stand in. Its pixel size is known.
    version : str
    levels : int
        Each has half the pixels along y and x of the one before.
    shown : sequence of (min, max, start, end)
        Grey values of each channel: the range, and what is to be shown as darkest and brightest.
    """
    steps = {"t": image.time_step_s or 1.0, "c": 1.0, "z": (image.z_step_nm or 1e3) / 1e3}
    assert image.pixel_size_nm is not None, image.name
    steps |= {axis: size / 1e3 for axis, size in zip("yx", image.pixel_size_nm, strict=True)}
    datasets = []
    for level in range(levels):
        fold = {axis: 2.0**level if axis in "yx" else 1.0 for axis in image.axes}
        scale = [steps[axis] * fold[axis] for axis in image.axes]
        # a pixel's centre lies between those that it is the mean of
        move = [steps[axis] * (fold[axis] - 1) / 2 for axis in image.axes]
        transforms = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": move},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    multiscale = {
        "name": image.name,
        "axes": [_axis(axis, image) for axis in image.axes],
        "datasets": datasets,
        "type": "mean",
    }
    channels = image.channels or (Channel(""),)
    omero = {
        "channels": [
            {
                "label": channel.name,
                "color": (channel.colour or "#ffffff").removeprefix("#").upper(),
                "active": True,
                "window": dict(zip(("min", "max", "start", "end"), limits, strict=True)),
            }
            for channel, limits in zip(channels, shown, strict=True)
        ]
    }
    if version == "0.4":
        return {"multiscales": [multiscale | {"version": version}], "omero": omero}
    return {"ome": {"version": version, "multiscales": [multiscale], "omero": omero}}


def _axis(axis: str, image: Image) -> dict[str, str]:
    known = {"t": image.time_step_s, "z": image.z_step_nm}.get(axis, True)
    unit = {"unit": _UNITS[axis]} if axis in _UNITS and known else {}
    return {"name": axis, "type": _TYPES[axis]} | unit


def _scale_of(owner: Mapping[str, Any], count: int) -> list[float]:
    """Return the scale among the transformations of a multiscale or one of its datasets."""
    for transform in owner.get("coordinateTransformations", []):
        if transform["type"] == "scale":
            return [float(value) for value in transform["scale"]]
    return [1.0] * count


def _factor(axis: str, unit: str, *, silent: bool) -> float | None:
    """Return nm or s per unit; where no axis of space has one, it is taken as micrometer."""
    if axis == "t":
        return S_PER_UNIT.get(unit)
    return NM_PER_UNIT["micrometer"] if silent and axis in "zyx" else NM_PER_UNIT.get(unit)


def _colour(colour: Any) -> str | None:
    # white is what writers put where there is none
    text = str(colour or "").removeprefix("#").lower()
    return f"#{text}" if re.fullmatch("[0-9a-f]{6}", text) and text != "ffffff" else None


def _no_image(path: Path, ome: Mapping[str, Any]) -> ImageError:
    kinds = [kind for kind in ("plate", "well", "labels", "image-label") if kind in ome]
    if kinds:
        return ImageError(path, f"is no image: {kinds[0]}", "Name an image in it, such as A/1/0")
    return ImageError(path, "is a Zarr without multiscales", _CONVERT)
