"""Image + spot positions -> widths: a 2-D Gaussian fitted to each spot.

    I(y, x) = b + a exp(-(y - y0)^2 / (2 s_y^2) - (x - x0)^2 / (2 s_x^2)),  FWHM = 2.355 s

All spots are fitted together: every step of the Levenberg-Marquardt method is one batched solution
of 6 x 6 systems. A fit that went wrong is marked and counted, never replaced by a guess.

K. Levenberg, Quarterly of Applied Mathematics 2, 164 (1944), doi 10.1090/qam/10666;
D. W. Marquardt, Journal of SIAM 11, 431 (1963), doi 10.1137/0111030.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from crosscope.deconvolution import FWHM_PER_SIGMA

_STEPS = 60
_LARGEST_SHIFT_PX = 2.0
_SMALLEST_R2 = 0.5


@dataclass(frozen=True, eq=False)
class SpotFits:
    """Gaussians fitted to spots, in the order of the positions given; NaN where a fit failed.

    Attributes
    ----------
    yx_px : (n, 2)
        Centres.
    fwhm_yx_px : (n, 2)
        Full widths at half maximum along y and along x.
    amplitude : (n,)
        Height above the background, grey values.
    background : (n,)
        Grey values.
    r2 : (n,)
        Share of the window's variance that the Gaussian explains, at most 1.
    """

    yx_px: Float[np.ndarray, "n 2"]
    fwhm_yx_px: Float[np.ndarray, "n 2"]
    amplitude: Float[np.ndarray, "n"]
    background: Float[np.ndarray, "n"]
    r2: Float[np.ndarray, "n"]

    @property
    def fwhm_px(self) -> Float[np.ndarray, "n"]:
        """One width per spot: the geometric mean of the two."""
        width_px: Float[np.ndarray, "n"] = np.sqrt(self.fwhm_yx_px.prod(axis=1))
        return width_px

    @property
    def valid(self) -> Bool[np.ndarray, "n"]:
        """Which fits succeeded."""
        succeeded: Bool[np.ndarray, "n"] = ~np.isnan(self.r2)
        return succeeded


def fit_spots(
    image: Float[np.ndarray, "y x"], centres_yx_px: Float[np.ndarray, "n 2"], *, radius_px: int
) -> SpotFits:
    """Fit a 2-D Gaussian with a flat background to the window around each position.

    Parameters
    ----------
    image : (y, x)
    centres_yx_px : (n, 2)
        Where the spots are, to 2 px; choose isolated ones (`spots.isolated`).
    radius_px : int
        Windows are 2 radius_px + 1 wide. 1.2 to 2 FWHM: less can't tell spot from background, more
        takes in the neighbours.

    Returns
    -------
    SpotFits
        A fit counts as failed, and is NaN, where the window leaves the image or holds a NaN, the
        iteration does not settle, the centre moves by more than 2 px, the amplitude is not
        positive, a width is below 0.8 px or beyond the window's, or r2 is below 0.5.

    Notes
    -----
    Least squares without weights: unbiased under Poisson noise, not of least variance. The width is
    that of the spot as it is in the image: a bead of diameter d adds about 0.35 d^2 to the square
    of the point spread function's, and a shape with a sharp tip and wide tails (Airy, STED) is
    not a Gaussian: the fit then answers between tip and tails, depending on the window.
    """
    offset_px = np.arange(-radius_px, radius_px + 1)
    corner = np.rint(centres_yx_px).astype(int)
    inside = ((corner >= radius_px) & (corner < np.array(image.shape) - radius_px)).all(axis=1)
    rows = (np.where(inside, corner[:, 0], radius_px)[:, None] + offset_px) % image.shape[0]
    columns = (np.where(inside, corner[:, 1], radius_px)[:, None] + offset_px) % image.shape[1]
    windows = image[rows[:, :, None], columns[:, None, :]].astype(np.float64)  # n w w
    fitted = inside & np.isfinite(windows).all(axis=(1, 2)) & (np.ptp(windows, axis=(1, 2)) > 0)

    results = np.full((len(windows), 7), np.nan)  # y, x, log s_y, log s_x, a, b; r2
    if fitted.any():
        results[fitted] = _fit_gaussians(windows[fitted])
    centre, log_sigma = results[:, :2], results[:, 2:4]
    with np.errstate(invalid="ignore"):
        fwhm_yx_px = FWHM_PER_SIGMA * np.exp(log_sigma)
        start = centres_yx_px - corner
        failed = (
            ~(np.hypot(*(centre - start).T) <= _LARGEST_SHIFT_PX)
            | ~(fwhm_yx_px.min(axis=1) >= 0.8)
            | ~(fwhm_yx_px.max(axis=1) <= 2 * radius_px + 1)
            | ~(results[:, 4] > 0)
            | ~(results[:, 6] >= _SMALLEST_R2)
        )
    results[failed] = np.nan
    fwhm_yx_px[failed] = np.nan
    return SpotFits(
        yx_px=corner + centre,
        fwhm_yx_px=fwhm_yx_px,
        amplitude=results[:, 4],
        background=results[:, 5],
        r2=results[:, 6],
    )


def _fit_gaussians(windows: Float[np.ndarray, "n w w"]) -> Float[np.ndarray, "n 7"]:
    """Return y, x, log s_y, log s_x, a, b and r2 of each window, NaN where it does not settle."""
    n, w, _ = windows.shape
    low, span = windows.min(axis=(1, 2)), np.ptp(windows, axis=(1, 2))
    windows = (windows - low[:, None, None]) / span[:, None, None]
    middle = slice(w // 2 - 1, w // 2 + 2)
    background = np.quantile(windows.reshape(n, -1), 0.2, axis=1)
    amplitude = np.maximum(windows[:, middle, middle].mean(axis=(1, 2)) - background, 0.05)
    # A Gaussian's volume over its height is 2 pi s^2.
    volume = np.maximum(windows - background[:, None, None], 0).sum(axis=(1, 2))
    log_sigma = 0.5 * np.log(np.clip(volume / amplitude / (2 * np.pi), 0.5, (w / 4) ** 2))
    zero = np.zeros(n)
    parameters = np.stack([zero, zero, log_sigma, log_sigma, amplitude, background], axis=1)

    limit = np.array([w, w, np.log(4 * w), np.log(4 * w), 100, 100])
    damping, settled = np.full(n, 1e-2), np.zeros(n, dtype=bool)
    diagonal = np.arange(6)
    for _ in range(_STEPS):
        # The derivative by parameter i is the outer product of left[i] along y and right[i] along
        # x, so that the normal equations need no w x w x 6 array.
        left, right = _factors(parameters, w)  # n 6 w
        residual = windows - _gaussians(parameters, w)
        normal = (left @ left.mT) * (right @ right.mT)  # n 6 6
        normal[:, diagonal, diagonal] *= 1 + damping[:, None]
        normal[:, diagonal, diagonal] += 1e-12
        slope = ((left @ residual) * right).sum(axis=2)
        step = np.linalg.solve(normal, slope[:, :, None])[:, :, 0]
        step = np.clip(step, -0.5, 0.5)
        trial = np.clip(parameters + step, -limit, limit)
        better = _power(windows - _gaussians(trial, w)) < _power(residual)
        settled |= (np.abs(step[:, :4]).max(axis=1) < 1e-4) & (damping < 1)
        parameters = np.where(better[:, None], trial, parameters)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-7, 1e7)
        if settled.all():
            break
    variance = _power(windows - windows.mean(axis=(1, 2), keepdims=True))
    r2 = 1 - _power(windows - _gaussians(parameters, w)) / variance
    parameters[:, 4:] *= span[:, None]
    parameters[:, 5] += low
    return np.where(settled[:, None], np.column_stack([parameters, r2]), np.nan)


def _factors(
    parameters: Float[np.ndarray, "n 6"], w: int
) -> tuple[Float[np.ndarray, "n 6 w"], Float[np.ndarray, "n 6 w"]]:
    """Return the derivatives by each parameter, along y and along x."""
    y, x, log_sigma_y, log_sigma_x, amplitude = parameters.T[:5, :, None]
    offset_px = np.arange(w) - w // 2
    u, v = (offset_px - y) / np.exp(log_sigma_y), (offset_px - x) / np.exp(log_sigma_x)
    g, h, one = np.exp(-(u**2) / 2), np.exp(-(v**2) / 2), np.ones_like(u)
    a = amplitude
    left = [a * g * u / np.exp(log_sigma_y), a * g, a * g * u**2, a * g, g, one]
    right = [h, h * v / np.exp(log_sigma_x), h, h * v**2, h, one]
    return np.stack(left, axis=1), np.stack(right, axis=1)


def _gaussians(parameters: Float[np.ndarray, "n 6"], w: int) -> Float[np.ndarray, "n w w"]:
    left, right = _factors(parameters, w)
    amplitude, background = parameters.T[4:, :, None, None]
    model: Float[np.ndarray, "n w w"] = (
        background + amplitude * left[:, 4, :, None] * right[:, 4, None, :]
    )
    return model


def _power(windows: Float[np.ndarray, "n w w"]) -> Float[np.ndarray, "n"]:
    power: Float[np.ndarray, "n"] = (windows**2).sum(axis=(1, 2))
    return power
