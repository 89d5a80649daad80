"""Model + registered pairs -> figures, with bicubic and Richardson-Lucy on the same fields.

The reference is the noise-free truth where there is one, else the target. Every method's image is
brought to the reference's grey values by a least-squares gain and offset before it is compared:
modalities have no common scale, and the controls know none. The plain figure, without that fit, is
given beside it for the network's output.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from crosscope.data.background import measure_background
from crosscope.data.errors import PairError
from crosscope.data.files import write_json, writing_folder
from crosscope.data.images import Image, list_images, read_image, select_plane
from crosscope.data.pairs import stem
from crosscope.data.registered import RegisteredPair, crop_like
from crosscope.deconvolution import estimate_kernel_fwhm, gaussian_kernel, richardson_lucy
from crosscope.metrics.error import fit_intensity, psnr_db
from crosscope.metrics.interval import Interval, bootstrap_interval
from crosscope.metrics.psf import fit_spots
from crosscope.metrics.spots import (
    SpotComparison,
    compare_spots,
    isolated,
    resolved_separation,
    score_spots,
)
from crosscope.metrics.ssim import ssim
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.images import fastest_engine
from crosscope.prediction.tiling import sharpen
from crosscope.report.picture import Panel, draw_fields

ITERATIONS = (10, 20, 50, 100, 200, 400, 800)  # of Richardson-Lucy; the best is chosen
SHOWN = ("input", "lucy_richardson", "output", "target")  # in the picture
LEAST_SPOTS = 10  # for a width or a score
Grey = Float[np.ndarray, "y x"]


@dataclass(frozen=True, eq=False)
class Field:
    """One test field: every method's image, and what they are held against."""

    name: str
    images: Mapping[str, Grey]
    reference: Grey
    iterations: int

    def fitted(self, method: str) -> Grey:
        """Return a method's image in the reference's grey values."""
        image = self.images[method]
        return fit_intensity(image, self.reference).apply(image)

    @property
    def data_range(self) -> float:
        """The span of the reference's grey values."""
        return float(np.ptp(self.reference))


@dataclass(frozen=True, eq=False)
class Report:
    """The figures, under the names of the JSON, and a picture of the fields.

    Attributes
    ----------
    summary : dict
    fields : list of dict
    panels : list of Panel
        What `save` draws.
    """

    summary: dict[str, Any]
    fields: list[dict[str, Any]]
    panels: list[Panel]

    @property
    def json(self) -> dict[str, Any]:
        """Return what report.json holds."""
        return {"summary": self.summary, "fields": self.fields}

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write FOLDER/report.json and FOLDER/picture.png, both or none."""
        with writing_folder(Path(folder), overwrite=overwrite) as part:
            write_json(part / "report.json", self.json)
            draw_fields(self.panels, part / "picture.png")


def evaluate(
    model: Model,
    pairs: Sequence[RegisteredPair],
    *,
    truth: Mapping[str, Image] | None = None,
    engine: Engine | None = None,
    watch: Callable[[float], None] = lambda done: None,
) -> Report:
    """Measure what a model is worth on registered pairs that it has not seen.

    Parameters
    ----------
    model : Model
    pairs : sequence of RegisteredPair
    truth : mapping from a pair's name to an Image, optional
        Noise-free targets on the raw target's grid; for every pair, or for none.
    engine : Engine, optional
    watch : callable
        Told the part done, 0 to 1.

    Returns
    -------
    Report
        `summary` and `fields` as the JSON names them; what could not be measured is None, with a
        reason beside it.

    Raises
    ------
    PairError
        No pairs, other pixel sizes than the model's, or a pair without its truth.
    """
    if not pairs:
        raise PairError("pairs", "there are none to evaluate", "Run crosscope register first")
    for pair in pairs:
        _require_fit(model, pair)
    references = [_reference(pair, truth) for pair in pairs]
    engine = engine or fastest_engine(model, pairs[0].target)
    kernel_px = estimate_kernel_fwhm(
        [pair.source.pixels.astype(np.float64) for pair in pairs],
        [pair.target.pixels.astype(np.float64) for pair in pairs],
    )
    deconvolved = []
    for n, pair in enumerate(pairs):
        deconvolved.append(_deconvolve(pair, kernel_px))
        watch(0.7 * (n + 1) / len(pairs))
    counts = _best_counts(deconvolved, references)
    fields = []
    for n, (pair, reference) in enumerate(zip(pairs, references, strict=True)):
        best = deconvolved[n][counts[n]]
        images = _images_of(model, pair, engine) | {"lucy_richardson": best.astype(np.float64)}
        fields.append(Field(pair.name, images, reference, counts[n]))
        watch(0.7 + 0.2 * (n + 1) / len(pairs))
    pixel_nm = math.sqrt(math.prod(_pixel_size(pairs[0])))
    summary = {
        "reference": "truth" if truth else "target",
        "data_range": "span of the reference, field by field",
        "intensity": "each method fitted to the reference by a gain and an offset",
        "kernel_fwhm_nm": kernel_px * pixel_nm,
    }
    summary |= _summarise(fields, kernel_px, pixel_nm)
    seen = {seen.source_sha256: seen.part for seen in model.fields if seen.source_sha256}
    entries = [
        _entry(field) | {"seen": seen.get(pair.source_sha256 or "")}
        for field, pair in zip(fields, pairs, strict=True)
    ]
    panels = [_panel(field, pixel_nm) for field in fields[:3]]
    watch(1.0)
    return Report(summary, entries, panels)


def read_truth(folder: Path | str) -> dict[str, Image]:
    """Read the noise-free targets of a folder, by the names of their pairs."""
    return {stem(file): select_plane(read_image(file)) for file in list_images(Path(folder))}


def _images_of(model: Model, pair: RegisteredPair, engine: Engine) -> dict[str, Grey]:
    """Return every method's image of a pair, but for the deconvolved one."""
    source = pair.source.pixels
    images = {"input": source, "output": sharpen(model, source, engine=engine)}
    if model.twin:
        images["twin"] = sharpen(model, source, engine=engine, network=model.twin)
    # registration resampled the source by a cubic kernel: that is the bicubic image
    images |= {"target": pair.target.pixels, "bicubic": source}
    return {method: image.astype(np.float64) for method, image in images.items()}


