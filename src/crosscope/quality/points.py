"""Points + the microscope -> its raw image of them; the network's output -> their light.

The target shows a point as a Gaussian of its finest width; `Forward` makes a source of that, which
is sampled by the source's pixels and gets the noise of its detector.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial import KDTree

from crosscope.data.grids import is_same_grid
from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.quality.forward import FREQUENCIES, Forward

CELL = 4.5  # widths of the source's finest structure from scene to scene
_JITTER = 0.25  # in the same widths
_RING = 1.2
_CUT = 4.0  # standard deviations at which a Gaussian ends

See = Callable[
    [Float[np.ndarray, "n 2"], Float[np.ndarray, "n"], int, np.random.Generator],
    Float[np.ndarray, "y x"],
]
"""From points (y, x in pixels of the target's grid), the peak that each has alone in the source
(grey values above the background), the field's side in pixels of the target and a random stream,
to a raw source image."""


def see_by(forward: Forward) -> See:
    """Return the view through an estimated microscope."""

    def see(
        yx_px: Float[np.ndarray, "n 2"],
        peaks: Float[np.ndarray, "n"],
        size_px: int,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "y x"]:
        heights = peaks / (forward.gain * peak_share(forward))
        target = draw_points(yx_px, heights, fwhm_px=forward.target_fwhm_px, size_px=size_px)
        seen = sample(forward.apply(target + np.float32(forward.zero)), forward.zoom)
        return add_noise(seen, forward, rng=rng)

    return see


def peak_share(forward: Forward) -> float:
    """Return what the blur leaves of the peak of a point in the target."""
    frequency = np.linspace(0, 0.5, 8 * (FREQUENCIES - 1) + 1)
    sigma_px = forward.target_fwhm_px / FWHM_PER_SIGMA
    spot = frequency * np.exp(-2 * (math.pi * sigma_px * frequency) ** 2)
    transfer = np.interp(frequency, np.linspace(0, 0.5, FREQUENCIES), forward.transfer)
    return float((spot * transfer).sum() / spot.sum())


def draw_points(
    yx_px: Float[np.ndarray, "n 2"],
    heights: Float[np.ndarray, "n"],
    *,
    fwhm_px: float,
    size_px: int,
) -> Float[np.ndarray, "y x"]:
    """Draw each point as a Gaussian, on a square field of zeros."""
    sigma_px = fwhm_px / FWHM_PER_SIGMA
    reach = math.ceil(_CUT * sigma_px)
    steps = np.arange(-reach, reach + 1)
    places = np.rint(yx_px).astype(int)[:, :, None] + steps  # n 2 w
    profile = np.exp(-((places - yx_px[:, :, None]) ** 2) / (2 * sigma_px**2))
    spots = (heights[:, None] * profile[:, 0])[:, :, None] * profile[:, 1, None, :]
    wide = np.zeros((size_px + 2 * reach,) * 2)
    inside = np.clip(places + reach, 0, size_px + 2 * reach - 1)
    np.add.at(wide, (inside[:, 0, :, None], inside[:, 1, None, :]), spots)
    return np.ascontiguousarray(wide[reach : reach + size_px, reach : reach + size_px])


def sample(seen: Float[np.ndarray, "v u"], zoom: float) -> Float[np.ndarray, "y x"]:
    """Sample an image on the target's grid at the centres of the source's pixels.

    No pixel's area is taken into account: the blur, as it was estimated, holds that.
    """
    if is_same_grid((zoom, zoom)):
        return seen
    v, u = ((np.arange(int(n / zoom + 0.01)) + 0.5) * zoom - 0.5 for n in seen.shape)
    places = np.meshgrid(v, u, indexing="ij")
    sampled: Float[np.ndarray, "y x"] = ndimage.map_coordinates(seen, places, mode="mirror")
    return sampled


def add_noise(
    grey: Float[np.ndarray, "y x"], forward: Forward, *, rng: np.random.Generator
) -> Float[np.ndarray, "y x"]:
    """Return one exposure of expected grey values, in whole grey values."""
    noise = forward.noise
    light = np.maximum(grey - noise.zero, 0).astype(np.float64)
    shot = noise.gain * rng.poisson(light / noise.gain) - light if noise.gain > 0 else 0.0
    return np.rint(grey + shot + rng.normal(0, noise.read_noise, grey.shape))


def cell_centres(
    source_fwhm_px: float, *, size_px: int, rng: np.random.Generator
) -> Float[np.ndarray, "n 2"]:
    """Return places of scenes that don't disturb each other, none of them on a regular grid."""
    cell_px = CELL * source_fwhm_px
    middles = (np.arange(max(1, int(size_px / cell_px))) + 0.5) * cell_px
    places = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)
    jitter_px = _JITTER * source_fwhm_px
    return places + rng.uniform(-jitter_px, jitter_px, places.shape)


def light_of(
    image: Float[np.ndarray, "y x"], yx_px: Float[np.ndarray, "n 2"], *, radius_px: float
) -> Float[np.ndarray, "n"]:
    """Return the light within a radius of each place, grey values times pixels.

    It is counted from the median of the rings around all the places, up to 1.2 times as far.
    """
    reach = math.ceil(_RING * radius_px)
    steps = np.moveaxis(np.mgrid[-reach : reach + 1, -reach : reach + 1], 0, -1).reshape(-1, 2)
    distance = np.hypot(*steps.T)
    places = np.rint(yx_px).astype(int)[:, None] + steps
    inside = np.all((places >= 0) & (places < image.shape), axis=-1)
    y, x = np.moveaxis(np.clip(places, 0, np.array(image.shape) - 1), -1, 0)
    grey = image.astype(np.float64)[y, x]
    ring = inside & (distance > radius_px) & (distance <= _RING * radius_px)
    level = float(np.median(grey[ring])) if ring.any() else float(np.median(image))
    light: Float[np.ndarray, "n"] = ((grey - level) * inside)[:, distance <= radius_px].sum(axis=1)
    return light


def nearest_spot(
    found_yx_px: Float[np.ndarray, "m 2"],
    yx_px: Float[np.ndarray, "n 2"],
    *,
    radius_px: float,
) -> list[list[int]]:
    """Return which of the found spots lie within a radius of each place."""
    near: list[list[int]] = (
        KDTree(found_yx_px.reshape(-1, 2))
        .query_ball_point(yx_px, radius_px, return_sorted=True)
        .tolist()
    )
    return near
