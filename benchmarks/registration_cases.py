"""Raw pairs with known truth, as two instruments give them: what registration is measured on.

The first four are the systems of `optics`.  The fifth, `differ`, is the hard one: beads and
filaments whose brightness is drawn anew in each image (log-normal, 0.5), a tenth of them missing in
each, haze and a gamma of 0.8 in the source, peaks of 20 and 60 photons, and a warp of shift,
rotation, scale and an elastic part of 1.5 px over 100 px.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

import crosscope as cs
from crosscope.optics.camera import Camera, expose
from crosscope.optics.misregistration import Misregistration, Warp, draw_warp
from crosscope.optics.psf import confocal_otf, sted_otf
from crosscope.optics.rendering import Grid, render

Array = npt.NDArray[Any]

DIFFER_NM = 36.0
HAZE_SHARE = 0.3  # of the source's peak
BEAD_LABELS = 10.0  # a bead is as bright as so many labels of a filament


@dataclass(frozen=True, eq=False)
class Case:
    """A raw pair, where its source truly sees the target's points, and where the sample is.

    Attributes
    ----------
    pair : RawPair
    warp : Warp or None
        None where source and target show different things.
    sample : (y, x) bool
        Target pixels inside structures: the noise-free target rises there above a tenth of the
        99.5th percentile of its rise.
    """

    pair: cs.RawPair
    warp: Warp | None
    sample: Array

    def true_source_px(self, points_yx_px: Array) -> Array:
        """Map points of the raw target (px) to the raw source (px), without any error."""
        assert self.warp is not None
        assert self.pair.target.pixel_size_nm is not None
        assert self.pair.source.pixel_size_nm is not None
        target_nm, source_nm = self.pair.target.pixel_size_nm, self.pair.source.pixel_size_nm
        seen_nm = self.warp.to_source_nm((points_yx_px + 0.5) * target_nm)
        return np.asarray(seen_nm / source_nm - 0.5)

    def error_px(self, to_source: Callable[[Array], Array], points_yx_px: Array) -> Array:
        """Return how far, in target px, a registration takes points from where they belong."""
        assert self.pair.target.pixel_size_nm is not None
        assert self.pair.source.pixel_size_nm is not None
        ratio = np.divide(self.pair.source.pixel_size_nm, self.pair.target.pixel_size_nm)
        off = (to_source(points_yx_px) - self.true_source_px(points_yx_px)) * ratio
        return np.asarray(np.hypot(*off.T))


def system_case(system: str, *, seed: int, size_px: int, **options: Any) -> Case:
    """Return one pair of a simulated system."""
    (pair,) = cs.simulate(system, pairs=1, seed=seed, size_px=size_px, **options)
    return Case(
        cs.RawPair(f"{system}-{seed}", pair.source, pair.target),
        pair.truth.warp,
        _inside(pair.truth.image.pixels.astype(np.float64)),
    )


def differ_case(*, seed: int, size_px: int, photons: tuple[float, float] = (20.0, 60.0)) -> Case:
    """Return a pair whose objects differ; see the head of the module."""
    rng = np.random.default_rng([77, seed])
    grid = Grid(size_px, DIFFER_NM, integrates=False)
    emitters, owner = _beads_and_filaments(rng, grid.extent_nm)
    ranges = Misregistration(
        shift_nm=3.4 * DIFFER_NM,
        rotation_deg=0.5,
        scale=0.01,
        elastic_nm=1.5 * DIFFER_NM,
        elastic_length_nm=100 * DIFFER_NM,
    )
    warp = draw_warp(ranges, extent_nm=grid.extent_nm, rng=rng)
    objects = int(owner.max()) + 1
    common = rng.lognormal(0, 0.3, objects)
    lights = []
    is_bead = np.bincount(owner)[owner] == 1
    for places, otf in ((warp.to_source_nm(emitters), confocal_otf()), (emitters, sted_otf())):
        own = common * rng.lognormal(0, 0.5, objects) * (rng.random(objects) > 0.1)
        light = render(places, own[owner] * np.where(is_bead, BEAD_LABELS, 1.0), otf=otf, grid=grid)
        lights.append(light / _typical_peak(light, places[is_bead & (own[owner] > 0)]))
    seen, sharp = lights
    haze = ndimage.gaussian_filter(seen, 40) + 0.5 * _cloud(rng, size_px, 80)
    seen = np.maximum(seen, 0) ** 0.8 + HAZE_SHARE * np.maximum(haze, 0) / haze.max()
    camera = Camera(offset=10.0, gain=1.0, read_noise=0.0, background=2.0)
    images = [
        cs.Image(
            expose(peak * light, camera, rng=rng), "yx", (DIFFER_NM, DIFFER_NM), name=f"{seed}"
        )
        for peak, light in zip(photons, (seen, sharp), strict=True)
    ]
    return Case(cs.RawPair(f"differ-{seed}", images[0], images[1]), warp, _inside(sharp))


def unrelated_case(system: str, *, seed: int, size_px: int) -> Case:
    """Return the source of one field with the target of another."""
    first, second = cs.simulate(system, pairs=2, seed=seed, size_px=size_px)
    pair = cs.RawPair(f"unrelated-{seed}", first.source, second.target)
    return Case(pair, None, np.zeros((size_px, size_px), bool))


def empty_case(*, seed: int, size_px: int) -> Case:
    """Return two images of nothing but noise."""
    rng = np.random.default_rng([78, seed])
    images = [
        cs.Image(rng.poisson(20, (size_px, size_px)).astype(np.uint16), "yx", (30.0, 30.0))
        for _ in range(2)
    ]
    return Case(
        cs.RawPair(f"empty-{seed}", images[0], images[1]), None, np.zeros((size_px, size_px), bool)
    )


def constant_case(*, seed: int, size_px: int) -> Case:
    """Return a source of one grey value with the target of a field of beads."""
    (pair,) = cs.simulate("confocal-sted", pairs=1, seed=seed, size_px=size_px)
    flat = pair.source.with_pixels(np.full_like(pair.source.pixels, 100 + seed))
    return Case(
        cs.RawPair(f"constant-{seed}", flat, pair.target), None, np.zeros((size_px, size_px), bool)
    )


def _inside(light: Array) -> Array:
    rise = light - np.percentile(light, 5)
    return np.asarray(rise > 0.1 * np.percentile(rise, 99.5))


def _typical_peak(light: Array, beads_yx_nm: Array) -> float:
    """Return the median of what is seen at the beads, as `optics` means photons."""
    pixel = np.floor(beads_yx_nm / DIFFER_NM).astype(int)
    inside = np.all((pixel >= 0) & (pixel < light.shape), axis=1)
    return float(np.median(light[tuple(pixel[inside].T)]))


def _cloud(rng: np.random.Generator, size_px: int, sigma_px: float) -> Array:
    field = ndimage.gaussian_filter(rng.normal(size=(size_px, size_px)), sigma_px, mode="wrap")
    return np.asarray((field - field.min()) / np.ptp(field))


def _beads_and_filaments(rng: np.random.Generator, extent_nm: float) -> tuple[Array, Array]:
    """Return positions (nm) and which object each belongs to; a margin of 10 % around the field."""
    margin = 0.1 * extent_nm
    side = extent_nm + 2 * margin
    beads = rng.uniform(-margin, side - margin, (round(0.6e-6 * side**2), 2))
    places, owner = [beads], [np.arange(len(beads))]
    for curve in range(round(0.045e-6 * side**2)):
        steps = rng.integers(60, 300)  # of 50 nm
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.06, steps))
        path = np.cumsum(50 * np.stack([np.sin(heading), np.cos(heading)], 1), axis=0)
        path = path + rng.uniform(-margin, side - margin, 2)
        labels = path[rng.integers(0, steps, 3 * steps)] + rng.normal(0, 12, (3 * steps, 2))
        places.append(labels)
        owner.append(np.full(len(labels), len(beads) + curve))
    return np.concatenate(places), np.concatenate(owner)
