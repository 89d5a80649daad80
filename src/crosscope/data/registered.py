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
from crosscope.data.transforms import IDENTITY
from crosscope.data.transforms import Transform as Transform


@dataclass(frozen=True, eq=False)
class ResidualMap:
    """What the registration left, cell by cell, in target px.

    Attributes
    ----------
    cell_px : int
        Side of a cell, in pixels of the registered images.
    corner_yx_px : (float, float)
        Where cell (0, 0) begins in the registered images.
    expected_px : (i, j) float
        RMS error to be expected; NaN where there is no structure to tell it.
    measured_yx_px : (i, j, 2) float
        The deviation measured on the cell by a fit without it, noise included; NaN likewise.
    """

    cell_px: int
    corner_yx_px: tuple[float, float]
    expected_px: Float[np.ndarray, "i j"]
    measured_yx_px: Float[np.ndarray, "i j 2"]

    def moved(self, axis: int, start: int) -> "ResidualMap":
        """Return the map of images that were cropped before `start` along an axis."""
        y, x = self.corner_yx_px
        corner = (y - start, x) if axis == 0 else (y, x - start)
        return replace(self, corner_yx_px=corner)

    def at(self, y: slice, x: slice) -> float:
        """Return the RMS error to be expected in a part of the images; NaN where none is known."""
        overlap = [
            np.clip(part.stop - begin, 0, self.cell_px)
            - np.clip(part.start - begin, 0, self.cell_px)
            for part, begin in zip((y, x), self._begins(), strict=True)
        ]
        weights = np.outer(*overlap) * ~np.isnan(self.expected_px)
        if not weights.any():
            return math.nan
        return math.sqrt(np.average(np.nan_to_num(self.expected_px) ** 2, weights=weights))

    def _begins(self) -> list[Float[np.ndarray, " n"]]:
        """Return the first row of each row of cells, and the first column of each column."""
        shape, corner = self.expected_px.shape, self.corner_yx_px
        return [c + self.cell_px * np.arange(n) for n, c in zip(shape, corner, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return the map as what JSON can hold: NaN becomes null."""
        return {
            "block_px": self.cell_px,
            "corner_yx_px": list(self.corner_yx_px),
            "residual_px": _nullable(self.expected_px.round(4)),
            "arrow_yx_px": [
                [None if np.isnan(arrow).any() else arrow.round(4).tolist() for arrow in row]
                for row in self.measured_yx_px
            ],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ResidualMap":
        """Rebuild a map from `to_json`."""
        nothing = [math.nan, math.nan]
        arrows = [[arrow or nothing for arrow in row] for row in value["arrow_yx_px"]]
        y, x = value["corner_yx_px"]
        expected = np.array(value["residual_px"], dtype=np.float64)
        return cls(
            int(value["block_px"]),
            (float(y), float(x)),
            expected,
            np.array(arrows, dtype=np.float64),
        )


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
    source_pixel_size_nm : (float, float) or None
        Of the raw source, y and x: what a model trained on this pair expects of new images. None
        where no pixel size is known.
    residual_px : float or None
        RMS, in target pixels, of what the registration left inside structures; None where the
        images were aligned elsewhere and nobody measured.
    correlation_before, correlation_after : float or None
        Pearson correlation of the two images over their common field, -1 to 1.
    source_sha256, target_sha256 : str or None
        Of the raw files.
    residual_error_px : float or None
        Standard error of `residual_px`.
    limit_px : float or None
        The residual above which a pair is refused.
    residual_map : ResidualMap or None
    channel : str or None
        Which of several, where the raw images had several.
    reason : str or None
        Why it should be refused; it was kept because the user asked for it.
    """

    name: str
    source: Image
    target: Image
    transform: Transform
    origin_yx_px: tuple[int, int]
    source_pixel_size_nm: tuple[float, float] | None
    residual_px: float | None
    correlation_before: float | None
    correlation_after: float | None
    source_sha256: str | None = None
    target_sha256: str | None = None
    residual_error_px: float | None = None
    limit_px: float | None = None
    residual_map: ResidualMap | None = None
    channel: str | None = None
    reason: str | None = None

    def to_source(self, points_yx_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map points of the raw target image (px) to the raw source image (px, before any crop)."""
        return self.transform.to_source(points_yx_px)

    @property
    def shift_px(self) -> tuple[float, float]:
        """How far the source's content lies down and right of the target's, in target px.

        At the middle of the field, the raw images laid corner on corner.
        """
        top, left = self.origin_yx_px
        height, width = self.target.pixels.shape
        middle = np.array([[top + (height - 1) / 2, left + (width - 1) / 2]])
        y, x = ((self.to_source(middle) + 0.5) * self.target_px_per_source_px - 0.5 - middle)[0]
        return float(y), float(x)

    @property
    def pixel_sizes_nm(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The pixel sizes (y, x) of raw source and target; PairError where they are not known."""
        source_nm, target_nm = self.source_pixel_size_nm, self.target.pixel_size_nm
        if source_nm is None or target_nm is None:
            remedy = "Register again with --source-pixel-size-nm or --target-pixel-size-nm"
            raise PairError(self.name, "was registered without any pixel size", remedy)
        return source_nm, target_nm

    @property
    def target_px_per_source_px(self) -> Float[np.ndarray, " 2"]:
        """Target pixels in a source pixel, y and x: by the pixel sizes, else by the transform."""
        if self.source_pixel_size_nm is None or self.target.pixel_size_nm is None:
            return np.full(2, abs(np.linalg.det(self.transform.matrix[:, :2])) ** -0.5)
        return np.divide(self.source_pixel_size_nm, self.target.pixel_size_nm)


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
        residual_map=pair.residual_map and pair.residual_map.moved(axis, start),
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
    with writing_folder(out, overwrite=overwrite) as part:
        make_folders(part)
        records = []
        for pair in pairs:
            records.append(record_of(pair))
            if isinstance(pair, RegisteredPair):
                write_pair_images(pair, part)
        write_json(part / "pairs.json", {"pairs": records})
    return {"pairs": records}


def make_folders(out: Path) -> None:
    """Make the folders of registered pairs inside `out`."""
    for folder in ("source", "target"):
        (out / folder).mkdir(parents=True, exist_ok=True)


def write_pair_images(pair: RegisteredPair, out: Path, *, overwrite: bool = False) -> None:
    """Write the two images of a pair into the folders inside `out`."""
    for folder, image in (("source", pair.source), ("target", pair.target)):
        write_image(image, out / folder / _file_name(pair.name), overwrite=overwrite)


def read_registered(folder: Path, *, channel: str | None = None) -> list[RegisteredPair]:
    """Read the pairs of a folder that `write_registered` wrote, or one made elsewhere.

    Those that were refused are not in it, unless the user kept them (--all).

    Parameters
    ----------
    folder : Path
        With source/, target/ and pairs.json. Without pairs.json the images are taken as aligned:
        equal names, shapes and pixel sizes; their residual and correlations are None.
    channel : str, optional
        Needed where the pairs are of several: one model, one channel.

    Returns
    -------
    list of RegisteredPair

    Raises
    ------
    PairError
        The folder is none of both, its images don't fit each other, or several channels are there
        and none is named.
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
        records = [r for r in records if (r["file"] if r["accepted"] else r.get("file"))]
        channels = sorted({record.get("channel") or "" for record in records})
        chosen = [r for r in records if channel is None or r.get("channel") == channel]
        if len(channels) > 1 and (channel is None or not chosen):
            there = ", ".join(channels)
            raise PairError(folder, f"holds the channels {there}", "Name one by --channel")
        return [_read_pair_of(folder, record) for record in chosen]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"is not a list of registered pairs ({type(error).__name__}: {error})"
        raise PairError(listing, reason, "Make it again by crosscope register") from error


def record_of(pair: RegisteredPair | RefusedPair) -> dict[str, Any]:
    """Return a pair as pairs.json has it; what was not measured is null."""
    if isinstance(pair, RefusedPair):
        return {
            "name": pair.name,
            "accepted": False,
            "reason": pair.reason,
            **dict.fromkeys(_MEASURED),
            "source_sha256": pair.source_sha256,
            "target_sha256": pair.target_sha256,
        }
    size_nm, residual = pair.target.pixel_size_nm, pair.residual_px
    # the sample's own plane to itself: pixel sizes taken out
    turn = pair.transform.matrix[:, :2] * pair.target_px_per_source_px[:, None]
    mirrored = bool(np.linalg.det(turn) < 0)
    if mirrored:
        turn = turn * [1, -1]
    bend = pair.transform.bend
    in_nm = (
        None if residual is None or size_nm is None else residual * math.sqrt(math.prod(size_nm))
    )
    return {
        "name": pair.name,
        "accepted": pair.reason is None,
        "reason": pair.reason,
        "residual_px": residual,
        "residual_nm": in_nm,
        "residual_error_px": pair.residual_error_px,
        "limit_px": pair.limit_px,
        "shift_px": list(pair.shift_px),
        "rotation_deg": math.degrees(math.atan2(turn[1, 0], turn[0, 0])),
        "scale": math.sqrt(abs(float(np.linalg.det(turn)))),
        "mirrored": mirrored,
        "elastic_px": None if bend is None else float(np.hypot(*bend.knots_px).max()),
        "correlation_before": pair.correlation_before,
        "correlation_after": pair.correlation_after,
        "source_sha256": pair.source_sha256,
        "target_sha256": pair.target_sha256,
        "channel": pair.channel,
        "shape_px": list(pair.target.pixels.shape),
        **pair.transform.to_json(),
        "origin_yx_px": list(pair.origin_yx_px),
        "source_pixel_size_nm": pair.source_pixel_size_nm and list(pair.source_pixel_size_nm),
        "assumed": list(dict.fromkeys((*pair.source.assumed, *pair.target.assumed))),
        "local": pair.residual_map and pair.residual_map.to_json(),
        "file": _file_name(pair.name),
    }


_MEASURED = [
    "residual_px",
    "residual_nm",
    "residual_error_px",
    "limit_px",
    "shift_px",
    "rotation_deg",
    "scale",
    "correlation_before",
    "correlation_after",
]


def _nullable(values: Float[np.ndarray, "i j"]) -> list[list[float | None]]:
    return [[None if math.isnan(v) else v for v in row] for row in values.tolist()]


def _file_name(name: str) -> str:
    return f"{name}.tif"


def _read_pair_of(folder: Path, record: dict[str, Any]) -> RegisteredPair:
    file = Path(record["file"]).name  # never outside the folder
    source, target = read_image(folder / "source" / file), read_image(folder / "target" / file)
    size_nm = record["source_pixel_size_nm"]
    _require_one_grid(source, target, folder / "source" / file, size_known=size_nm is not None)
    top, left = record["origin_yx_px"]
    local = record.get("local")
    return RegisteredPair(
        record["name"],
        source,
        target,
        Transform.from_json(record),
        (int(top), int(left)),
        None if size_nm is None else (float(size_nm[0]), float(size_nm[1])),
        record["residual_px"],
        record["correlation_before"],
        record["correlation_after"],
        record["source_sha256"],
        record["target_sha256"],
        residual_error_px=record.get("residual_error_px"),
        limit_px=record.get("limit_px"),
        residual_map=None if local is None else ResidualMap.from_json(local),
        channel=record.get("channel"),
        reason=record["reason"],
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
        IDENTITY,
        (0, 0),
        known_size_nm(pair.source, pair.name),
        residual_px=None,
        correlation_before=None,
        correlation_after=None,
        source_sha256=pair.source.sha256,
        target_sha256=pair.target.sha256,
    )


def _require_one_grid(
    source: Image, target: Image, where: Path, *, size_known: bool = True
) -> None:
    """Raise PairError unless both are planes of equal shape and equal pixel size, or none."""
    remedy = "Bring both to one grid by crosscope register"
    if source.axes != "yx" or target.axes != "yx" or source.pixels.shape != target.pixels.shape:
        shapes = [f"{' '.join(i.axes)} {i.pixels.shape}" for i in (source, target)]
        raise PairError(where, f"is {shapes[0]}, but its target {shapes[1]}", remedy)
    sizes = source.pixel_size_nm, target.pixel_size_nm
    if sizes == (None, None) and not size_known:
        return
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
