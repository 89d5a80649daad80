"""Image -> image, before registration: even illumination, no hot pixels.

Flat field: what a pixel answers is offset + gain x illumination x light, so that

    corrected = (image - dark) / (flat - dark) x mean(flat - dark)

is the light, in grey values, without the offset.  Seibert, Boone, Lindfors, Proc. SPIE 3336,
348-354 (1998), doi 10.1117/12.317034.

Hot pixels stand alone, which no optics can: a point of light, blurred to two pixels or more, lifts
its neighbours to a third of its own height and more.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Num
from scipy import ndimage

from crosscope.data.background import measure_background
from crosscope.data.errors import ImageError
from crosscope.data.images import Image, require_finite

LEAST_LIGHT = 0.05
"""Of the flat's mean: a darker pixel would be amplified more than 20 times, and its noise too."""
HOT_NOISES = 10.0
"""How far a hot pixel rises above its neighbours."""
HOT_NEIGHBOURS, HOT_SECOND = 0.2, 0.4
"""How far the median and the second brightest of a hot pixel's neighbours rise, as a share of its
own rise, at most.  Of a point of light blurred to 2 px it is 0.35 and 0.5."""
HOT_SHARE = 0.002
"""At most this share of pixels is hot; what is more frequent is noise or single photons."""

_RING = np.ones((3, 3), dtype=bool)
_RING[1, 1] = False
_OUTER_RING = np.ones((5, 5), dtype=bool)
_OUTER_RING[1:4, 1:4] = False
_TAIL_NOISES = 2.88  # where a normal distribution has HOT_SHARE above it
_LEVELS, _LEAST_PX = 16, 8000  # as many levels as there are, each of at least so many pixels


def correct_flat(image: Image, flat: Image, *, dark: Image | None = None) -> Image:
    """Divide the illumination out of an image, plane by plane.

    Parameters
    ----------
    image : Image
        Grey values; any axes.
    flat : Image
        Of an evenly bright sample, in grey values of the same camera. Axes "yx" for all planes, or
        more of the image's own axes ("cyx": a flat for each channel).
    dark : Image, optional
        Without light, at the exposure time of the image; axes as for `flat`. Without it the
        offset is only known to be no more than the darkest there is: the background level of the
        darkest plane is taken for it (see Notes).

    Returns
    -------
    Image
        float32, the mean gain of each plane 1, the offset subtracted (not clipped at 0).

    Raises
    ------
    ImageError
        Flat or dark are of another shape; pixels are not finite; or somewhere the flat is less
        than 5 % of its mean above the dark.

    Notes
    -----
    An offset that is left in would be amplified where the illumination is weak, and look like
    light. What is taken for the offset where there is no dark is rather too much than too little:
    a haze over the whole image is subtracted with it and not corrected, and nothing dark is
    amplified.

    The flat is not smoothed: the gain of single pixels and the shadows of dust are what it is
    there for. Its noise becomes a fixed pattern of the image, hence average 16 exposures or more;
    how much it varies from pixel to pixel is said in `assumed`.
    """
    require_finite(image)
    bright = _spread(flat, image)
    offset: float | npt.NDArray[Any]
    if dark is None:
        offset = min(measure_background(plane).level for plane in _planes(image.pixels))
        known = (
            f"No dark image was given: {offset:.4g}, the level of the darkest parts, was taken for "
            "the camera's offset and subtracted"
        )
    else:
        offset = _spread(dark, image)
        known = f"The dark image {dark.name} was subtracted"
    light = bright - offset
    mean = light.mean(axis=(-2, -1), keepdims=True)
    weak = light < LEAST_LIGHT * np.maximum(mean, 0.0)
    weak |= ~(light > 0)
    if weak.any():
        least = f"{LEAST_LIGHT:.0%} of its mean above the offset"
        reason = f"{int(weak.sum())} of {weak.size} pixels are less than {least}"
        remedy = "Take a brighter, evenly lit flat and a dark image, and crop away what gets no "
        raise ImageError(flat.name, reason, remedy + "light")
    gain = (mean / light).astype(np.float32)
    pixels = (image.pixels - np.asarray(offset, dtype=np.float32)) * gain
    noise = max(
        measure_background(plane).noise / level
        for plane, level in zip(_planes(light), mean.ravel(), strict=True)
    )
    said = (
        f"The flat {flat.name} multiplied pixels by {gain.min():.2f} to {gain.max():.2f}; as far "
        f"as its variation of {noise:.1%} from pixel to pixel is noise, it is now in the image"
    )
    return image.with_pixels(
        pixels.astype(np.float32, copy=False), assumed=(*image.assumed, known, said)
    )


