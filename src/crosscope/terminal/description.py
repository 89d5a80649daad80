"""Path -> what the program understands of it, under the names of the JSON."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import crosscope as cs


def describe(path: Path) -> dict[str, Any]:
    """Describe an image, a folder of images or of registered pairs, or a model file.

    Raises CrosscopeError where it is none of these.
    """
    if cs.is_slide(path):
        with cs.open_slide(path) as slide:
            return _describe_image(slide.image)
    if path.is_dir():
        return _describe_pairs(path) if (path / "pairs.json").exists() else _describe_folder(path)
    if path.suffix == ".zip" or (not path.exists() and str(path) in _names()):
        return _describe_model(path)
    return _describe_image(cs.read_image(path))


def lines_of(known: Mapping[str, Any]) -> Iterator[str]:
    """Yield a description for a reader: what is known, one thing a line, parts indented."""
    for key, value in known.items():
        if value is None or value == [] or value == {}:
            continue
        if isinstance(value, Mapping):
            if any(isinstance(part, Mapping | list) or _says(part) for part in value.values()):
                yield f"{key}:"
                yield from (f"  {line}" for line in lines_of(value))
            else:
                yield f"{key}: " + ", ".join(f"{k} {_short(v)}" for k, v in value.items())
        elif isinstance(value, list) and isinstance(value[0], str):
            yield from (f"{key}: {sentence}" for sentence in value)
        else:
            yield f"{key}: {_short(value)}"


def _says(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "none" if value is None else str(value)


def _names() -> list[str]:
    return [model["name"] for model in cs.list_models()]


def _describe_image(image: "cs.Image") -> dict[str, Any]:
    return {
        "kind": "image",
        "axes": image.axes,
        "shape": list(image.pixels.shape),
        "dtype": str(image.pixels.dtype),
        "pixel_size_nm": image.pixel_size_nm,
        "z_step_nm": image.z_step_nm,
        "time_step_s": image.time_step_s,
        "channels": [vars(channel) for channel in image.channels],
        "sha256": image.sha256,
        "assumed": list(image.assumed),
    }


def _describe_folder(path: Path) -> dict[str, Any]:
    """Describe the first image, for which the others are taken to be alike, and name the rest."""
    files = cs.list_images(path)
    first = _describe_image(cs.read_image(files[0]))
    first["assumed"].append(f"Only {files[0].name} was opened, the others are taken as alike")
    return first | {"kind": "folder", "images": [file.name for file in files]}


def read_accepted(path: Path, *, channel: str | None = None) -> "list[cs.RegisteredPair]":
    """Read the accepted pairs of a folder; raise PairError where there is none."""
    pairs = cs.read_registered(path, channel=channel)
    if not pairs:
        raise cs.PairError(path, "has no accepted pair", "See the reasons in its pairs.json")
    return pairs


def _describe_pairs(path: Path) -> dict[str, Any]:
    pairs = read_accepted(path)
    first = _describe_image(pairs[0].target)
    residuals = {pair.name: pair.residual_px for pair in pairs}
    return first | {
        "kind": "pairs",
        "source_pixel_size_nm": pairs[0].source_pixel_size_nm,
        "residual_px": residuals,
    }


def _describe_model(path: Path) -> dict[str, Any]:
    model = cs.Model.load(path)
    return {
        "kind": "model",
        "axes": "yx",
        "shape": None,
        "dtype": "float32",
        "pixel_size_nm": model.target_pixel_size_nm,
        "channels": [],
        "assumed": [],
        "card": dict(model.card),
        "certificate": {
            name: part["sentence"]
            for name, part in model.certificate.items()
            if isinstance(part, dict) and "sentence" in part
        }
        | _tell_quality(model.certificate),
        "network": f"{model.network}, base {model.base}",
        "parameters": model.parameters,
        "source_pixel_size_nm": model.source_pixel_size_nm,
        "source_scaling": vars(model.source_scaling),
        "target_scaling": vars(model.target_scaling),
        "halo_px": model.reach.halo_px,
        "reach_px": model.reach.exact_px,
        "twin": model.twin is not None,
        "members": len(model.members),
        "fields": [f"{seen.name} ({seen.part})" for seen in model.fields],
        "training": dict(model.training),
        "sha256": model.sha256,
    }


def _tell_quality(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Return what a certificate knows beside its sentences; nothing of what is damaged."""
    claim, light = (certificate.get(name) or {} for name in ("claim", "quantities"))
    told = {}
    for name, say in _SAID.items():
        # a file may hold anything where a number should be
        with suppress(KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
            told[name] = say({**light, **claim})
    return told


def _say_invented(of: Mapping[str, Any]) -> str:
    return (
        f"An empty field of 512 x 512 px holds {of['false_objects_per_field']:.1f} false objects "
        f"on average, {of['most_false_objects']:d} at most (of {of['empty_fields']:d} fields)."
    )


def _say_place(of: Mapping[str, Any]) -> str:
    y_nm, x_nm = of["position_bias_nm"]
    return (
        f"Single points come out {of['position_error_nm']:.1f} nm from their place (root mean "
        f"square), on average {y_nm:+.1f} nm off in y and {x_nm:+.1f} nm in x."
    )


def _say_distance(of: Mapping[str, Any]) -> str:
    off_nm = [bias_nm for bias_nm in of["separation_bias_nm"] if bias_nm is not None]
    return (
        f"The distance of two points that are told apart comes out {min(off_nm):+.1f} to "
        f"{max(off_nm):+.1f} nm off, by how far apart they are."
    )


def _say_brightness(of: Mapping[str, Any]) -> str:
    return (
        f"The light of single points comes out {100 * of['intensity_bias']:+.1f} % off, that of "
        f"close pairs {100 * of['pair_intensity_bias']:+.1f} %."
    )


def _say_exposure(of: Mapping[str, Any]) -> str:
    low, high = min(of["exposures"]), max(of["exposures"])
    return (
        f"Where twice as much light goes in, {2 ** of['slope']:.2f} times as much comes out, at "
        f"x{low:g} to x{high:g} of the exposure."
    )


def _say_offset(of: Mapping[str, Any]) -> str:
    more = " or ".join(f"{grey:g}" for grey in of["offsets"])
    return (
        f"A camera offset that is {more} grey values higher, and told by --offset, changes the "
        f"light of a point by {100 * of['offset_change']:.2f} % at most."
    )


_SAID: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "false_objects": _say_invented,
    "position": _say_place,
    "separation": _say_distance,
    "brightness": _say_brightness,
    "exposure": _say_exposure,
    "offset": _say_offset,
}
