"""Model + plane -> plane, tile by tile, as if the network had seen the whole plane at once.

The plane is cut into tiles that begin at multiples of the network's stride, each read with a halo
around it and cropped after the network. Beyond the plane's border there is what was beyond the
border of every training patch, nothing; the last rows and columns are repeated up to a multiple of
the stride. (A mirrored border would make whole objects of those that it cuts.)

With the measured halo the tiles equal the whole to 1e-5 of the range in float32. With `exact` the
halo is the network's full reach and all shapes are computed by one kernel, slower: then they are
equal to the last bit, whatever the tile's size. In bfloat16 the halo is shorter, for what it leaves
out, 1e-4 of the range in float32, is less than a tenth of what rounding does; tiles and whole then
differ by no more than either does from float32.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num
from torch import nn

from crosscope.data.sampling import Scaling
from crosscope.model.engine import Engine, one_kernel
from crosscope.model.model import Model
from crosscope.model.runners import ready

TILE_PX = 1024


@dataclass(frozen=True)
class Tile:
    """One axis of a tile: what is read, and what of it is written. Padded pixels, stop excluded."""

    read_start: int
    read_stop: int
    start: int
    stop: int


def sharpen(
    model: Model,
    plane: Num[np.ndarray, "y x"],
    *,
    engine: Engine,
    network: nn.Module | None = None,
    source_scaling: Scaling | None = None,
    tile_px: int = TILE_PX,
    exact: bool = False,
    watch: Callable[[float], None] = lambda done: None,
) -> Float[np.ndarray, "y x"]:
    """Apply a model to one plane of source grey values on the target's grid.

    Parameters
    ----------
    model : Model
    plane : (y, x)
        Of any size; finite.
    engine : Engine
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
    (y, x) float32
        Grey values of the target modality.
    """
    network = network or model.generator
    stride = int(network.stride)  # type: ignore[arg-type]
    reach = model.reach
    halo_px = reach.rounded_px if engine.precision == "bfloat16" else reach.halo_px
    if exact:
        assert engine.library == "torch", "other libraries' kernels depend on the shape"
        halo_px = reach.exact_px
    tile_px = -(-tile_px // stride) * stride
    scaling = source_scaling or model.source_scaling
    padding = [(0, -n % stride) for n in plane.shape]
    padded = np.pad(plane, padding, mode="edge")
    result = np.empty(padded.shape, np.float32)
    tiles = [
        (y, x)
        for y in cut_axis(padded.shape[0], tile_px, halo_px)
        for x in cut_axis(padded.shape[1], tile_px, halo_px)
    ]
    kernels = one_kernel() if exact and engine.precision == "float32" else nullcontext()
    with engine.in_use(), kernels:
        run = ready(engine, network)
        for n, (y, x) in enumerate(tiles):
            read = padded[y.read_start : y.read_stop, x.read_start : x.read_stop]
            output = run(scaling.apply(read))
            top, left = y.start - y.read_start, x.start - x.read_start
            result[y.start : y.stop, x.start : x.stop] = model.target_scaling.undo(
                output[top : top + y.stop - y.start, left : left + x.stop - x.start]
            )
            watch((n + 1) / len(tiles))
    return result[: plane.shape[0], : plane.shape[1]]


def cut_axis(length: int, tile_px: int, halo_px: int) -> Iterator[Tile]:
    """Cut an axis into tiles, each with a halo that ends at the border."""
    for start in range(0, length, tile_px):
        stop = min(start + tile_px, length)
        yield Tile(max(0, start - halo_px), min(length, stop + halo_px), start, stop)