def _deconvolve(pair: RegisteredPair, kernel_px: float) -> dict[int, Float32[np.ndarray, "y x"]]:
    """Return the Richardson-Lucy estimate of a source, by the number of iterations."""
    source = pair.source.pixels.astype(np.float64)
    above = np.maximum(source - measure_background(source).level, 0)
    kernel = gaussian_kernel(max(kernel_px, 1.5))
    return dict(zip(ITERATIONS, richardson_lucy(above, kernel, iterations=ITERATIONS), strict=True))


def _best_counts(
    deconvolved: Sequence[Mapping[int, Float32[np.ndarray, "_y _x"]]],
    references: Sequence[Float[np.ndarray, "_y _x"]],
) -> list[int]:
    """Choose for each field the count that is best, by PSNR, on the others (or on itself)."""
    scores = np.array(
        [
            [_fitted_psnr(estimates[count].astype(np.float64), reference) for count in ITERATIONS]
            for estimates, reference in zip(deconvolved, references, strict=True)
        ]
    )
    others = scores.sum(axis=0) - scores if len(scores) > 1 else scores
    return [ITERATIONS[best] for best in others.argmax(axis=1)]


def _fitted_psnr(image: Grey, reference: Grey) -> float:
    fitted = fit_intensity(image, reference).apply(image)
    return _psnr(fitted, reference, float(np.ptp(reference))) or 0.0


def _summarise(fields: Sequence[Field], kernel_px: float, pixel_nm: float) -> dict[str, Any]:
    methods = list(fields[0].images)
    entries = [_entry(field) for field in fields]
    summary: dict[str, Any] = {
        figure: {
            method: _interval([entry[figure][method] for entry in entries]) for method in methods
        }
        for figure in ("psnr_db", "ssim")
    }
    summary["psnr_plain_db"] = {
        method: _interval([entry["psnr_plain_db"][method] for entry in entries])
        for method in entries[0]["psnr_plain_db"]
    }
    target_px = _typical_fwhm(fields)
    if target_px is None:
        reason = f"fewer than {LEAST_SPOTS} isolated spots in the reference"
        none = {"median": None, "sd": None, "low": None, "high": None, "n": 0, "reason": reason}
        summary["fwhm_nm"] = dict.fromkeys(methods, none)
        none = {"f1": None, "missed": None, "invented": None, "reason": reason}
        summary["spots"] = dict.fromkeys(methods, none)
        summary["resolved_nm"] = dict.fromkeys(methods)
        summary["resolved_reason"] = dict.fromkeys(methods, reason)
        return summary
    blurred_px = math.hypot(target_px, kernel_px)
    summary["fwhm_nm"] = _widths(fields, target_px, blurred_px, pixel_nm)
    summary["spots"], summary["resolved_nm"], summary["resolved_reason"] = {}, {}, {}
    for method in methods:
        comparisons = [
            compare_spots(field.images[method], field.reference, fwhm_px=target_px)
            for field in fields
        ]
        score = score_spots(comparisons)
        unmeasured = {"reason": "no spot was found"} if score.invented is None else {}
        summary["spots"][method] = vars(score) | unmeasured
        separation_nm, why_not = _resolved(comparisons, target_px, blurred_px, pixel_nm)
        summary["resolved_nm"][method] = separation_nm
        summary["resolved_reason"][method] = why_not
    return summary


