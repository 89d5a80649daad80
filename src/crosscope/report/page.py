"""Report + images of fields -> OUT/report.html: what did the network reach on unseen fields?

The page answers a reviewer who doubts: the numbers with their intervals, a viewer to swipe between
any two images of a field, every field beside its own numbers, and the curves behind the figures.

It is one file that asks for nothing: images are data URIs, styles and scripts are inside, and its
content security policy forbids the rest.  Names come from the users' files; jinja2 escapes them.

The viewer's images have 8 bits, spent on the square root of the grey values: steps grow as photon
noise does, so the dark parts of an image keep theirs when contrast is raised on the page.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pillow

from crosscope.data.files import write_html
from crosscope.data.page import thin
from crosscope.report.charts import charts_of, claim_chart, colour_map, profiles_of
from crosscope.report.tables import (
    MEANINGS,
    TABLES,
    TITLES,
    dial_table,
    field_table,
    finite,
    foretold_table,
    methods_of,
    spoken_reasons,
    table_of,
    trust_table,
    verdict,
)

THUMBNAIL_PX = 128
COLOUR_MAPS = ("gray", "inferno", "viridis", "cividis")
DOUBT_MAP, MOST_DOUBT = "inferno", 100  # tenths of a standard deviation
LAYERS = {"trust": "Trust map", "sure": "What is sure"}
SURE = {
    "nothing is surely here": (0, 0, 0),
    "uncertain": (230, 159, 0),
    "structure is surely here": (86, 180, 233),
}
"""What the codes of "sure" mean, and their colours."""
Grey = Float[np.ndarray, "y x"]


@dataclass(frozen=True, eq=False)
class View:
    """A field at full resolution.

    Attributes
    ----------
    name, rank : str
        The rank is "best", "median" or "worst".
    images : mapping from METHOD to a (y, x) array
        In the reference's grey values, on one grid.
    error : (y, x) array
        Output less reference.
    pixel_size_nm : float
    layers : mapping to (y, x)
        "trust", tenths of a standard deviation, and "sure": 0 nothing is surely here, 1 uncertain,
        2 structure is surely here; where they are known.
    """

    name: str
    rank: str
    images: Mapping[str, Float[np.ndarray, "y x"]]
    error: Float[np.ndarray, "y x"]
    pixel_size_nm: float
    layers: Mapping[str, UInt8[np.ndarray, "y x"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """A field, small: images by METHOD (input, output, target), in the reference's grey values."""

    name: str
    images: Mapping[str, Float[np.ndarray, "y x"]]


def write_page(
    path: Path, report: Mapping[str, Any], views: Sequence[View], thumbnails: Sequence[Thumbnails]
) -> None:
    """Write the page, complete or not at all.

    Parameters
    ----------
    path : Path
    report : mapping
        What report.json holds. What is null there is a dash with its reason; what is missing is
        left out, and the page says so.
    views : sequence of View
        For the viewer, in the order of its menu.
    thumbnails : sequence of Thumbnails
        Of the other fields, by their names; those of the views are made here.

    Raises
    ------
    OutputError
        `path` exists or cannot be written.
    """
    report = finite(report)
    small = {view.name: view.images for view in views}
    small |= {thumbnail.name: thumbnail.images for thumbnail in thumbnails}
    methods = methods_of(report)
    write_html(
        path,
        Path(__file__).with_name("report.html.jinja"),
        report=report,
        verdict=verdict(report),
        seen=[field["name"] for field in report["fields"] if field.get("seen")],
        views=[_coded_view(view) for view in views],
        layers=_coded_layers(views),
        doubts=[_css(colour) for colour in colour_map(DOUBT_MAP)[::51]],
        sure={words: _css(colour) for words, colour in SURE.items()},
        colour_maps={name: _base64(colour_map(name).tobytes()) for name in COLOUR_MAPS},
        titles=TITLES,
        meanings={method: MEANINGS[method] for method in methods},
        tables=[table for title in TABLES if (table := table_of(report, title, methods)).columns],
        trust=trust_table(report),
        foretold=foretold_table(report),
        claim=claim_chart(report),
        dial=dial_table(report),
        fields=field_table(report, methods),
        spoken={str(n): spoken_reasons(field) for n, field in enumerate(report["fields"])},
        ranks={view.name: view.rank for view in views},
        pictures={name: _thumbnails(images) for name, images in small.items()},
        charts=charts_of(report),
        profiles=profiles_of(report),
    )


