"""The images of one field -> its figures: fidelity, resolution, artefacts; their medians.

A figure that could not be taken is None, and `reasons` says why. No figure of resolution proves
that what is resolved is there: noise and invention are sharp, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from crosscope.data.background import measure_background
from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.metrics.decorrelation import measure_decorrelation
from crosscope.metrics.error import fit_intensity, nrmse, pearson, psnr_db
from crosscope.metrics.frc import (
    RingCorrelation,
    find_resolution,
    fourier_ring_correlation,
    frc_single,
    local_frc,
    one_seventh,
    three_sigma,
)
from crosscope.metrics.interval import bootstrap_interval
from crosscope.metrics.squirrel import measure_squirrel
from crosscope.metrics.ssim import mean_similarity, ms_ssim, similarity_map

Grey = Float[np.ndarray, "y x"]
FIDELITY = ("psnr_db", "ssim", "ms_ssim", "nrmse", "pearson")
UNFITTED = {
    "psnr_db": "psnr_plain_db",
    **{figure: f"{figure}_plain" for figure in ("ssim", "ms_ssim", "nrmse", "pearson")},
}
"""A figure's name where it is taken without the fit of gain and offset."""
PLAIN = ("output", "twin", "repeat")  # in the target's grey values as they are
FIGURES = (
    *FIDELITY,
    *("frc_nm", "frc_three_sigma_nm", "frc_single_nm", "local_frc_nm", "decorrelation_nm"),
    *("squirrel_rsp", "squirrel_rse"),
    *UNFITTED.values(),
)
SAMPLE_SHARE, SAMPLE_NOISES = 0.1, 3.0
LOCAL, LOCAL_PX = ("output", "lucy_richardson"), 64
_ITSELF = "it is the reference itself"
_FLAT = "the reference is constant"
_SMALL = "the field is smaller than 176 px"
_CONSTANT = "one of the two is constant there, or the part is empty"


@dataclass(frozen=True, eq=False)
class Field:
    """One field: every method's image, and what they are held against.

    Attributes
    ----------
    name : str
    images : mapping from a method's name to (y, x)
        Each in its own grey values.
    reference : (y, x)
        The noise-free truth, or the target.
    """

    name: str
    images: Mapping[str, Grey]
    reference: Grey

    def fitted(self, method: str) -> Grey:
        """Return a method's image in the reference's grey values."""
        image = self.images[method]
        return fit_intensity(image, self.reference).apply(image)

    @property
    def data_range(self) -> float:
        """The span of the reference's grey values."""
        return float(np.ptp(self.reference))