def remove_hot_pixels(image: Image) -> Image:
    """Replace single pixels that stand far above all around them by the median of their neighbours.

    A pixel is hot if it rises above the median of its 8 neighbours by more than 10 noises, and
    they hardly rise with it above the ring around them: their median by less than 20 % of what it
    rises, the second brightest by less than 40 %. The noise is measured for each level of
    brightness: the larger of what the median deviation and the 99.8th percentile say, so that the
    long tail of few photons is not taken for defects.

    Parameters
    ----------
    image : Image
        Any axes; each plane for itself.

    Returns
    -------
    Image
        Of the same type; `assumed` says how many pixels were replaced.

    Raises
    ------
    ImageError
        Pixels are not finite.

    Notes
    -----
    Points of light with a full width at half maximum of 2 px and more stay as they are; of those
    with hardly 10 photons in their brightest pixel, one in thousands may look like a hot pixel by
    the chance of its photons. What is missed: clusters of more than 2 hot pixels, hot pixels on
    bright structure, and all of them where they are more than 0.2 % of the pixels, or where nearly
    all others are equal. Pixels that are too dark are not touched.
    """
    require_finite(image)
    pixels = image.pixels.copy()
    count = 0
    for plane in _planes(pixels):
        neighbours = ndimage.median_filter(plane, footprint=_RING, mode="mirror")
        hot = _hot(plane, neighbours)
        plane[hot] = neighbours[hot]
        count += int(hot.sum())
    if not count:
        return image
    said = f"{count} hot pixels of {pixels.size} were replaced by the median of their neighbours"
    return image.with_pixels(pixels, assumed=(*image.assumed, said))


def _hot(
    plane: Num[np.ndarray, "y x"], neighbours: Num[np.ndarray, "y x"]
) -> npt.NDArray[np.bool_]:
    around = ndimage.median_filter(plane, footprint=_OUTER_RING, mode="mirror").astype(np.float64)
    level = neighbours.astype(np.float64)
    rise = plane - level
    candidates = rise > HOT_NOISES * _noise_by_level(rise, level)
    # not mirrored: at the border one hot neighbour would be there twice
    second = ndimage.rank_filter(
        plane.astype(np.float64), -2, footprint=_RING, mode="constant", cval=-np.inf
    )
    height = plane - around
    candidates &= level - around < HOT_NEIGHBOURS * height
    return np.asarray(candidates & (second - around < HOT_SECOND * height))


def _noise_by_level(
    rise: Float[np.ndarray, "y x"], level: Float[np.ndarray, "y x"]
) -> Float[np.ndarray, "y x"]:
    """Return the noise of each pixel: that of all pixels about as bright."""
    order = np.argsort(level, axis=None, kind="stable")
    noise = np.empty(rise.size)
    for pixels in np.array_split(order, np.clip(rise.size // _LEAST_PX, 1, _LEVELS)):
        some = rise.ravel()[pixels]
        middle = np.median(some)
        spread = np.median(np.abs(some - middle)) / 0.6745  # of a normal distribution
        tail = (np.quantile(some, 1 - HOT_SHARE) - middle) / _TAIL_NOISES
        # pixels that are nearly all equal say nothing of the noise: single photons, as a rule
        noise[pixels] = max(spread, tail) or np.inf
    return noise.reshape(rise.shape)


def _planes(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view, n y x."""
    return pixels.reshape(-1, *pixels.shape[-2:])


def _spread(correction: Image, image: Image) -> Float[np.ndarray, "*axes"]:
    """Return a flat's or a dark's pixels with axes of length 1 where it lacks the image's."""
    require_finite(correction)
    lengths = dict(zip(image.axes, image.pixels.shape, strict=True))
    own = dict(zip(correction.axes, correction.pixels.shape, strict=True))
    if any(lengths.get(axis) != length for axis, length in own.items()):
        reason = f"is {_layout(own)}, but {image.name} is {_layout(lengths)}"
        remedy = "Give one of the same camera, binning and crop, of axes y x or more of the image's"
        raise ImageError(correction.name, reason, remedy)
    shape = [own.get(axis, 1) for axis in image.axes]
    return correction.pixels.reshape(shape).astype(np.float64)


def _layout(lengths: dict[str, int]) -> str:
    return " ".join(f"{axis}={length}" for axis, length in lengths.items())
