"""Frames of a time-lapse -> their rolling average, which flickers less by their noise.

    average(t) = w frame(t - 1) + (1 - 2 w) frame(t) + w frame(t + 1)

The first frame and the last have one neighbour, and take the missing one's weight themselves. Of
independent noise (1 - 2 w)^2 + 2 w^2 of the power is left between them; of what flashes in one
frame 1 - 2 w.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from crosscope.data.slides import Place

MOST = 1 / 3
"""The largest weight: three frames count alike."""


def roll(frames: Float32[np.ndarray, "t *shape"], weight: float) -> Float32[np.ndarray, "t *shape"]:
    """Return the rolling average of all frames."""
    averaged = np.empty_like(frames)
    for n in range(len(frames)):
        averaged[n] = average([frames[t] for t in _near(n, len(frames))], weight)
    return averaged


def average(
    near: Sequence[Float32[np.ndarray, "*shape"]], weight: float | None
) -> Float32[np.ndarray, "*shape"]:
    """Return what comes of `planes_near`: of three frames the middle one's rolling average."""
    if weight is None or len(near) == 1:
        return near[0]
    before, frame, after = near
    return (1 - 2 * weight) * frame + weight * (before + after)


def planes_near(place: Place, axes: str, frames: int, weight: float | None) -> list[Place]:
    """Return the planes that a plane is made from: three frames' of a time-lapse, or itself."""
    if not weight or not axes.startswith("t"):
        return [place]
    return [(t, *place[1:]) for t in _near(place[0], frames)]


def _near(n: int, frames: int) -> tuple[int, int, int]:
    return max(n - 1, 0), n, min(n + 1, frames - 1)
