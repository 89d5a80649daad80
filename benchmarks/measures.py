"""What the measures reach: against known truth, and on real images.

    python benchmarks/measures.py [--seeds 9] [--out FILE]

A row spans the medians over the seeds of all its conditions (width, cut-off, exposure); beside it
stand what was asked and how many single runs kept to it.  Photons are those of the peak (FRC: the
mean).  The real images are taken from `../shared/data`; where that folder is absent it says so and
leaves them out.  Their truth is not known: two exposures are the reference of one.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from machine import describe_machine
from scipy import fft
from scipy.ndimage import gaussian_filter

import crosscope as cs
from crosscope.metrics import frc
from crosscope.metrics.decorrelation import measure_decorrelation
from crosscope.metrics.interval import bootstrap_interval
from crosscope.metrics.psf import fit_spots, half_maximum_widths
from crosscope.metrics.spots import compare_spots, isolated
from crosscope.metrics.squirrel import measure_squirrel
from crosscope.optics.psf import Otf, fwhm_nm, point_spread, sted_otf, widefield_otf
from crosscope.optics.rendering import Grid, render

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "measures.json"
BACKGROUND = 10.0  # photons per pixel
JITTER_PER_PX = 0.15  # rows that jitter reach every f_y, but only so low an f_x

Grey = npt.NDArray[Any]
Row = dict[str, Any]
Runs = dict[str, list[float]]  # condition -> seeds; NaN where a measure gave no answer


def main() -> None:
    """Measure all, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    seeds = range(asked.seeds)
    rows = [*widths(seeds), *ring_correlations(seeds), explained_blur(seeds), *cutoffs(seeds)]
    if DATA.is_dir():
        rows += [*confocal(), *beads()]
    else:
        print(f"Skipped: the real images are not in {DATA}")
    figures = {"machine": describe_machine(), "seeds": asked.seeds, "rows": rows}
    asked.out.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")


def judge(measure: str, runs: Runs, asked: tuple[float, float] | None, unit: str = "% off") -> Row:
    """Print and return a row: met where every condition's median is within what was asked."""
    medians = {condition: float(np.nanmedian(values)) for condition, values in runs.items()}
    span = f"{min(medians.values()):.5g} to {max(medians.values()):.5g} {unit}"
    row: Row = {"measure": measure, "unit": unit, "asked": asked}
    verdict = ""
    if asked:
        low, high = asked
        held = [low <= value <= high for values in runs.values() for value in values]
        row["met"] = all(low <= median <= high for median in medians.values())
        row["runs_within"] = f"{sum(held)} of {len(held)}"
        row["without_answer"] = int(np.isnan(np.concatenate(list(runs.values()))).sum())
        verdict = f"{low:g} to {high:g} {'met' if row['met'] else 'MISSED'}, {row['runs_within']}"
        verdict += f", {row['without_answer']} no answer" if row["without_answer"] else ""
    print(f"{measure:57} {span:29} {verdict}")
    answers = {k: [None if math.isnan(v) else v for v in each] for k, each in runs.items()}
    return row | {"medians": medians, "runs": answers}


def off(found: float | None, truth: float) -> float:
    """Return the relative error in percent."""
    return math.nan if found is None else 100 * (float(found) / truth - 1)


def expose(photons: Grey, seed: int) -> Grey:
    """Draw what a detector counts."""
    return np.random.default_rng(1000 + seed).poisson(np.maximum(photons, 0)).astype(np.float64)


