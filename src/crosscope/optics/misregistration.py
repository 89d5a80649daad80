"""Positions in the target's frame -> positions in the source's: what comes between two instruments.

A point p of the sample, where the target sees it, is seen by the source at

    warp(p) = centre + scale R (p - centre) + shift + u(p),  R = [[cos, -sin], [sin, cos]] on (y, x)

with a smooth elastic part u, a sum of plane waves whose frequencies are drawn from a Gaussian: a
random field with the correlation exp(-d^2 / 2 length^2).  The emitters are moved, never the pixels,
so the truth is exact.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

_WAVES = 12


@dataclass(frozen=True)
class Misregistration:
    """How far two instruments may disagree; a warp is drawn from these ranges for each pair.

    Attributes
    ----------
    shift_nm : float
        Each component of the shift lies within plus or minus this.
    rotation_deg : float
        The rotation about the field's centre lies within plus or minus this.
    scale : float
        The magnification lies within 1 plus or minus this.
    elastic_nm : float
        Largest length of the elastic displacement in the field.
    elastic_length_nm : float
        Its correlation length.
    """

    shift_nm: float = 0.0
    rotation_deg: float = 0.0
    scale: float = 0.0
    elastic_nm: float = 0.0
    elastic_length_nm: float = 30_000.0


ALIGNED = Misregistration()


@dataclass(frozen=True)
class Wave:
    """One plane wave of displacement: amplitude cos(2 pi frequency . p + phase)."""

    amplitude_yx_nm: tuple[float, float]
    frequency_yx_per_nm: tuple[float, float]
    phase_rad: float


@dataclass(frozen=True)
class Warp:
    """Where the source sees what the target sees; the equation stands at the head of the module."""

    centre_yx_nm: tuple[float, float]
    shift_yx_nm: tuple[float, float] = (0.0, 0.0)
    rotation_deg: float = 0.0
    scale: float = 1.0
    waves: tuple[Wave, ...] = ()

    def to_source_nm(self, points_yx_nm: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map points of the target's frame to the source's, both in nm from the field's corner."""
        cos, sin = np.cos(np.radians(self.rotation_deg)), np.sin(np.radians(self.rotation_deg))
        matrix = self.scale * np.array([[cos, -sin], [sin, cos]])
        centre = np.array(self.centre_yx_nm)
        moved = (points_yx_nm - centre) @ matrix.T + centre + np.array(self.shift_yx_nm)
        return moved + _displacement(self.waves, points_yx_nm)

    def to_json(self) -> dict[str, Any]:
        """Return the warp as what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Warp":
        """Rebuild a warp from `to_json`, also after a way through a JSON file."""
        waves = (
            Wave(
                amplitude_yx_nm=tuple(wave["amplitude_yx_nm"]),
                frequency_yx_per_nm=tuple(wave["frequency_yx_per_nm"]),
                phase_rad=wave["phase_rad"],
            )
            for wave in value["waves"]
        )
        return cls(
            centre_yx_nm=tuple(value["centre_yx_nm"]),
            shift_yx_nm=tuple(value["shift_yx_nm"]),
            rotation_deg=value["rotation_deg"],
            scale=value["scale"],
            waves=tuple(waves),
        )


def draw_warp(ranges: Misregistration, *, extent_nm: float, rng: np.random.Generator) -> Warp:
    """Draw the warp of one pair.

    Parameters
    ----------
    extent_nm : float
        Side of the square field that both instruments look at.
    """
    shift = ranges.shift_nm * rng.uniform(-1, 1, 2)
    rotation = ranges.rotation_deg * rng.uniform(-1, 1)
    scale = 1 + ranges.scale * rng.uniform(-1, 1)
    waves = _elastic_waves(ranges, extent_nm, rng) if ranges.elastic_nm > 0 else ()
    return Warp(
        centre_yx_nm=(extent_nm / 2, extent_nm / 2),
        shift_yx_nm=(float(shift[0]), float(shift[1])),
        rotation_deg=float(rotation),
        scale=float(scale),
        waves=waves,
    )


def _elastic_waves(
    ranges: Misregistration, extent_nm: float, rng: np.random.Generator
) -> tuple[Wave, ...]:
    amplitude = rng.normal(size=(_WAVES, 2))
    frequency = rng.normal(0, 1 / (2 * np.pi * ranges.elastic_length_nm), (_WAVES, 2))
    phase = rng.uniform(0, 2 * np.pi, _WAVES)

    def waves(size: float) -> tuple[Wave, ...]:
        return tuple(
            Wave((size * a[0], size * a[1]), (f[0], f[1]), p)
            for a, f, p in zip(amplitude.tolist(), frequency.tolist(), phase.tolist(), strict=True)
        )

    ticks = np.linspace(0, extent_nm, 33)
    field = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
    peak = np.linalg.norm(_displacement(waves(1.0), field), axis=1).max()
    return waves(ranges.elastic_nm / float(peak))


def _displacement(
    waves: tuple[Wave, ...], points_yx_nm: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    total = np.zeros(points_yx_nm.shape)
    for wave in waves:  # one by one: millions of points times all waves would not fit
        angle = 2 * np.pi * points_yx_nm @ np.array(wave.frequency_yx_per_nm) + wave.phase_rad
        total += np.cos(angle)[:, None] * np.array(wave.amplitude_yx_nm)
    return total
