"""Model + fields -> what the dial from the adversarial network to its twin trades."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from crosscope.metrics.error import fit_intensity, psnr_db
from crosscope.metrics.psf import fit_spots
from crosscope.metrics.spots import SpotComparison, compare_spots, score_spots
from crosscope.metrics.ssim import mean_similarity, similarity_map
from crosscope.metrics.typical import places_of
from crosscope.model.dial import blend
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.tiling import sharpen
from crosscope.report.picture import densest

STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
FIELDS, SIDE_PX = 3, 512
"""Fields that are looked at, and how much of each: the trade is the same in all."""


def turn_dial(
    model: Model,
    sources: Sequence[Float[np.ndarray, "_y _x"]],
    references: Sequence[Float[np.ndarray, "_y _x"]],
    *,
    engine: Engine,
    fwhm_px: float | None,
    pixel_nm: float,
) -> list[dict[str, Any]]:
    """Measure what a model gives at some fidelities.

    Parameters
    ----------
    model : Model
        With a twin.
    sources, references : equally many (y, x)
        Grey values on the target's grid; the first three are used, of large ones the densest part.
    engine : Engine
    fwhm_px : float or None
        Of the references' spots; None where there are too few.
    pixel_nm : float

    Returns
    -------
    list of dict
        "fidelity", "psnr_db", "ssim" (medians over the fields), "fwhm_nm" (median over the isolated
        spots), "f1", "missed", "invented"; None where there is nothing to measure, and "reason".
    """
    cut = [_densest(*both) for both in zip(sources[:FIELDS], references[:FIELDS], strict=True)]
    return [
        {"fidelity": stop, **_figures(blend(model, stop), cut, engine, fwhm_px, pixel_nm)}
        for stop in STOPS
    ]


Pair = tuple[Float[np.ndarray, "_y _x"], Float[np.ndarray, "_y _x"]]


def _densest(source: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"]) -> Pair:
    height, width = (min(n, SIDE_PX) for n in reference.shape)
    top, left = densest(reference, (height, width))
    at = slice(top, top + height), slice(left, left + width)
    return source[at], reference[at].astype(np.float64)


def _figures(
    model: Model,
    pairs: Sequence[Pair],
    engine: Engine,
    fwhm_px: float | None,
    pixel_nm: float,
) -> Mapping[str, Any]:
    found: dict[str, list[float]] = {"psnr_db": [], "ssim": []}
    widths, compared = [np.zeros(0)], list[SpotComparison]()
    for source, reference in pairs:
        output = sharpen(model, source[None], engine=engine)[0].astype(np.float64)
        span = float(np.ptp(reference))
        if span and np.isfinite(output).all():
            fitted = fit_intensity(output, reference).apply(output)
            found["psnr_db"].append(psnr_db(fitted, reference, data_range=span))
            similarity = similarity_map(fitted, reference, data_range=span)
            found["ssim"].append(mean_similarity(similarity))
            if fwhm_px:
                places = places_of(reference, fwhm_px, 3 * fwhm_px)
                widths.append(fit_spots(output, places, radius_px=round(1.5 * fwhm_px)).fwhm_px)
                compared.append(compare_spots(output, reference, fwhm_px=fwhm_px))
    score = score_spots(compared)
    widths_px = np.concatenate(widths)
    figures: dict[str, float | None] = {
        name: float(np.median(values)) if np.isfinite(values).any() else None
        for name, values in found.items()
    }
    known = np.isfinite(widths_px).any()
    figures["fwhm_nm"] = pixel_nm * float(np.nanmedian(widths_px)) if known else None
    figures |= {"f1": score.f1, "missed": score.missed, "invented": score.invented}
    missing = [name for name, value in figures.items() if value is None]
    return figures | ({"reason": "no spot was found, or a field is constant"} if missing else {})