def widths(seeds: range) -> list[Row]:
    """Measure 400 spots of known shape and width; an average counts where 98 % have one."""
    k = np.linspace(0, 1 / 60, 1025)
    shapes = {
        "Gaussian": (Otf(k, np.exp(-((np.pi * 290 * k) ** 2) / (4 * np.log(2)))), 290.0),
        "Airy": (widefield_otf(na=1.4, emission_nm=670.0), 0.51450 * 670 / 1.4),
        "STED": (sted_otf(), fwhm_nm(sted_otf())),
    }
    runs: dict[tuple[str, str, str], Runs] = defaultdict(lambda: defaultdict(list))
    for (shape, (otf, truth_nm)), px, seed in product(shapes.items(), (3.0, 4.2, 6.5, 10.0), seeds):
        pixel_nm, spacing = truth_nm / px, math.ceil(6.5 * px)
        yx_px = np.mgrid[:20, :20].reshape(2, -1).T * spacing + float(spacing // 2)
        yx_px += np.random.default_rng(seed).uniform(-0.5, 0.5, yx_px.shape)
        weight = np.full(len(yx_px), 1 / (point_spread(otf, np.zeros(1))[0] * pixel_nm**2))
        grid = Grid(20 * spacing, pixel_nm, integrates=False)
        light = render((yx_px + 0.5) * pixel_nm, weight, otf=otf, grid=grid)
        for exposure, photons in (("no noise", 0), ("500 photons", 500), ("50 photons", 50)):
            image = expose(BACKGROUND + photons * light, seed) if photons else light
            fits_px = fit_spots(image, yx_px, radius_px=round(1.5 * px)).fwhm_px
            half_px = half_maximum_widths(image, yx_px, radius_px=round(2.5 * px))
            for width, each, average in (
                ("mean width by fit", fits_px, np.nanmean),
                ("mean half-maximum width", half_px, np.nanmean),
                ("median half-maximum width", half_px, np.nanmedian),
            ):
                found_px = average(each) if np.isfinite(each).mean() >= 0.98 else math.nan
                runs[shape, width, exposure][f"{px} px"].append(off(found_px, px))
    asked: dict[tuple[str, str, str], tuple[float, float] | None] = {
        ("Gaussian", "mean width by fit", "500 photons"): (-1, 1),
        ("Gaussian", "mean width by fit", "50 photons"): (-3, 3),
        **{(shape, "mean width by fit", "no noise"): None for shape in ("Airy", "STED")},
        **{
            (shape, f"{average} half-maximum width", exposure): (-2, 2)
            for shape in ("Airy", "STED")
            for exposure in ("no noise", "500 photons", "50 photons")
            for average in ("mean", "median")
        },
    }
    name = "{} spots, {}, {}"
    return [judge(name.format(*key), runs[key], limits) for key, limits in asked.items()]


def seen(sample: Grey, transfer: Callable[[Grey], Grey], period_px: float) -> Grey:
    """Return a square sample through a transfer function that ends at 1 / period_px."""
    v = period_px * np.hypot(fft.fftfreq(len(sample))[:, None], fft.rfftfreq(len(sample)))
    return fft.irfft2(fft.rfft2(sample) * transfer(v), sample.shape)


def points(size_px: int, seed: int) -> Grey:
    """Scatter points of unequal brightness."""
    share, height = np.random.default_rng(seed).random((2, size_px, size_px))
    return np.where(share < 0.01, -np.log1p(-height), 0)


def ring_correlations(seeds: range) -> list[Row]:
    """Find a sharp cut-off, and where theory says that a smooth transfer crosses 1/7."""

    def correlate(
        size_px: int, transfer: Callable[[Grey], Grey], cutoff: float, photons: int, seed: int
    ) -> frc.RingCorrelation:
        noise = np.random.default_rng(seed).normal(size=(size_px, size_px))
        structure = seen(noise - noise.mean(), transfer, 1 / cutoff)
        light = photons * (1 + structure / (4 * structure.std()))
        return frc.fourier_ring_correlation(*expose(np.stack([light, light]), seed))

    rows = []
    for size_px in (256, 384, 512):
        runs: Runs = defaultdict(list)
        for cutoff, seed in product((0.14, 0.2, 0.33), seeds):
            curve = correlate(size_px, lambda v: v < 1, cutoff, 200, seed)
            for name, limit in (("1/7", frc.one_seventh), ("3 sigma", frc.three_sigma)):
                found = frc.find_resolution(curve, threshold=limit).period_px
                runs[f"{cutoff} per px, {name}"].append(off(found, 1 / cutoff))
        rows.append(judge(f"FRC of two images, sharp cut-off, {size_px} px", runs, (-5, 5)))

    runs = defaultdict(list)
    v = np.hypot(fft.fftfreq(256)[:, None], fft.fftfreq(256)) / 0.15
    for photons, seed in product((100, 1000), seeds):
        # S = photons^2 / 16 exp(-2 v^2) / mean and N = photons; at 1/7 S / N = 1/6
        v_there = np.sqrt(np.log(6 * photons / 16 / np.exp(-2 * v**2).mean()) / 2)
        curve = correlate(256, lambda v: np.exp(-(v**2)), 0.15, photons, seed)
        found = frc.find_resolution(curve).period_px
        runs[f"{photons} photons"].append(off(found, 1 / (0.15 * v_there)))
    return [*rows, judge("FRC of two images, smooth, against theory", runs, (-5, 5))]


def explained_blur(seeds: range) -> Row:
    """Blur an image, and ask it and its middle whether they explain the blurred one."""
    runs: Runs = defaultdict(list)
    for sigma_px, seed in product((1.5, 3.0, 6.0), seeds):
        image = gaussian_filter(points(320, seed), 1.5)
        blurred = 50 * gaussian_filter(image, sigma_px, truncate=8) + 7
        for name, part in (("whole", np.s_[:, :]), ("middle", np.s_[64:-64, 64:-64])):
            rsp = measure_squirrel(image[part], blurred[part]).rsp
            runs[f"{sigma_px} px, {name}"].append(math.nan if rsp is None else rsp)
    return judge("RSP of an image blurred from itself (1, to 0.001)", runs, (0.999, 1.001), "")


def cutoffs(seeds: range) -> list[Row]:
    """Find by decorrelation the end of a transfer function that stays high, and of one that fades.

    The first has a soft edge of a tenth; the second is that of an incoherent microscope.
    """

    def sharp(v: Grey) -> Grey:
        return 0.5 + 0.5 * np.cos(np.pi * np.clip(10 * (v - 0.9), 0, 1))

    def incoherent(v: Grey) -> Grey:
        v = np.minimum(v, 1)
        return 2 / np.pi * (np.arccos(v) - v * np.sqrt(1 - v**2))

    rows = []
    for transfer, photons in ((sharp, 1000), (incoherent, 10000), (incoherent, 1000)):
        runs: Runs = defaultdict(list)
        for period_px, seed in product((2.5, 3.0, 4.0, 6.0, 10.0), seeds):
            light = seen(points(256, seed), transfer, period_px)
            # lifted, not cut at zero, which would make new frequencies
            light = BACKGROUND + photons * (light - light.min()) / np.ptp(light)
            found = measure_decorrelation(expose(light, seed)).period_px
            runs[f"{period_px} px"].append(off(found, period_px))
        name = f"decorrelation, {transfer.__name__} cut-off, {photons} photons"
        rows.append(judge(name, runs, (-10, 10)))
    return rows


def without_jitter(first: Grey, second: Grey) -> frc.RingCorrelation:
    """Correlate two images ring by ring, without the frequencies that jitter of rows reaches."""
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in first.shape))
    a, b = (
        fft.fft2((each - np.average(each, weights=window)) * window) for each in (first, second)
    )
    fx = np.abs(fft.fftfreq(first.shape[1]))
    f = np.hypot(fft.fftfreq(first.shape[0])[:, None], fx)
    kept = (f <= 0.5) & ((f <= JITTER_PER_PX) | (fx >= JITTER_PER_PX))
    ring = np.floor(f * min(first.shape) + 0.5).astype(int)[kept]
    planes = ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2, f, np.ones_like(f))
    cross, of_a, of_b, sums, n = (np.bincount(ring, each[kept])[1:] for each in planes)
    # an eighth is independent under a Hann window, conjugates counted once
    return frc.RingCorrelation(sums / n, cross / np.sqrt(of_a * of_b), n / 8, 0 * n)


