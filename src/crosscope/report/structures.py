"""All fields -> widths, scores and profiles of their spots, and their spectra."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from crosscope.metrics.profile import close_pair_segments, line_profile, peak_distance
from crosscope.metrics.psf import fit_spots, half_maximum_widths
from crosscope.metrics.spectrum import RadialSpectrum, radial_spectrum
from crosscope.metrics.spots import (
    SpotComparison,
    compare_spots,
    resolved_separation,
    score_spots,
)
from crosscope.metrics.typical import LEAST_SPOTS, places_of, typical_fwhm
from crosscope.report.figures import Field, interval_of

SHOWN = ("input", "lucy_richardson", "output", "target")
"""Methods of which profiles are shown."""
PROFILES = 6
Grey = Float[np.ndarray, "y x"]


@dataclass(frozen=True, eq=False)
class _Measured:
    """Of one field, by method: spectra, spots, two kinds of widths (nm); and its profiles."""

    spectra: Mapping[str, RadialSpectrum]
    comparisons: Mapping[str, SpotComparison]
    widths: Mapping[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]
    profiles: list[dict[str, Any]]


class Structures:
    """Gathers, field by field, what is told from spots at the same places in every image."""

    def __init__(
        self, references: Sequence[Float[np.ndarray, "_y _x"]], kernel_px: float, pixel_nm: float
    ) -> None:
        self.pixel_nm = pixel_nm
        self.fwhm_px = typical_fwhm(references)
        self.blurred_px = math.hypot(self.fwhm_px or 0.0, kernel_px)
        self.profiles: list[dict[str, Any]] = []
        self._fields: list[_Measured] = []

    def _widths(self, kind: int) -> dict[str, list[Float[np.ndarray, " n"]]]:
        """Return the widths of each method, field by field: 0 by a Gaussian, 1 free of a model."""
        methods = self._fields[0].widths if self._fields else {}
        return {m: [measured.widths[m][kind] for measured in self._fields] for m in methods}

    def measure(self, field: Field) -> "_Measured":
        """Measure one field."""
        fitted = {method: field.fitted(method) for method in field.images}
        spectra = {
            method: radial_spectrum(image, pixel_size_nm=(self.pixel_nm,) * 2)
            for method, image in fitted.items()
        }
        if self.fwhm_px is None:
            return _Measured(spectra, {}, {}, [])
        places = places_of(field.reference, self.fwhm_px, 2 * self.blurred_px)
        comparisons, widths = {}, {}
        for method, image in field.images.items():
            comparisons[method] = compare_spots(image, field.reference, fwhm_px=self.fwhm_px)
            broad = method in ("input", "bicubic")
            near_px = round(1.2 * self.blurred_px if broad else 1.5 * self.fwhm_px)
            far_px = round(2 * (self.blurred_px if broad else self.fwhm_px))
            widths[method] = (
                self.pixel_nm * fit_spots(image, places, radius_px=near_px).fwhm_px,
                self.pixel_nm * half_maximum_widths(image, places, radius_px=far_px),
            )
        return _Measured(
            spectra, comparisons, widths, self._profiles_of(field.name, fitted, comparisons)
        )

    def add(self, measured: "_Measured") -> None:
        """Add what was measured of one field."""
        self._fields.append(measured)
        self.profiles = _spread(self.profiles + measured.profiles, PROFILES)

    def _profiles_of(
        self,
        name: str,
        fitted: Mapping[str, Grey],
        comparisons: Mapping[str, SpotComparison],
    ) -> list[dict[str, Any]]:
        """Return profiles across the field's close pairs, in the reference's grey values."""
        assert self.fwhm_px
        compared = comparisons["target"]  # its reference's spots are every method's
        segments = close_pair_segments(
            compared.reference, fwhm_px=self.fwhm_px, threshold=compared.threshold
        )
        found = []
        for segment in segments[:: max(1, len(segments) // PROFILES)]:
            profiles = {
                method: line_profile(
                    fitted[method],
                    segment,
                    width_px=0.5 * self.fwhm_px,
                    margin_px=1.5 * self.fwhm_px,
                )
                for method in SHOWN
                if method in fitted
            }
            distances = {method: peak_distance(profile) for method, profile in profiles.items()}
            (first, *_) = profiles.values()
            found.append(
                {
                    "field": name,
                    "separation_nm": segment.length_px * self.pixel_nm,
                    "position_nm": (first.position_px * self.pixel_nm).tolist(),
                    "values": {m: profile.value.tolist() for m, profile in profiles.items()},
                    "peak_distance_nm": {
                        m: None if d.distance_px is None else d.distance_px * self.pixel_nm
                        for m, d in distances.items()
                    },
                    "reason": {m: d.reason for m, d in distances.items() if d.reason},
                }
            )
        return found

    def comparisons(self, method: str) -> list[SpotComparison]:
        """Return a method's spots, field by field; nothing where the reference has too few."""
        found = (measured.comparisons.get(method) for measured in self._fields)
        return [each for each in found if each]

    def widths_nm(self) -> dict[str, list[float]]:
        """Return all fitted widths by method."""
        return {
            method: [round(float(nm), 2) for nm in np.concatenate(widths) if np.isfinite(nm)]
            for method, widths in self._widths(0).items()
        }

    def spectra(self) -> dict[str, Any]:
        """Return the mean radial spectrum of each method, at the frequencies of the least field."""
        if not self._fields:
            return {"frequency_per_um": [], "power": {}}
        every = [measured.spectra for measured in self._fields]
        frequency = min((spectra["target"].frequency_per_um for spectra in every), key=len)
        power = {
            method: np.mean(
                [
                    np.interp(frequency, spectra[method].frequency_per_um, spectra[method].power)
                    for spectra in every
                ],
                axis=0,
            ).tolist()
            for method in every[0]
        }
        return {"frequency_per_um": frequency.tolist(), "power": power}

    def summarise(self, methods: Sequence[str]) -> dict[str, Any]:
        """Return widths, scores and resolved separations by method."""
        if self.fwhm_px is None:
            reason = f"fewer than {LEAST_SPOTS} isolated spots in the reference"
            width = {"median": None, "sd": None, "low": None, "high": None, "n": 0}
            score = dict.fromkeys(("f1", "missed", "invented", "split", "merged"))
            return {
                "fwhm_nm": dict.fromkeys(methods, width | {"reason": reason}),
                "half_maximum_nm": dict.fromkeys(methods, width | {"reason": reason}),
                "spots": dict.fromkeys(methods, score | {"reason": reason}),
                "resolved_nm": dict.fromkeys(methods),
                "resolved_reason": dict.fromkeys(methods, reason),
            }
        summary: dict[str, Any] = {
            figure: {method: _width(self._widths(kind)[method]) for method in methods}
            for kind, figure in enumerate(("fwhm_nm", "half_maximum_nm"))
        }
        summary |= {"spots": {}, "resolved_nm": {}, "resolved_reason": {}}
        for method in methods:
            comparisons = [measured.comparisons[method] for measured in self._fields]
            scored = score_spots(comparisons)
            unmeasured = {"reason": "no spot was found"} if scored.invented is None else {}
            summary["spots"][method] = vars(scored) | unmeasured
            resolved = resolved_separation(
                comparisons, alone_px=1.5 * self.blurred_px, bin_px=self.fwhm_px / 5
            )
            px = resolved.separation_px
            summary["resolved_nm"][method] = None if px is None else px * self.pixel_nm
            summary["resolved_reason"][method] = resolved.reason if px is None else None
        return summary


def _spread(profiles: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Keep so many profiles, their separations spread over what there is."""
    ordered = sorted(profiles, key=lambda profile: float(profile["separation_nm"]))
    if len(ordered) <= most:
        return ordered
    return [ordered[k] for k in np.linspace(0, len(ordered) - 1, most).round().astype(int)]


def _width(found: Sequence[Float[np.ndarray, " _n"]]) -> dict[str, Any]:
    every = np.concatenate(found)
    fitted = int(np.isfinite(every).sum())
    width = interval_of(found) | {"sd": float(np.nanstd(every)) if fitted > 1 else None}
    width["asked"] = every.size
    if fitted < 2:
        width["reason"] = f"{fitted or 'no'} spot could be fitted"
    return width