def _typical_fwhm(fields: Sequence[Field]) -> float | None:
    """Measure the width of the reference's isolated spots; None where there are too few."""
    fwhm_px = 4.0
    for _ in range(3):
        widths = [
            fit_spots(field.reference, places, radius_px=round(1.5 * fwhm_px)).fwhm_px
            for field, places in zip(fields, _places(fields, fwhm_px, 3 * fwhm_px), strict=True)
        ]
        found = np.concatenate(widths)
        if np.isfinite(found).sum() < LEAST_SPOTS:
            return None
        fwhm_px = max(2.0, float(np.nanmedian(found)))
    return fwhm_px


def _places(
    fields: Sequence[Field], fwhm_px: float, distance_px: float
) -> list[Float[np.ndarray, "_n 2"]]:
    """Return where each reference has spots that stand alone."""
    places = []
    for field in fields:
        spots = compare_spots(field.reference, field.reference, fwhm_px=fwhm_px)
        yx_px = spots.reference.yx_px
        bright = spots.reference.amplitude > spots.threshold
        alone = isolated(yx_px, distance_px=distance_px) if len(yx_px) else bright
        places.append(yx_px[bright & alone])
    return places


def _widths(
    fields: Sequence[Field], target_px: float, blurred_px: float, pixel_nm: float
) -> dict[str, Any]:
    """Fit the same isolated spots in every method's image."""
    places = _places(fields, target_px, 2 * blurred_px)
    widths: dict[str, Any] = {}
    for method in fields[0].images:
        broad = method in ("input", "bicubic")
        radius_px = round(1.2 * blurred_px if broad else 1.5 * target_px)
        found = [
            pixel_nm * fit_spots(field.images[method], yx, radius_px=radius_px).fwhm_px
            for field, yx in zip(fields, places, strict=True)
        ]
        all_nm = np.concatenate(found)
        fitted = int(np.isfinite(all_nm).sum())
        interval = _interval(found)
        sd = float(np.nanstd(all_nm)) if fitted else None
        widths[method] = interval | {"sd": sd, "asked": all_nm.size}
        if not fitted:
            widths[method]["reason"] = "no spot could be fitted"
    return widths


def _resolved(
    comparisons: Sequence[SpotComparison], target_px: float, blurred_px: float, pixel_nm: float
) -> tuple[float | None, str | None]:
    resolved = resolved_separation(comparisons, alone_px=1.5 * blurred_px, bin_px=target_px / 5)
    if resolved.separation_px is None:
        return None, resolved.reason
    return resolved.separation_px * pixel_nm, None


def _entry(field: Field) -> dict[str, Any]:
    """Return a field's figures."""
    fitted = {method: field.fitted(method) for method in field.images}
    plain = {method: field.images[method] for method in ("output", "twin") if method in fitted}
    span = field.data_range
    unmeasured = {} if span else {"reason": "the reference is constant"}
    return unmeasured | {
        "name": field.name,
        "size_px": list(field.reference.shape),
        "data_range": span,
        "iterations": field.iterations,
        "psnr_db": {m: _psnr(image, field.reference, span) for m, image in fitted.items()},
        "psnr_plain_db": {m: _psnr(image, field.reference, span) for m, image in plain.items()},
        "ssim": {
            m: ssim(image, field.reference, data_range=span) if span else None
            for m, image in fitted.items()
        },
    }


def _psnr(image: Grey, reference: Grey, span: float) -> float | None:
    """Return the PSNR; None where the reference is constant, or is the image itself."""
    if np.abs(image - reference).max() <= 1e-9 * span or not span:
        return None
    return psnr_db(image, reference, data_range=span)


def _interval(values: Sequence[Any]) -> dict[str, Any]:
    interval: Interval = bootstrap_interval([v for v in values if v is not None])
    found: dict[str, Any] = {
        "median": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
    }
    if interval.value is None:
        found["reason"] = "it is the reference itself, or the reference is constant"
    elif interval.low is None:
        found["reason"] = "an interval needs two fields"
    return found


def _reference(pair: RegisteredPair, truth: Mapping[str, Image] | None) -> Grey:
    if truth is None:
        return pair.target.pixels.astype(np.float64)
    if pair.name not in truth:
        raise PairError(pair.name, "has no truth of its name", "Leave --truth out, or complete it")
    return crop_like(truth[pair.name], pair).pixels.astype(np.float64)


def _pixel_size(pair: RegisteredPair) -> tuple[float, float]:
    assert pair.target.pixel_size_nm, pair.name
    return pair.target.pixel_size_nm


def _require_fit(model: Model, pair: RegisteredPair) -> None:
    made = (*model.source_pixel_size_nm, *model.target_pixel_size_nm)
    have = tuple(size for sizes in pair.pixel_sizes_nm for size in sizes)
    if not np.allclose(have, made, rtol=0.02):
        reason = f"has source and target pixels of {have} nm, the model was made for {made}"
        raise PairError(pair.name, reason, "Evaluate on pairs of the model's instruments")


def _panel(field: Field, pixel_nm: float) -> Panel:
    images = {method: field.images[method] for method in SHOWN}
    return Panel(field.name, images, pixel_nm)
