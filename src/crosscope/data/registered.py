"""Registered pairs, as values and as a folder: source, target and pairs.json."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from crosscope.data.errors import PairError, RegistrationError
from crosscope.data.files import write_json, writing_folder
from crosscope.data.images import Image, read_image, write_image
from crosscope.data.pairs import MatchedFiles, RawPair, match_files, read_pair


@dataclass(frozen=True, eq=False)
class Transform:
    """Where a point of the raw target image lies in the raw source image.

    source_yx_px = matrix @ (target_y_px, target_x_px, 1), pixel centres at whole numbers.
    """

    matrix: Float[np.ndarray, "2 3"]

    def to_source(self, points_yx_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map points of the raw target image (px) to the raw source image (px)."""
        return np.asarray(points_yx_px @ self.matrix[:, :2].T + self.matrix[:, 2])


@dataclass(frozen=True, eq=False)
class RegisteredPair:
    """Source and target on one grid, the target's.

    Attributes
    ----------
    name : str
    source, target : Image
        Axes "yx", equal shapes, equal pixel sizes: the target's. The source was resampled once
        (float32); the target was only cropped.
    transform : Transform
        From raw target pixels to raw source pixels.
    origin_yx_px : (int, int)
        The raw target pixel that became pixel (0, 0) of both images.
    source_pixel_size_nm : (float, float)
        Of the raw source, y and x: what a model trained on this pair expects of new images.
    residual_px : float or None
        RMS, in target pixels, of what the registration left inside structures; None where the
        images were aligned elsewhere and nobody measured.
    correlation_before, correlation_after : float or None
        Pearson correlation of the two images over their common field, -1 to 1.
    source_sha256, target_sha256 : str or None
        Of the raw files.
    """

    name: str
    source: Image
    target: Image
    transform: Transform
    origin_yx_px: tuple[int, int]
    source_pixel_size_nm: tuple[float, float]
    residual_px: float | None
    correlation_before: float | None
    correlation_after: float | None
    source_sha256: str | None = None
    target_sha256: str | None = None

    def to_source(self, points_yx_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map points of the raw target image (px) to the raw source image (px, before any crop)."""
        return self.transform.to_source(points_yx_px)

    @property
    def shift_px(self) -> tuple[float, float]:
        """How far the source's content lies down and right of the target's, in target px."""
        (scale_y, _, y), (_, scale_x, x) = self.transform.matrix.tolist()
        return (y + 0.5) / scale_y - 0.5, (x + 0.5) / scale_x - 0.5


@dataclass(frozen=True)
class RefusedPair:
    """A pair that could not be registered, and why."""

    name: str
    reason: str
    source_sha256: str | None = None
    target_sha256: str | None = None


def crop_like(image: Image, pair: RegisteredPair) -> Image:
    """Crop an image on the raw target's grid, such as its noise-free truth, to a pair's field.

    Raises
    ------
    RegistrationError
        The image does not reach as far as the pair's field.
    """
    (top, left), (height, width) = pair.origin_yx_px, pair.target.pixels.shape
    if image.pixels.shape[-2] < top + height or image.pixels.shape[-1] < left + width:
        there = " x ".join(map(str, image.pixels.shape[-2:]))
        reason = f"is {there} px, but the field of {pair.name} reaches to {top + height} x "
        remedy = "Give the image that belongs to the raw target"
        raise RegistrationError(image.name, reason + f"{left + width} px", remedy)
    return image.with_pixels(image.pixels[..., top : top + height, left : left + width])


def take_part(pair: RegisteredPair, *, axis: int, start: int, stop: int) -> RegisteredPair:
    """Return the rows (axis 0) or columns (axis 1) `start` to `stop` of a pair, stop excluded."""
    field = (slice(start, stop), slice(None)) if axis == 0 else (slice(None), slice(start, stop))
    top, left = pair.origin_yx_px
    return replace(
        pair,
        source=pair.source.with_pixels(pair.source.pixels[field]),
        target=pair.target.with_pixels(pair.target.pixels[field]),
        origin_yx_px=(top + start, left) if axis == 0 else (top, left + start),
    )


def write_registered(
    pairs: Iterable[RegisteredPair | RefusedPair], out: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write OUT/source/NAME.tif, OUT/target/NAME.tif and OUT/pairs.json, complete or not at all.

    Parameters
    ----------
    pairs : iterable
        Taken one by one, so that a generator need never hold them all.
    out : Path
    overwrite : bool
        Replace the folder that is there.

    Returns
    -------
    dict
        What was written to pairs.json: `{"pairs": [...]}`, in the order of `pairs`; refused ones
        are listed with their reason.

    Raises
    ------
    OutputError
        `out` exists or cannot be written, or two pairs have the same name.
    """
    records = []
    with writing_folder(out, overwrite=overwrite) as part:
        for folder in ("source", "target"):
            (part / folder).mkdir()
        for pair in pairs:
            records.append(_record(pair))
            if isinstance(pair, RegisteredPair):
                write_image(pair.source, part / "source" / _file_name(pair.name))
                write_image(pair.target, part / "target" / _file_name(pair.name))
        write_json(part / "pairs.json", {"pairs": records})
    return {"pairs": records}


def read_registered(folder: Path) -> list[RegisteredPair]:
    """Read the accepted pairs of a folder that `write_registered` wrote, or one made elsewhere.

    Parameters
    ----------
    folder : Path
        With source/, target/ and pairs.json. Without pairs.json the images are taken as aligned:
        equal names, shapes and pixel sizes; their residual and correlations are None.

    Returns
    -------
    list of RegisteredPair

    Raises
    ------
    PairError
        The folder is none of both, or its images don't fit each other.
    ImageError
        An image cannot be read.
    """
    if not (folder / "source").is_dir() or not (folder / "target").is_dir():
        reason = "is not a folder of registered pairs: it has no folders source and target"
        raise PairError(folder, reason, "Make one by crosscope register SOURCE TARGET OUT")
    listing = folder / "pairs.json"
    if not listing.exists():
        return [
            _aligned_elsewhere(read_pair(files), files)
            for files in match_files(folder / "source", folder / "target")
        ]
    try:
        records = json.loads(listing.read_text(encoding="utf-8"))["pairs"]
        return [_read_pair_of(folder, record) for record in records if record["accepted"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"is not a list of registered pairs ({type(error).__name__}: {error})"
        raise PairError(listing, reason, "Make it again by crosscope register") from error


def _record(pair: RegisteredPair | RefusedPair) -> dict[str, Any]:
    """Return a pair as pairs.json has it; what was not measured is null."""
    if isinstance(pair, RefusedPair):
        numbers = ("residual_px", "residual_nm", "shift_px", "rotation_deg", "scale")
        return {
            "name": pair.name,
            "accepted": False,
            "reason": pair.reason,
            **dict.fromkeys((*numbers, "correlation_before", "correlation_after")),
            "source_sha256": pair.source_sha256,
            "target_sha256": pair.target_sha256,
        }
    target_nm = known_size_nm(pair.target, pair.name)
    matrix = pair.transform.matrix
    turn = matrix[:, :2] * np.divide.outer(pair.source_pixel_size_nm, target_nm)  # nm to nm
    residual = pair.residual_px
    return {
        "name": pair.name,
        "accepted": True,
        "reason": None,
        "residual_px": residual,
        "residual_nm": None if residual is None else residual * math.sqrt(math.prod(target_nm)),
        "shift_px": list(pair.shift_px),
        "rotation_deg": math.degrees(math.atan2(turn[1, 0], turn[0, 0])),
        "scale": math.sqrt(abs(float(np.linalg.det(turn)))),
        "correlation_before": pair.correlation_before,
        "correlation_after": pair.correlation_after,
        "source_sha256": pair.source_sha256,
        "target_sha256": pair.target_sha256,
        "transform": matrix.tolist(),
        "origin_yx_px": list(pair.origin_yx_px),
        "source_pixel_size_nm": list(pair.source_pixel_size_nm),
        "file": _file_name(pair.name),
    }


def _file_name(name: str) -> str:
    return f"{name}.tif"


def _read_pair_of(folder: Path, record: dict[str, Any]) -> RegisteredPair:
    file = Path(record["file"]).name  # never outside the folder
    source, target = read_image(folder / "source" / file), read_image(folder / "target" / file)
    _require_one_grid(source, target, folder / "source" / file)
    matrix = np.array(record["transform"], dtype=np.float64).reshape(2, 3)
    top, left = record["origin_yx_px"]
    source_nm = record["source_pixel_size_nm"]
    return RegisteredPair(
        record["name"],
        source,
        target,
        Transform(matrix),
        (int(top), int(left)),
        (float(source_nm[0]), float(source_nm[1])),
        record["residual_px"],
        record["correlation_before"],
        record["correlation_after"],
        record["source_sha256"],
        record["target_sha256"],
    )


def _aligned_elsewhere(pair: RawPair, files: MatchedFiles) -> RegisteredPair:
    if files.matched_by == "order":
        reason = f"has no partner of its name beside {files.target.name}"
        raise PairError(files.source, reason, "Name both images alike or run crosscope register")
    _require_one_grid(pair.source, pair.target, files.source)
    return RegisteredPair(
        pair.name,
        pair.source,
        pair.target,
        Transform(np.eye(2, 3)),
        (0, 0),
        known_size_nm(pair.source, pair.name),
        residual_px=None,
        correlation_before=None,
        correlation_after=None,
        source_sha256=pair.source.sha256,
        target_sha256=pair.target.sha256,
    )


def _require_one_grid(source: Image, target: Image, where: Path) -> None:
    """Raise PairError unless both are planes of equal shape and equal, known pixel size."""
    remedy = "Bring both to one grid by crosscope register"
    if source.axes != "yx" or target.axes != "yx" or source.pixels.shape != target.pixels.shape:
        shapes = [f"{' '.join(i.axes)} {i.pixels.shape}" for i in (source, target)]
        raise PairError(where, f"is {shapes[0]}, but its target {shapes[1]}", remedy)
    sizes = source.pixel_size_nm, target.pixel_size_nm
    if sizes[0] is None or sizes[1] is None or not np.allclose(sizes[0], sizes[1], rtol=1e-3):
        reason = f"has pixels of {sizes[0]} nm (y, x), its target of {sizes[1]} nm"
        raise PairError(where, reason, remedy)


def known_size_nm(image: Image, name: str) -> tuple[float, float]:
    if image.pixel_size_nm is None:
        reason = f"the pixel size of {image.name} is not known"
        raise RegistrationError(
            name, reason, "Pass --source-pixel-size-nm or --target-pixel-size-nm"
        )
    return image.pixel_size_nm
