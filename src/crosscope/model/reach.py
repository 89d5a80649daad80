"""Network -> how far an input pixel reaches in the output: what tiles must overlap by."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

TOLERANCE = 1e-6
"""Of the output's range: what the measured halo may leave, a tenth of what is promised."""
ROUNDED_TOLERANCE = 1e-4
"""The same for bfloat16, whose rounding changes the output of the models that come with the program
by 1e-3 to 5e-3 of its range at most, and 0.7 to 4e-4 RMS."""


@dataclass(frozen=True)
class Reach:
    """How far the network sees, in pixels of its grid.

    Attributes
    ----------
    exact_px : int
        No input pixel further away than this changes an output pixel at all.
    halo_px : int
        What lies further away changes the output by at most `TOLERANCE` of its range, measured
        on a real field.
    rounded_px : int
        The same for `ROUNDED_TOLERANCE`: enough where bfloat16 rounds more coarsely than that. All
        three are multiples of the network's stride.
    """

    exact_px: int
    halo_px: int
    rounded_px: int


@torch.no_grad()
def measure_reach(generator: nn.Module, field: Float[np.ndarray, "y x"]) -> Reach:
    """Measure the reach of a trained network on a scaled source field, in float32.

    The halo is found by doing what tiling does: the middle of the field is predicted from ever
    larger surroundings until it no longer differs from the prediction of the whole.
    """
    exact_px = _exact_reach(generator)
    stride = int(generator.stride)  # type: ignore[arg-type]
    tile_px = 8 * stride
    side = 2 * exact_px + tile_px
    whole = _at_least(field, side)
    expected = _centre(_run(generator, whole), tile_px)
    range_ = float(np.ptp(expected))
    errors: dict[int, float] = {}
    for halo_px in range(stride, exact_px, stride):
        tile = _centre(_run(generator, _centre(whole, tile_px + 2 * halo_px)), tile_px)
        errors[halo_px] = float(np.abs(tile - expected).max())
        if errors[halo_px] <= TOLERANCE * range_:
            break

    def smallest(tolerance: float) -> int:
        near = [px for px, error in errors.items() if error <= tolerance * range_]
        return min(near[0] + stride, exact_px) if near else exact_px  # other places need more

    return Reach(exact_px, smallest(TOLERANCE), smallest(ROUNDED_TOLERANCE))


def _exact_reach(generator: nn.Module) -> int:
    """Follow a NaN, which every sum and product passes on, from one stride cell outwards."""
    stride = int(generator.stride)  # type: ignore[arg-type]
    device = next(generator.parameters()).device
    cells = 8
    while True:
        x = torch.zeros(1, 1, stride, (2 * cells + 1) * stride, device=device)
        x[..., cells * stride : (cells + 1) * stride] = torch.nan
        touched = torch.isnan(generator(x))[0, 0].any(dim=0).nonzero()[:, 0]
        left = cells * stride - int(touched.min())
        right = int(touched.max()) - (cells + 1) * stride + 1
        if max(left, right) < cells * stride:
            return math.ceil(max(left, right) / stride) * stride
        cells *= 2


def _at_least(field: Float[np.ndarray, "y x"], side: int) -> Float[np.ndarray, "v u"]:
    """Mirror a field until it is a square of that side, or crop its middle."""
    pad = [(max(0, -(-(side - n) // 2)),) * 2 for n in field.shape]
    return _centre(np.pad(field, pad, mode="symmetric"), side)


def _centre(field: Float[np.ndarray, "y x"], side: int) -> Float[np.ndarray, "v u"]:
    y, x = ((n - side) // 2 for n in field.shape)
    return field[y : y + side, x : x + side]


def _run(generator: nn.Module, field: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    device = next(generator.parameters()).device
    x = torch.from_numpy(np.ascontiguousarray(field)).to(device)[None, None]
    output: Float[np.ndarray, "y x"] = generator(x)[0, 0].cpu().numpy()
    return output
