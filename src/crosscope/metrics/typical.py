"""Images -> how wide their isolated spots are, and where: what other measures start from."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from crosscope.metrics.psf import fit_spots
from crosscope.metrics.spots import compare_spots, isolated

LEAST_SPOTS = 10
"""For a width or a score."""


def typical_fwhm(references: Sequence[Float[np.ndarray, "_y _x"]]) -> float | None:
    """Measure the width (px) of the references' isolated spots; None where there are too few."""
    fwhm_px = 4.0
    for _ in range(3):
        widths = [
            fit_spots(
                image, places_of(image, fwhm_px, 3 * fwhm_px), radius_px=round(1.5 * fwhm_px)
            ).fwhm_px
            for image in (reference.astype(np.float64) for reference in references)
        ]
        found = np.concatenate(widths) if widths else np.zeros(0)
        if np.isfinite(found).sum() < LEAST_SPOTS:
            return None
        fwhm_px = max(2.0, float(np.nanmedian(found)))
    return fwhm_px


def places_of(
    reference: Float[np.ndarray, "y x"], fwhm_px: float, distance_px: float
) -> Float[np.ndarray, "n 2"]:
    """Return where a reference has spots that stand alone."""
    spots = compare_spots(reference, reference, fwhm_px=fwhm_px)
    yx_px = spots.reference.yx_px
    bright = spots.reference.amplitude > spots.threshold
    alone = isolated(yx_px, distance_px=distance_px) if len(yx_px) else bright
    return yx_px[bright & alone]
