"""A model's own test tile -> whether an engine computes the model, or something else.

What is right is computed when it is asked for, by the plain float32 network with other kernels
than any engine's: the weights have a hash of their own, and a stored output would go stale where
they are rounded to half precision.

    float32     max |engine - right| <= 1e-4 of the output's range
    bfloat16    RMS (engine - right) <= 1.5 RMS (rounded - right), at least 1e-4 of the range,

`rounded` being the float32 network with its weights and what goes into and comes out of every
convolution rounded to bfloat16: what no engine of that precision can avoid. So the bound is as
narrow as the model allows. On the models that come with the program, and on `paper` networks of
random weights, PyTorch and OpenVINO have 1.00 to 1.12 times the error of rounding; one layer's bias
lost has 1.8 to 43 times, a kernel mirrored 12 to 120, noise of 3 % on all weights 3.4 to 7.6, the
last sum without the input 400 and more. In float32 both are within 4e-7, and 2e-6 for `paper`.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy import ndimage
from torch import Tensor, nn

from crosscope.model.engine import one_kernel

TILE_PX = 128
TOLERANCE = 1e-4
"""Of the output's range."""
ROUNDINGS = 1.5
"""How many times the error of mere rounding a bfloat16 engine may have."""
SMALLEST = 1e-30
"""A range, to be divided by."""

Run = Callable[[Float32[np.ndarray, "n y x"]], Float32[np.ndarray, "n y x"]]


def cut_tile(field: Float[np.ndarray, "y x"]) -> Float32[np.ndarray, "128 128"]:
    """Cut the test tile from a scaled source where it varies most; a small one is mirrored."""
    pad = [(0, max(0, TILE_PX - n)) for n in field.shape]
    whole = np.pad(field, pad, mode="symmetric").astype(np.float64)
    mean, square = (ndimage.uniform_filter(f, TILE_PX) for f in (whole, whole**2))
    half = TILE_PX // 2
    inside = tuple(slice(half, n - half + 1) for n in whole.shape)
    variance = (square - mean**2)[inside]
    y, x = np.unravel_index(variance.argmax(), variance.shape)
    return whole[y : y + TILE_PX, x : x + TILE_PX].astype(np.float32)


def random_tile() -> Float32[np.ndarray, "128 128"]:
    """Return the tile of a model that was not trained here, so that no field was at hand."""
    return np.random.default_rng(0).random((TILE_PX, TILE_PX), dtype=np.float32)


def find_error(
    run: Run, network: nn.Module, tile: Float32[np.ndarray, "y x"], *, precision: str
) -> str | None:
    """Say how a way to run a network is wrong on its tile; None where it is right.

    Parameters
    ----------
    run : callable
        Scaled source -> scaled target, both (n, y, x) float32.
    network : nn.Module
    tile : (y, x)
        Scaled source.
    precision : str
        "float32" or "bfloat16".
    """
    right = _compute(network, tile)
    error = run(tile[None])[0] - right
    range_ = max(float(np.ptp(right)), SMALLEST)
    if precision == "float32":
        word, off, allowed = "at most", float(np.abs(error).max()), TOLERANCE * range_
    else:
        word, off = "by RMS", _rms(error)
        rounding = _rms(_compute(_rounded(network), tile) - right)
        allowed = max(ROUNDINGS * rounding, TOLERANCE * range_)
    if off <= allowed:  # False for NaN, too
        return None
    parts = f"{off / range_:.1e} of the output's range where {allowed / range_:.1e} is allowed"
    return f"on the model's test tile it is {word} {parts} off"


def _compute(network: nn.Module, tile: Float32[np.ndarray, "y x"]) -> Float32[np.ndarray, "y x"]:
    device = next(network.parameters()).device
    with one_kernel(), torch.inference_mode():
        output: Tensor = network(torch.from_numpy(tile)[None, None].to(device))
    return output[0, 0].cpu().numpy()


def _rounded(network: nn.Module) -> nn.Module:
    """Return a copy that rounds what a bfloat16 engine must, and computes in float32."""
    network = copy.deepcopy(network).requires_grad_(False)

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.bfloat16().float() if isinstance(x, Tensor) else x for x in inputs)

    def after(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.bfloat16().float()

    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.weight.copy_(part.weight.bfloat16().float())
            part.register_forward_pre_hook(before)
            part.register_forward_hook(after)
    return network


def _rms(error: Float32[np.ndarray, "y x"]) -> float:
    return float(np.sqrt(np.square(error, dtype=np.float64).mean()))