def confocal() -> list[Row]:
    """Compare what one exposure tells with what two do, at three pinholes."""
    runs: dict[str, Runs] = defaultdict(dict)
    for pinhole in ("AU04", "AU12", "AU20"):
        files = [DATA / "pinhole_confocal" / f"FRC_GaAsP_{pinhole}{end}.nd2" for end in ("", "_")]
        images = [cs.read_image(file) for file in files]
        nm = images[0].pixel_size_nm
        grey = [image.pixels.astype(np.float64) for image in images]
        two = frc.find_resolution(frc.fourier_ring_correlation(*grey)).period_px or math.nan
        unshaken = frc.find_resolution(without_jitter(*grey)).period_px or math.nan
        assert nm, "the files know their pixel size"
        runs["FRC of two exposures"][pinhole] = [nm[0] * two]
        for file, image in zip(files, grey, strict=True):
            one = frc.find_resolution(frc.frc_single(image)).period_px
            spectral = measure_decorrelation(image).period_px
            runs["FRC of one exposure"][file.stem] = [nm[0] * (one or math.nan)]
            runs["FRC of one against two"][file.stem] = [off(one, two)]
            runs["FRC of one against two, less jitter"][file.stem] = [off(one, unshaken)]
            runs["decorrelation"][file.stem] = [nm[0] * (spectral or math.nan)]
            runs["decorrelation against FRC of two"][file.stem] = [off(spectral, two)]
    return [
        judge(f"confocal, {name}", each, (-20, 20))
        if "against" in name
        else judge(f"confocal, {name}", each, (170, 190) if "two" in name else None, "nm")
        for name, each in runs.items()
    ]


def beads() -> list[Row]:
    """Measure beads: the median width and its 95 % interval over the beads of an image."""
    stack = tifffile.imread(DATA / "beads_3d" / "Bead_Image1_crop.tif")
    images = {"beads_3d": (stack[np.argmax(stack.var(axis=(1, 2)))], 10.0, 18, 22.5, "nm")}
    for colour in ("green", "red"):
        file = DATA / "beads_two_colour" / f"channel_align_test_{colour}_bead.ome.tif"
        images[f"beads_two_colour, {colour}"] = (tifffile.imread(file), 4.0, 8, 1.0, "px")
    rows = []
    for name, (pixels, fwhm_px, radius_px, scale, unit) in images.items():
        image = pixels.astype(np.float64)
        found = compare_spots(image, image, fwhm_px=fwhm_px)
        yx_px = found.reference.yx_px
        alone = isolated(yx_px, distance_px=1.4 * radius_px)
        yx_px = yx_px[alone & (found.reference.amplitude > found.threshold)]
        fits_px = fit_spots(image, yx_px, radius_px=radius_px).fwhm_px
        half_px = half_maximum_widths(image, yx_px, radius_px=radius_px)
        for method, each in (("fit", fits_px), ("half maximum", half_px)):
            width = bootstrap_interval(list(scale * each))
            ends = (("low", width.low), ("median", width.value), ("high", width.high))
            runs = {end: [value or math.nan] for end, value in ends}
            label = f"{name}, {width.n} beads, {method}: {width.value:.4g}"
            rows.append(judge(label, runs, None, unit))
    return rows


if __name__ == "__main__":
    main()
