"""Pixels of one grid -> pixels of another, resampled once.

The kernel is the cubic of Keys (a = -1/2): it keeps a constant as it is and, unless it thins the
pixels out, every parabola.
Linear interpolation blurs, and a cubic spline rings on for many pixels around a hot one, where
this kernel has a single side lobe of 7 %.

Keys, R. IEEE Trans. ASSP 29, 1153-1160 (1981), doi 10.1109/TASSP.1981.1163711.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Num

Grey = Float[np.ndarray, "_y _x"]
"""One plane; two of them may differ in size."""


@dataclass(frozen=True)
class Axis:
    """One axis of a resampling: how new pixels lie on the old ones.

    old_px = scale * new_px + offset,  pixel centres at whole numbers.

    Attributes
    ----------
    new_px, old_px : int
        Lengths.
    scale : float
        Old pixels per new pixel.
    shift_px : float
        Displacement of the content in new pixels; 0 where both grids share their corner.
    """

    new_px: int
    old_px: int
    scale: float
    shift_px: float

    @property
    def offset(self) -> float:
        """The old pixel, counted in fractions, at new pixel 0."""
        return (self.shift_px + 0.5) * self.scale - 0.5

    @property
    def stretch(self) -> float:
        """Widening of the kernel: it covers a new pixel, so that thinning out doesn't alias."""
        return max(1.0, self.scale)

    @property
    def start(self) -> int:
        """The first new pixel whose kernel lies within the old ones."""
        first = (2 * self.stretch - 1 - self.offset) / self.scale
        return max(0, math.ceil(first))

    @property
    def stop(self) -> int:
        """One past the last new pixel whose kernel lies within the old ones."""
        last = (self.old_px - 2 * self.stretch - self.offset) / self.scale
        return min(self.new_px, math.floor(last) + 1)


def resample(
    pixels: Num[np.ndarray, "y x"],
    zoom: tuple[float, float],
    phase: tuple[float, float] = (0.0, 0.0),
) -> Num[np.ndarray, "v u"]:
    """Resample a whole plane to `zoom` (y, x) new pixels per old one, the corner kept.

    Or with a corner that lies a `phase` of an old pixel farther. Border pixels are repeated beyond
    the border. With a zoom of 1, to 1e-4 (files round their pixel sizes), and no phase the plane is
    returned as it is; else it is float64.
    """
    if is_same_grid(zoom) and not any(phase):
        return pixels
    height, width = zoomed_shape(pixels.shape, zoom)
    whole = slice(0, height), slice(0, width)
    return resample_part(lambda y, x: pixels[y, x], pixels.shape, zoom, *whole, phase)


def is_same_grid(zoom: tuple[float, float]) -> bool:
    """Tell whether a zoom is 1, to what files round their pixel sizes."""
    return all(abs(z - 1) <= 1e-4 for z in zoom)


def zoomed_shape(shape: tuple[int, ...], zoom: tuple[float, float]) -> tuple[int, int]:
    """Return the height and the width of what `resample` makes of a plane of this shape."""
    if is_same_grid(zoom):
        return shape[0], shape[1]
    y, x = (max(1, int(n * z + 0.01)) for n, z in zip(shape, zoom, strict=True))
    return y, x


def resample_part(
    read: Callable[[slice, slice], Num[np.ndarray, "_y _x"]],
    shape: tuple[int, ...],
    zoom: tuple[float, float],
    y: slice,
    x: slice,
    phase: tuple[float, float] = (0.0, 0.0),
) -> Num[np.ndarray, "v u"]:
    """Return a part of what `resample` makes of a plane, the same to the last bit.

    Parameters
    ----------
    read : callable
        From slices of old pixels, y and x, to those pixels: no more than the part needs is read.
    shape : (y, x)
        Of the whole plane, old pixels.
    zoom : (y, x)
    y, x : slice
        Of new pixels, both ends given.
    phase : (y, x)
        By how much of an old pixel farther they lie.
    """
    if is_same_grid(zoom) and not any(phase):
        return read(y, x)
    sums = []
    new_shape = zoomed_shape(shape, zoom)
    for part, n, z, new_px, shift in zip((y, x), shape, zoom, new_shape, phase, strict=True):
        axis = Axis(new_px, n, 1 / z, shift * z)
        taps, weights = _taps(axis, part.start, part.stop)
        sums.append((np.clip(taps, 0, n - 1), weights))
    rows, columns = (slice(int(taps.min()), int(taps.max()) + 1) for taps, _ in sums)
    pixels = read(rows, columns).astype(np.float64)
    for (taps, weights), origin in zip(sums, (rows.start, columns.start), strict=True):
        pixels = _summed(pixels, taps - origin, weights)
    return np.ascontiguousarray(pixels)


