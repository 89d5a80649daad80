"""Model + planes -> planes, tile by tile, as if the network had seen each plane at once.

A plane is cut into tiles that begin at multiples of the network's stride, each read with a halo
around it and cropped after the network. Beyond the plane's border there is what was beyond the
border of every training patch, nothing; the last rows and columns are repeated up to a multiple of
the stride. (A mirrored border would make whole objects of those that it cuts.) Where the memory
does not suffice for a tile, it is halved.

With the measured halo the tiles equal the whole to 1e-5 of the range in float32. With `exact` the
halo is the network's full reach and all shapes are computed by one kernel, slower: then they are
equal to the last bit, whatever the tile's size. In bfloat16 the halo is shorter, for what it leaves
out, 1e-4 of the range in float32, is less than a tenth of what rounding does; tiles and whole then
differ by no more than either does from float32.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num
from torch import nn

from crosscope.data.errors import InputError
from crosscope.data.grids import resample_part, zoomed_shape
from crosscope.data.sampling import Scaling
from crosscope.model.engine import Engine, one_kernel
from crosscope.model.model import Model
from crosscope.model.runners import ready

TILE_PX = 768
LEAST_PX = 64  # of a tile that is halved because the memory does not suffice
_ALONE = threading.Lock()  # PyTorch's threads and kernels are set for the whole process

Read = Callable[[slice, slice], Num[np.ndarray, "n _y _x"]]
"""From slices y and x of the target's grid, within the plane, to grey values of the source."""


@dataclass(frozen=True)
class Tile:
    """One axis of a tile: what is read, and what of it is written. Padded pixels, stop excluded."""

    read_start: int
    read_stop: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Sharpener:
    """A model made ready for work on this machine.

    Attributes
    ----------
    network : nn.Module
    engine : Engine
    source_scaling, target_scaling : Scaling
    stride, halo_px : int
        What tiles begin at multiples of, and what they are read with around them.
    exact : bool
        Compute all shapes by one kernel.
    """

    network: nn.Module
    engine: Engine
    source_scaling: Scaling
    target_scaling: Scaling
    stride: int
    halo_px: int
    exact: bool

    def apply(self, planes: Num[np.ndarray, "n y x"]) -> Float[np.ndarray, "n y x"]:
        """Apply the network: grey values to grey values; sides are multiples of the stride."""
        one = one_kernel() if self.exact and self.engine.precision == "float32" else nullcontext()
        with _ALONE, self.engine.in_use(), one:
            output = ready(self.engine, self.network)(self.source_scaling.apply(planes))
        return self.target_scaling.undo(output)


def make_sharpener(
    model: Model,
    *,
    engine: Engine,
    network: nn.Module | None = None,
    source_scaling: Scaling | None = None,
    exact: bool = False,
) -> Sharpener:
    """Make a model's generator, or another network of its, ready; see `sharpen`."""
    network, reach = network or model.generator, model.reach
    halo_px = reach.rounded_px if engine.precision == "bfloat16" else reach.halo_px
    if exact:
        assert engine.backend == "torch", "other libraries' kernels depend on the shape"
        halo_px = reach.exact_px
    return Sharpener(
        network=network,
        engine=engine,
        source_scaling=source_scaling or model.source_scaling,
        target_scaling=model.target_scaling,
        stride=int(network.stride),  # type: ignore[arg-type]
        halo_px=halo_px,
        exact=exact,
    )


