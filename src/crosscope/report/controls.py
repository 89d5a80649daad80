"""Registered pairs -> what deconvolution makes of them: the controls beside the network.

The blur is estimated from the pairs. How many iterations are best depends on the light and is
chosen for each field on the others, by PSNR after the fit of a gain and an offset.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from crosscope.data.background import measure_background
from crosscope.data.cores import count_cores
from crosscope.deconvolution import (
    gaussian_kernel,
    non_negative_least_squares,
    richardson_lucy,
)
from crosscope.metrics.error import fit_intensity, psnr_db

Grey = Float[np.ndarray, "y x"]
METHODS = {"lucy_richardson": richardson_lucy, "nnls": non_negative_least_squares}
COUNTS = (10, 20, 50, 100, 200, 400, 800)
"""Of iterations; the best is chosen."""
PAST = 2
"""Counts without a better PSNR after which a field's search ends."""


def choose_counts(
    sources: Sequence[Float[np.ndarray, "_y _x"]],
    references: Sequence[Float[np.ndarray, "_y _x"]],
    kernel_fwhm_px: float,
    *,
    watch: Callable[[float], None] = lambda done: None,
) -> list[dict[str, int]]:
    """Return for each field and method the count that is best on the other fields.

    A single field is its own judge. Where a field's PSNR fell twice in a row its search ended: the
    last one stands for the counts beyond.
    """

    def score(n: int) -> list[Float[np.ndarray, " counts"]]:
        source, reference = (images[n].astype(np.float64) for images in (sources, references))
        return [_scores(m, source, reference, kernel_fwhm_px) for m in METHODS]

    found = []
    with ThreadPoolExecutor(count_cores()) as pool:
        for of_field in pool.map(score, range(len(sources))):
            found.append(of_field)
            watch(len(found) / len(sources))
    scores = np.swapaxes(found, 0, 1)  # method field count
    others = scores.sum(axis=1, keepdims=True) - scores if len(sources) > 1 else scores
    best = others.argmax(axis=2)
    return [
        {name: COUNTS[best[m, n]] for m, name in enumerate(METHODS)} for n in range(len(sources))
    ]


def deconvolve(source: Grey, kernel_fwhm_px: float, method: str, count: int) -> Grey:
    """Return a method's estimate after so many iterations."""
    above, kernel = _prepare(source, kernel_fwhm_px)
    (estimate,) = METHODS[method](above, kernel, iterations=[count])
    return estimate.astype(np.float64)


def _scores(
    method: str, source: Grey, reference: Grey, kernel_fwhm_px: float
) -> Float[np.ndarray, " counts"]:
    span = float(np.ptp(reference))
    if not span:
        return np.zeros(len(COUNTS))  # all counts are as good
    above, kernel = _prepare(source, kernel_fwhm_px)
    found: list[float] = []
    for estimate in METHODS[method](above, kernel, iterations=COUNTS):
        image = estimate.astype(np.float64)
        fitted = fit_intensity(image, reference).apply(image)
        found.append(psnr_db(fitted, reference, data_range=span))
        if len(found) - 1 - int(np.argmax(found)) >= PAST:
            break
    return np.array(found + found[-1:] * (len(COUNTS) - len(found)))


def _prepare(source: Grey, kernel_fwhm_px: float) -> tuple[Grey, Float[np.ndarray, "k k"]]:
    """Return the source above its level, and the blur."""
    return source - measure_background(source).level, gaussian_kernel(max(kernel_fwhm_px, 1.5))
