"""Image with channels -> one picture in colour, with a scale bar, to look at and not to measure.

    picture = min(1, sum over channels of colour x (grey - low) / (high - low)), parts of 0 ... 1

low and high are the 1st and the 99.8th percentile of what is shown of the channel: each channel has
its own contrast, so brightness compares within a channel only.  Of a stack the brightest in z is
shown, of a time-lapse the first frame.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Float32
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from crosscope.data.images import Channel, Image

PERCENTILES = (1, 99.8)
SLIDES = {"dapi": "#0000ff", "fitc": "#00ff00", "txred": "#ff00ff"}
COLOURS = ("#ff00ff", "#00ff00", "#0000ff", "#00ffff", "#ffff00", "#ff0000")
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # Pillow's has no µ
LEAST_PX, MOST_PX = 512, 4096  # of the longer side: room for the bar's label; what a viewer opens


@dataclass(frozen=True)
class Shown:
    """How a channel is shown: black at the grey value `low`, its full colour from `high` on."""

    name: str
    colour: str
    low: float
    high: float


@dataclass(frozen=True)
class Composite:
    """A picture as the bytes of a PNG file, and how its channels are shown, in their order."""

    png: bytes
    channels: tuple[Shown, ...]


def draw_composite(image: Image) -> Composite:
    """Draw all channels of an image in their colours.

    A channel's colour is that of the file; where there is none, or white, in which files show what
    has no colour, that of the slides for DAPI (blue), FITC (green) and TxRed (magenta), else the
    first that is free of magenta, green, blue, cyan, yellow and red.

    Parameters
    ----------
    image : Image
        Axes (t)c(z)yx, finite grey values, its pixel size known. Above 4096 px a side it is thinned
        by averaging, below 512 px its pixels are drawn larger, by a whole factor.
    """
    assert image.pixel_size_nm is not None, image.name
    planes = _planes(image)
    height, width = planes.shape[1:]
    thinner = math.ceil(max(height, width) / MOST_PX)
    larger = max(1, LEAST_PX // max(height, width))
    thin = [np.asarray(Pillow.fromarray(plane).reduce(thinner)) for plane in planes]
    colours = choose_colours(image.channels)
    ranges = [show_range(plane) for plane in thin]
    picture = sum(
        _stretched(plane, *limits)[..., None] * _rgb(colour)
        for plane, limits, colour in zip(thin, ranges, colours, strict=True)
    )
    drawn = Pillow.fromarray(np.rint(255 * np.minimum(picture, 1)).astype(np.uint8))
    drawn = drawn.resize((larger * drawn.width, larger * drawn.height), Pillow.Resampling.NEAREST)
    _draw_bar(drawn, width * image.pixel_size_nm[1])
    png = io.BytesIO()
    drawn.save(png, "PNG")
    shown = (
        Shown(channel.name, colour, *limits)
        for channel, colour, limits in zip(image.channels, colours, ranges, strict=True)
    )
    return Composite(png.getvalue(), tuple(shown))


def choose_colours(channels: Sequence[Channel]) -> list[str]:
    """Return each channel's colour, "#rrggbb"; see `draw_composite`."""
    known = [
        SLIDES.get(channel.name.casefold())
        if channel.colour in (None, "#ffffff")
        else channel.colour
        for channel in channels
    ]
    free = iter([colour for colour in COLOURS if colour not in known])
    return [colour or next(free, "#ffffff") for colour in known]


def show_range(image: Float[np.ndarray, "y x"]) -> tuple[float, float]:
    """Return the grey values to show as darkest and as brightest, never the same."""
    low, high = (float(value) for value in np.percentile(image, PERCENTILES))
    return low, max(high, low + 1e-9 * max(1.0, abs(low)))


def bar_length(width_nm: float) -> tuple[float, str]:
    """Return a scale bar's part of the width, and its label.

    It is 1, 2 or 5 times a power of ten long, and at most a third of the width.
    """
    width_um = width_nm / 1000
    power = 10.0 ** math.floor(math.log10(width_um / 3))
    length_um = power * max((step for step in (2, 5) if step * power <= width_um / 3), default=1)
    label = f"{length_um:g} µm" if length_um >= 1 else f"{1000 * length_um:g} nm"
    return length_um / width_um, label


def _planes(image: Image) -> Float32[np.ndarray, "c y x"]:
    """Return one plane a channel: of the first frame, the brightest in z."""
    pixels, axes = image.pixels, image.axes
    if axes.startswith("t"):
        pixels, axes = pixels[0], axes[1:]
    if "z" in axes:
        pixels = pixels.max(axis=axes.index("z"))
    return pixels.astype(np.float32, copy=False)


def _stretched(
    plane: Float32[np.ndarray, "y x"], low: float, high: float
) -> Float32[np.ndarray, "y x"]:
    return np.clip((plane - low) / (high - low), 0, 1)


def _rgb(colour: str) -> Float32[np.ndarray, "3"]:
    return np.array(list(bytes.fromhex(colour.removeprefix("#"))), np.float32) / 255


def _draw_bar(picture: Pillow.Image, width_nm: float) -> None:
    """Draw a white bar with its length above into the lower right corner."""
    share, label = bar_length(width_nm)
    unit = max(picture.size) // 128
    right, bottom = picture.width - 3 * unit, picture.height - 3 * unit
    left = right - share * picture.width
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left, bottom - unit, right, bottom), fill="white")
    font = ImageFont.truetype(FONT, 4 * unit)
    middle = (left + right) / 2
    pen.text((middle, bottom - 2 * unit), label, fill="white", font=font, anchor="ms")