def sharpen(
    model: Model,
    planes: Num[np.ndarray, "n y x"],
    *,
    engine: Engine,
    zoom: tuple[float, float] = (1.0, 1.0),
    network: nn.Module | None = None,
    source_scaling: Scaling | None = None,
    tile_px: int = TILE_PX,
    exact: bool = False,
    watch: Callable[[float], None] = lambda done: None,
) -> Float[np.ndarray, "n v u"]:
    """Apply a model to planes of source grey values; small ones go through it several at a time.

    Parameters
    ----------
    model : Model
    planes : (n, y, x)
        Of any size; finite.
    engine : Engine
    zoom : (y, x)
        Pixels of the target's grid per pixel of the planes'.
    network : nn.Module, optional
        The model's twin, say; else its generator.
    source_scaling : Scaling, optional
        Where the camera's offset differs from the training's; else the model's.
    tile_px : int
        Side of the written part of a tile, rounded up to the stride; bounds the memory.
    exact : bool
        Overlap the tiles by the full reach and compute all shapes alike, with PyTorch.
    watch : callable
        Told the part done, 0 to 1.

    Returns
    -------
    (n, v, u) float32
        Grey values of the target modality on the target's grid.

    Raises
    ------
    InputError
        The memory does not suffice even for a small tile.
    """
    sharpener = make_sharpener(
        model, engine=engine, network=network, source_scaling=source_scaling, exact=exact
    )
    height, width = shape = zoomed_shape(planes.shape[1:], zoom)
    result = np.empty((len(planes), *shape), np.float32)
    tiles = list(cut_plane(shape, tile_px, sharpener))
    at_once = max(1, tile_px**2 // (height * width))
    groups = [planes[n : n + at_once] for n in range(0, len(planes), at_once)]
    for i, group in enumerate(groups):
        read = read_from(group, zoom)
        for j, (y, x) in enumerate(tiles):
            part = result[i * at_once :][: len(group), y.start : y.stop, x.start : x.stop]
            part[:] = sharpen_tile(sharpener, read, shape, y, x)
            watch((i + (j + 1) / len(tiles)) / len(groups))
    return result


def read_from(planes: Num[np.ndarray, "n y x"], zoom: tuple[float, float]) -> Read:
    """Return a function that gives parts of planes on the target's grid."""

    def read(y: slice, x: slice) -> Num[np.ndarray, "n _y _x"]:
        parts = [
            resample_part(lambda v, u, p=plane: p[v, u], plane.shape, zoom, y, x)  # type: ignore[misc]
            for plane in planes
        ]
        return np.stack(parts)

    return read


def cut_plane(
    shape: tuple[int, int], tile_px: int, sharpener: Sharpener
) -> Iterator[tuple[Tile, Tile]]:
    """Cut a plane of the target's grid into tiles, row by row; they end where the plane ends."""
    stride = sharpener.stride
    tile_px = -(-tile_px // stride) * stride
    rows, columns = (list(cut_axis(n + -n % stride, tile_px, sharpener.halo_px)) for n in shape)
    for y in rows:
        for x in columns:
            yield y, x


def cut_axis(length: int, tile_px: int, halo_px: int) -> Iterator[Tile]:
    """Cut an axis into tiles, each with a halo that ends at the border."""
    for start in range(0, length, tile_px):
        yield _tile(start, min(start + tile_px, length), length, halo_px)


def make_tile(start: int, stop: int, length: int, sharpener: Sharpener) -> Tile:
    """Return the tile that is written from start to stop of an axis, which it may end with."""
    stride = sharpener.stride
    padded = length + -length % stride
    return _tile(start, padded if stop == length else stop, padded, sharpener.halo_px)


def _tile(start: int, stop: int, length: int, halo_px: int) -> Tile:
    return Tile(max(0, start - halo_px), min(length, stop + halo_px), start, stop)


def sharpen_tile(
    sharpener: Sharpener, read: Read, shape: tuple[int, int], y: Tile, x: Tile
) -> Float[np.ndarray, "n v u"]:
    """Predict the written part of one tile, in halves where the memory does not suffice.

    `shape` is that of the plane, in which the part ends.
    """
    try:
        planes = _padded(read, shape, y, x)
        top, left = y.start - y.read_start, x.start - x.read_start
        bottom, right = (min(t.stop, n) - t.read_start for t, n in zip((y, x), shape, strict=True))
        return sharpener.apply(planes)[:, top:bottom, left:right]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        tall = y.stop - y.start >= x.stop - x.start
        longer, length = (y, shape[0]) if tall else (x, shape[1])
        if longer.stop - longer.start <= LEAST_PX:
            reason = f"the memory does not suffice for a tile of {LEAST_PX} px"
            raise InputError("prediction", reason, "Close other programs") from error
    # outside the handler, whose traceback holds what was allocated
    halves = _halve(longer, length, sharpener)
    parts = [
        sharpen_tile(sharpener, read, shape, *((half, x) if tall else (y, half))) for half in halves
    ]
    return np.concatenate(parts, axis=1 if tall else 2)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory could not be had, on the processor or on a card."""
    words = ["allocate memory", "out of memory", "bad_alloc"]
    # oneDNN tells nothing else
    words += ["could not create a primitive", "could not create a memory", "could not execute a"]
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _halve(tile: Tile, length: int, sharpener: Sharpener) -> tuple[Tile, Tile]:
    stride = sharpener.stride
    middle = tile.start + -(-(tile.stop - tile.start) // (2 * stride)) * stride
    return (
        make_tile(tile.start, middle, length, sharpener),
        make_tile(middle, min(tile.stop, length), length, sharpener),
    )


def _padded(read: Read, shape: tuple[int, int], y: Tile, x: Tile) -> Num[np.ndarray, "n v u"]:
    """Read a tile with its halo; what lies beyond the plane repeats its last pixels."""
    rows, columns = (
        slice(t.read_start, min(t.read_stop, n)) for t, n in zip((y, x), shape, strict=True)
    )
    beyond = [(0, max(0, t.read_stop - n)) for t, n in zip((y, x), shape, strict=True)]
    return np.pad(read(rows, columns), [(0, 0), *beyond], mode="edge")