@dataclass(eq=False)
class _Table:
    """Figures by their name and the method's, and why some are None."""

    values: dict[str, dict[str, float | None]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    def set(self, figure: str, method: str, value: float | None, reason: str | None) -> None:
        known = value is not None and math.isfinite(value)
        self.values.setdefault(figure, {})[method] = value if known else None
        if not known:
            self.reasons.setdefault(figure, {})[method] = reason or "it could not be taken"


def measure_field(
    measured: Field, *, pixel_nm: float, kernel_fwhm_px: float | None
) -> dict[str, Any]:
    """Return the figures of a field under the names of the JSON.

    Parameters
    ----------
    measured : Field
    pixel_nm : float
        Side of a pixel.
    kernel_fwhm_px : float or None
        Of the blur that leads from the target to the source, for SQUIRREL.
    """
    sample = find_sample(measured.reference)
    background = _far_from(sample, kernel_fwhm_px)
    whole, *parts = _fidelity(measured, (None, sample, background))
    entry: dict[str, Any] = {
        "name": measured.name,
        "size_px": list(measured.reference.shape),
        "data_range": measured.data_range,
        **whole.values,
    }
    reasons = dict(whole.reasons)
    for part, inside, table in zip(
        ("sample", "background"), (sample, background), parts, strict=True
    ):
        entry[part] = table.values | {"pixels": int(inside.sum()), "reasons": table.reasons}
    for table in (
        _plain(measured),
        _resolution(measured, pixel_nm),
        _artefacts(measured, kernel_fwhm_px),
    ):
        entry |= table.values
        reasons |= table.reasons
    unmeasured = {} if measured.data_range else {"reason": _FLAT}
    return unmeasured | entry | {"reasons": reasons}


def find_sample(reference: Grey) -> Bool[np.ndarray, "y x"]:
    """Return which pixels lie inside structures: above the background and its noise."""
    background = measure_background(reference)
    rise = reference - background.level
    least = max(SAMPLE_SHARE * np.percentile(rise, 99.5), SAMPLE_NOISES * background.noise)
    return np.asarray(rise > least)


def _far_from(
    sample: Bool[np.ndarray, "y x"], kernel_fwhm_px: float | None
) -> Bool[np.ndarray, "y x"]:
    """Return the background: farther from any structure than the source's blur carries it."""
    away_px = ndimage.distance_transform_edt(~sample) if sample.any() else np.inf
    return np.broadcast_to(away_px > max(2.0, kernel_fwhm_px or 0.0), sample.shape)


def _fidelity(measured: Field, parts: Sequence[Bool[np.ndarray, "y x"] | None]) -> list[_Table]:
    """Compare every method, after a fit of gain and offset, with the reference, part by part."""
    tables = [_Table() for _ in parts]
    for method in measured.images:
        image = measured.fitted(method)
        similarity = _similarity(image, measured)
        for table, inside in zip(tables, parts, strict=True):
            for figure, found in _compare(image, measured, similarity, inside).items():
                table.set(figure, method, *found)
    return tables


def _plain(measured: Field) -> _Table:
    """Compare the methods that give the target's grey values without a fit."""
    table = _Table()
    for method in (m for m in PLAIN if m in measured.images):
        image = measured.images[method]
        for figure, found in _compare(image, measured, _similarity(image, measured), None).items():
            table.set(UNFITTED[figure], method, *found)
    return table


def _similarity(image: Grey, measured: Field) -> Float[np.ndarray, "_y _x"] | None:
    """Return the map of structural similarity, which all parts share; None of a flat field."""
    span = measured.data_range
    return similarity_map(image, measured.reference, data_range=span) if span else None


def _compare(
    image: Grey,
    measured: Field,
    similarity: Float[np.ndarray, "_y _x"] | None,
    inside: Bool[np.ndarray, "y x"] | None,
) -> dict[str, tuple[float | None, str]]:
    """Return each figure of an image, and the reason if it is none."""
    reference, span = measured.reference, measured.data_range
    if similarity is None:
        return {f: (None, _FLAT) for f in FIDELITY if inside is None or f != "ms_ssim"}
    same = np.abs(image - reference).max() <= 1e-9 * span
    psnr = None if same else psnr_db(image, reference, data_range=span, inside=inside)
    values: dict[str, tuple[float | None, str]] = {
        "psnr_db": (psnr, _ITSELF if same or psnr == math.inf else _CONSTANT),
        "ssim": (mean_similarity(similarity, inside), _CONSTANT),
        "nrmse": (nrmse(image, reference, data_range=span, inside=inside), _CONSTANT),
        "pearson": (pearson(image, reference, inside=inside), _CONSTANT),
    }
    if inside is None:  # over five scales no part of a field can be told from the rest
        values["ms_ssim"] = (ms_ssim(image, reference, data_range=span), _SMALL)
    return values


# --- resolution -----------------------------------------------------------------------------------


def correlate(measured: Field, method: str) -> RingCorrelation:
    """Return a method's Fourier ring correlation with the target, whose noise is its own.

    The target's own is that with its repeat, where there is one, else of its split halves.
    """
    target = measured.images["target"]
    if method != "target":
        return fourier_ring_correlation(measured.images[method], target)
    if "repeat" in measured.images:
        return fourier_ring_correlation(target, measured.images["repeat"])
    return frc_single(target)


def correlation_curves(measured: Field, pixel_nm: float) -> dict[str, Any]:
    """Return each method's Fourier ring correlation with the target, under the JSON's names."""
    curves = {m: correlate(measured, m) for m in measured.images if m != "bicubic"}
    curves = {m: curve for m, curve in curves.items() if curve.reason is None}
    if not curves:
        return {"frequency_per_um": [], "correlation": {}}
    frequency = max((curve.frequency for curve in curves.values()), key=len)
    return {
        "field": measured.name,
        "frequency_per_um": (1000 / pixel_nm * frequency).tolist(),
        "correlation": {
            m: [
                None if math.isnan(v) else round(float(v), 5)
                for v in np.interp(frequency, c.frequency, c.correlation, right=np.nan)
            ]
            for m, c in curves.items()
        },
    }


def _resolution(measured: Field, pixel_nm: float) -> _Table:
    table = _Table()
    target = measured.images["target"]
    for method, image in measured.images.items():
        curve = correlate(measured, method)
        for figure, threshold in (("frc_nm", one_seventh), ("frc_three_sigma_nm", three_sigma)):
            found = find_resolution(curve, threshold=threshold)
            table.set(figure, method, _nm(found.period_px, pixel_nm), found.reason)
        decorrelation = measure_decorrelation(image)
        table.set(
            "decorrelation_nm",
            method,
            _nm(decorrelation.period_px, pixel_nm),
            decorrelation.reason,
        )
        if method in LOCAL:
            local = local_frc(image, target, block_px=LOCAL_PX)
            known = local.period_px.compressed()
            median_px = float(np.median(known)) if known.size else None
            reason = local.reason or "no block is alike enough"
            table.set("local_frc_nm", method, _nm(median_px, pixel_nm), reason)
    for method in ("input", "target"):
        single = find_resolution(frc_single(measured.images[method]))
        table.set("frc_single_nm", method, _nm(single.period_px, pixel_nm), single.reason)
    return table


def _nm(period_px: float | None, pixel_nm: float) -> float | None:
    return None if period_px is None else period_px * pixel_nm


# --- artefacts ------------------------------------------------------------------------------------


def _artefacts(measured: Field, kernel_fwhm_px: float | None) -> _Table:
    """Blur every method's image as the source is blurred, and compare with the input."""
    table = _Table()
    for method, image in measured.images.items():
        if method in ("input", "bicubic"):
            continue  # what is blurred already
        if kernel_fwhm_px is None:
            rsp = rse = None
            reason: str | None = "the blur between source and target is not known"
        else:
            found = measure_squirrel(
                image, measured.images["input"], sigma_px=kernel_fwhm_px / FWHM_PER_SIGMA
            )
            rsp, rse, reason = found.rsp, found.rse, found.reason
        table.set("squirrel_rsp", method, rsp, reason)
        table.set("squirrel_rse", method, rse, reason)
    return table


# --- over all fields ------------------------------------------------------------------------------


def summarise(entries: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """Return each figure's median over the fields with its interval, by method."""
    summary: dict[str, Any] = {f: _intervals(entries, f, methods) for f in FIGURES}
    for part in ("sample", "background"):
        parts = [entry[part] for entry in entries]
        summary[part] = {f: _intervals(parts, f, methods) for f in FIDELITY if f != "ms_ssim"}
    return summary


def _intervals(
    entries: Sequence[Mapping[str, Any]], figure: str, methods: Sequence[str]
) -> dict[str, Any]:
    """Return a figure's intervals; methods that it is not taken of are left out."""
    found = {}
    for method in methods:
        taken = [entry for entry in entries if method in entry.get(figure, {})]
        if not taken and entries:
            continue
        interval = interval_of([entry[figure][method] for entry in taken])
        if interval["median"] is None:
            given = [entry["reasons"][figure][method] for entry in taken]
            interval["reason"] = given[0] if given else "no field could be measured"
        found[method] = interval
    return found


def interval_of(values: Sequence[Any]) -> dict[str, Any]:
    """Return the median of the fields' values and its interval, under the names of the JSON."""
    interval = bootstrap_interval([v for v in values if v is not None])
    found: dict[str, Any] = {
        "median": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
    }
    if interval.value is None:
        found["reason"] = "it could not be taken of any field"
    elif interval.low is None:
        found["reason"] = "an interval needs two fields"
    return found