def resample_within(pixels: Grey, y: Axis, x: Axis) -> Grey:
    """Resample to the new pixels start..stop of both axes, those that old ones wholly support."""
    for axis in (y, x):
        taps, weights = _taps(axis, axis.start, axis.stop)
        pixels = _summed(pixels, np.clip(taps, 0, axis.old_px - 1), weights)
    return np.ascontiguousarray(pixels)


def _taps(
    axis: Axis, start: int, stop: int
) -> tuple[Int[np.ndarray, "new taps"], Float[np.ndarray, "new taps"]]:
    """Return which old pixels new ones are the sum of, border or not, and their weights."""
    positions = axis.scale * np.arange(start, stop) + axis.offset
    first = np.ceil(positions - 2 * axis.stretch).astype(int)
    taps = first[:, None] + np.arange(math.floor(4 * axis.stretch) + 1)
    weights = _keys((taps - positions[:, None]) / axis.stretch)
    return taps, weights / weights.sum(axis=1, keepdims=True)


def _summed(
    pixels: Grey, taps: Int[np.ndarray, "new taps"], weights: Float[np.ndarray, "new taps"]
) -> Grey:
    """Sum rows and turn: the second turn brings y to the front again."""
    total = sum(w[:, None] * pixels[t] for w, t in zip(weights.T, taps.T, strict=True))
    return np.asarray(total).T


def resample_at(
    pixels: Grey, positions_px: Float[np.ndarray, "2 y x"], *, stretch: float = 1.0
) -> Grey:
    """Resample to any positions (old px, y and x), all of them `supported`.

    `stretch` widens the kernel where new pixels lie wider apart than old ones.
    """
    taps = math.ceil(4 * stretch)
    first = np.floor(positions_px - 2 * stretch).astype(int) + 1
    weights = np.stack([_keys((first + k - positions_px) / stretch) for k in range(taps)])
    weights /= weights.sum(axis=0)  # tap axis y x
    total = np.zeros(positions_px.shape[1:])
    for i in range(taps):
        row = np.clip(first[0] + i, 0, pixels.shape[0] - 1)
        along_x = np.zeros_like(total)
        for j in range(taps):
            column = np.clip(first[1] + j, 0, pixels.shape[1] - 1)
            along_x += weights[j, 1] * pixels[row, column]
        total += weights[i, 0] * along_x
    return total


def supported(
    positions_px: Float[np.ndarray, "2 y x"], shape: tuple[int, ...], *, stretch: float = 1.0
) -> Bool[np.ndarray, "y x"]:
    """Return where the kernel lies within the old pixels."""
    inside = np.ones(positions_px.shape[1:], dtype=bool)
    for position, length in zip(positions_px, shape, strict=True):
        inside &= (position >= 2 * stretch - 1) & (position <= length - 2 * stretch)
    return inside


def in_blocks(pixels: Num[np.ndarray, "*n y x"], block_px: int) -> Float32[np.ndarray, "*n v u"]:
    """Return the means of blocks; those at the border repeat the last pixels."""
    whole = pixels.astype(np.float32)
    if block_px == 1:
        return whole
    missing = [(0, -n % block_px) for n in pixels.shape[-2:]]
    if np.any(missing):
        whole = np.pad(whole, [(0, 0)] * (pixels.ndim - 2) + missing, mode="edge")
    # every so many are added up: ten times as fast as numpy sums along a short axis
    rows = functools.reduce(np.add, (whole[..., n::block_px, :] for n in range(block_px)))
    sums = functools.reduce(np.add, (rows[..., n::block_px] for n in range(block_px)))
    means: Float32[np.ndarray, "*n v u"] = sums / np.float32(block_px**2)
    return means


def _keys(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
