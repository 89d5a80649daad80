"""File -> image: pixels that know their axes, their size in nm and what was assumed of them."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt


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

    def __post_init__(self) -> None:
        assert self.pixels.ndim == len(self.axes), (self.pixels.shape, self.axes)
        assert self.axes.endswith("yx"), self.axes

    def with_pixels(self, pixels: npt.NDArray[Any], **changes: Any) -> Self:
        """Return the same image with other pixels (and whatever else is named)."""
        return replace(self, pixels=pixels, **changes)
