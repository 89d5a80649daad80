"""Objects, frames -> how bright each is in each frame of a time-lapse, 1 being its full brightness.

A clathrin pit lives once, at its place, for a time T from its birth at t0.  With the age
a = (t - t0) / T and the smooth step s(u) = u^2 (3 - 2 u), held at 0 below and at 1 above,

    b(t) = s(a / 0.4) s((1 - a) / 0.15)

it grows for two fifths of its life (steadily: Ehrlich et al. 2004, doi 10.1016/j.cell.2004.08.017),
stays, and is gone within ten seconds or so.  T is log-normal about the 65 s that pits with dynamin
live (Aguet et al. 2013, doi 10.1016/j.devcel.2013.06.019); the widths of the steps and the spread
of T are chosen, not measured.  Births are even in time from T before the first frame to the last:
as many pits are there at any time, though not all that are ever there, and all are seen.

Everything else bleaches together, b(t) = exp(-t / tau): a first-order decay, a tenth in a minute.
"""

import numpy as np
from jaxtyping import Float

FRAME_S = 3.0  # from frame to frame: a pit's end takes three of them

_LIFE_S, _LIFE_SIGMA = 65.0, 0.4
_GROWTH, _END = 0.4, 0.15  # parts of a life
_BLEACHING_S = 600.0


def live_and_die(
    rng: np.random.Generator, *, objects: int, frames: int
) -> Float[np.ndarray, "m t"]:
    """Return the traces of pits, each with a life of its own, in frames `FRAME_S` apart."""
    life_s = rng.lognormal(np.log(_LIFE_S), _LIFE_SIGMA, (objects, 1))
    time_s = FRAME_S * np.arange(frames)
    born_s = rng.uniform(-life_s, time_s[-1])
    age = (time_s - born_s) / life_s
    return _step(age / _GROWTH) * _step((1 - age) / _END)


def bleach(*, objects: int, frames: int) -> Float[np.ndarray, "m t"]:
    """Return the traces of labels that only bleach, all alike, in frames `FRAME_S` apart."""
    return np.tile(np.exp(-FRAME_S * np.arange(frames) / _BLEACHING_S), (objects, 1))


def _step(u: Float[np.ndarray, "m t"]) -> Float[np.ndarray, "m t"]:
    u = np.clip(u, 0, 1)
    return u**2 * (3 - 2 * u)