# --- images ---------------------------------------------------------------------------------------


def _coded_view(view: View) -> dict[str, Any]:
    """Return what the viewer's script is given of a field."""
    shown = view.images.get("target", view.images.get("output", next(iter(view.images.values()))))
    black, white = (float(v) for v in np.nanpercentile(shown, (1, 99.8)))
    images = {method: _coded(image) for method, image in view.images.items()}
    limit = _round_up(float(np.nanpercentile(np.abs(view.error), 99.5)))
    share = np.nan_to_num(np.clip(view.error / limit, -1, 1))
    root = np.sign(share) * np.sqrt(np.abs(share))
    return {
        "name": view.name,
        "rank": view.rank,
        "size": list(shown.shape),
        "pixel_size_nm": view.pixel_size_nm,
        "low": min(image["low"] for image in images.values()),
        "high": max(image["high"] for image in images.values()),
        "black": black,
        "white": max(white, black + 1e-9 * max(1.0, abs(black))),
        "images": images,
        "layers": {name: {"src": _png(codes)} for name, codes in view.layers.items()},
        # 63 steps are enough for an error, and half the bytes
        "error": {"limit": limit, "src": _png((128 + 4 * np.rint(31 * root)).astype(np.uint8))},
    }


def _coded_layers(views: Sequence[View]) -> dict[str, Any]:
    """Return what the viewer's script must know of the layers that there are."""
    sure = np.zeros((256, 3), np.uint8)
    sure[: len(SURE)] = list(SURE.values())
    told: dict[str, dict[str, Any]] = {
        "trust": {"words": None, "colours": colour_map(DOUBT_MAP)[_SPREAD]},
        "sure": {"words": list(SURE), "colours": sure},
    }
    return {
        name: {
            "title": title,
            "words": told[name]["words"],
            "colours": _base64(told[name]["colours"].tobytes()),
        }
        for name, title in LAYERS.items()
        if any(name in view.layers for view in views)
    }


_SPREAD = np.minimum(255 * np.arange(256) // MOST_DOUBT, 255)


def _css(colour: Sequence[int] | UInt8[np.ndarray, "3"]) -> str:
    return "rgb({} {} {})".format(*colour)


def _coded(image: Grey) -> dict[str, Any]:
    """Code an image in 8 bits, sqrt((grey - low) / (high - low)); a few hot pixels are clipped."""
    low, bright = (float(value) for value in np.nanpercentile(image, (0.1, 99.9)))
    high = min(float(np.nanmax(image)), low + 4 * (bright - low))
    if high <= low:
        high = max(float(np.nanmax(image)), low + max(1.0, abs(low)) * 1e-6)
    share = np.clip((np.nan_to_num(image, nan=low) - low) / (high - low), 0, 1)
    return {
        "low": low,
        "high": high,
        "src": _png(np.rint(255 * np.sqrt(share)).astype(np.uint8)),
    }


def _png(codes: UInt8[np.ndarray, "y x"]) -> str:
    file = io.BytesIO()
    Pillow.fromarray(codes).save(file, "PNG")
    return "data:image/png;base64," + _base64(file.getvalue())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _round_up(value: float) -> float:
    """Return the next number of two digits; 1 for 0."""
    if value <= 0:
        return 1.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step) * step:.2g}")


def _thumbnails(images: Mapping[str, Grey]) -> dict[str, str]:
    """Return small images as JPEG data URIs, all between the same percentiles of the target."""
    shown = {m: images[m] for m in ("input", "output", "target") if m in images}
    scale = thin(shown.get("target", next(iter(shown.values()))), THUMBNAIL_PX)
    low, high = (float(value) for value in np.nanpercentile(scale, (1, 99.7)))
    uris = {}
    for method, image in shown.items():
        share = (
            (thin(image, THUMBNAIL_PX) - low) / (high - low) if high > low else np.zeros_like(scale)
        )
        file = io.BytesIO()
        bright = np.rint(255 * np.clip(np.nan_to_num(share), 0, 1) ** 0.7).astype(np.uint8)
        Pillow.fromarray(bright).save(file, "JPEG", quality=85)
        uris[method] = "data:image/jpeg;base64," + _base64(file.getvalue())
    return uris
