"""Super-resolved image + its diffraction-limited reference -> where they contradict: SQUIRREL.

The image I, blurred and scaled, should give the reference R that a coarser microscope saw:

    R = a (G_s * I) + b + error,  RSP = corr(R, G_s * I),  RSE = sqrt(mean(error^2))

G_s is the resolution scaling function, a Gaussian of s px; a, b and, unless it is given, s are
those that leave the least error. Both images are continued by their mirror images: the blur is
then a product in the cosine basis, where by Parseval's theorem the search for s can stay.

S. Culley, D. Albrecht, C. Jacobs, P. M. Pereira, C. Leterrier, J. Mercer, R. Henriques,
"Quantitative mapping and minimization of super-resolution optical imaging artifacts", Nature
Methods 15, 263 (2018), doi 10.1038/nmeth.4605.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import fft
from scipy.optimize import minimize_scalar

from crosscope.metrics.error import fit_intensity, pearson

_SIGMAS = 24
_FINEST_SIGMA_PX = 0.25
_MARGIN_IN_SIGMAS = 3
_LEAST_LEFT = 1e-6


@dataclass(frozen=True, eq=False)
class Squirrel:
    """How well an image explains its reference, or why that can't be told.

    Attributes
    ----------
    rsp : float or None
        Resolution-scaled Pearson correlation, -1 to 1, blind to gain and offset.
    rse : float or None
        Resolution-scaled error: root mean square of the map, in the reference's grey values.
    sigma_px : float or None
        Standard deviation of the blur; where it was fitted, 0 to an eighth of the shorter side. A
        value at that end was not found: the search stopped there.
    gain, offset : float or None
        Reference's grey value = gain * blurred image + offset. A gain below 0: the two contradict.
    error_map : (y, x) or None
        Reference - (gain * blurred image + offset), the reference's grey values: above 0 where the
        image lacks light, below where it has too much. (The paper shows its absolute value.)
    margin_px : int or None
        Width of the border that enters the map but no other figure: 3 sigma, at most a quarter of
        the field. The blur there lacks the light of what lies beyond.
    reason : str or None
        Why there is nothing of all this; None where there is.
    """

    rsp: float | None
    rse: float | None
    sigma_px: float | None
    gain: float | None
    offset: float | None
    error_map: Float[np.ndarray, "y x"] | None
    margin_px: int | None
    reason: str | None


def measure_squirrel(
    image: Float[np.ndarray, "y x"],
    reference: Float[np.ndarray, "y x"],
    *,
    sigma_px: float | None = None,
) -> Squirrel:
    """Blur an image until it matches its reference as well as it can, and return what is left.

    Parameters
    ----------
    image, reference : (y, x)
        Registered to each other, on one grid; grey values linear in light, of any scale each.
    sigma_px : at least 0, or None
        The blur that leads from the one to the other. Give it where it is known for all images of
        a model: fitted anew to each image, it takes up part of the error that it should show.

    Notes
    -----
    Nothing that is finer than the reference's own resolution can be judged: one spot or two, half
    of its width apart, give the same reference. A low RSP may be the reference's noise; compare
    with a good image's. A shift between the two shows as pairs of errors of opposite sign.

    Simulated crops of 96 and 256 px: the blur comes back within 1.5 %, though the search for it
    takes in the border.
    """
    for name, pixels in (("image", image), ("reference", reference)):
        if not np.isfinite(pixels).all():
            return _nothing(f"the {name} holds pixels that are not finite numbers")
        if _is_constant(pixels):
            return _nothing(f"the {name} is constant")
    waves = _cosines(image)
    if sigma_px is None:
        sigma_px = _fit_sigma(waves, _cosines(reference))
    blurred: Float[np.ndarray, "y x"]
    blurred = fft.idctn(waves * _transfer(waves.shape, sigma_px), norm="ortho")
    blurred += image.mean(dtype=np.float64)
    margin_px = min(math.ceil(_MARGIN_IN_SIGMAS * sigma_px), min(image.shape) // 4)
    inner = tuple(slice(margin_px, n - margin_px) for n in image.shape)
    if float(np.ptp(blurred[inner])) <= _LEAST_LEFT * float(np.ptp(image)):
        return _nothing(f"nothing of the image is left after a blur of {sigma_px:g} px")
    if _is_constant(reference[inner]):
        return _nothing(f"the reference is constant from {margin_px} px within the border on")
    fit = fit_intensity(blurred[inner], reference[inner])
    error_map = reference - fit.apply(blurred)
    return Squirrel(
        rsp=pearson(blurred[inner], reference[inner]),
        rse=math.sqrt(float(np.mean(error_map[inner] ** 2))),
        sigma_px=sigma_px,
        gain=fit.gain,
        offset=fit.offset,
        error_map=error_map,
        margin_px=margin_px,
        reason=None,
    )


def _nothing(reason: str) -> Squirrel:
    return Squirrel(None, None, None, None, None, None, None, reason)


def _is_constant(image: Float[np.ndarray, "y x"]) -> bool:
    """Tell whether the image's values differ by rounding only."""
    rounding = 16 * float(np.finfo(image.dtype).eps) * float(np.abs(image).max())
    return float(np.ptp(image)) <= rounding


def _cosines(image: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Return the cosine transform of the image less its mean."""
    centred = image.astype(np.float64)
    centred -= centred.mean()
    waves: Float[np.ndarray, "y x"] = fft.dctn(centred, norm="ortho")
    return waves


def _transfer(shape: tuple[int, ...], sigma_px: float) -> Float[np.ndarray, "y x"]:
    y, x = (np.exp(-0.5 * (np.pi * sigma_px * np.arange(n) / n) ** 2) for n in shape)
    return np.outer(y, x)


def _fit_sigma(waves: Float[np.ndarray, "y x"], wanted: Float[np.ndarray, "y x"]) -> float:
    """Return the blur of highest correlation: the best of a ladder, refined between its rungs."""

    def mismatch(sigma_px: float) -> float:
        return -_correlation(waves * _transfer(waves.shape, sigma_px), wanted)

    widest_px = max(min(waves.shape) / 8, 2 * _FINEST_SIGMA_PX)
    ladder = [0.0, *np.geomspace(_FINEST_SIGMA_PX, widest_px, _SIGMAS).tolist()]
    values = [mismatch(sigma_px) for sigma_px in ladder]
    best = int(np.argmin(values))
    ends = ladder[max(best - 1, 0)], ladder[min(best + 1, _SIGMAS)]
    found = minimize_scalar(mismatch, bounds=ends, method="bounded", options={"xatol": 1e-6})
    return float(found.x) if found.fun < values[best] else ladder[best]


def _correlation(first: Float[np.ndarray, "y x"], second: Float[np.ndarray, "y x"]) -> float:
    norm = math.sqrt(float(np.vdot(first, first)) * float(np.vdot(second, second)))
    return float(np.vdot(first, second)) / norm if norm > 0 else 0.0
