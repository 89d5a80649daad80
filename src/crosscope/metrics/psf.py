"""Image + spot positions -> widths: by a 2-D Gaussian fitted to each spot, or without a model.

    I(y, x) = b + a exp(-(y - y0)^2 / (2 s_y^2) - (x - x0)^2 / (2 s_x^2)),  FWHM = 2.355 s

All spots are fitted together: every step of the Levenberg-Marquardt method is one batched solution
of 6 x 6 systems. A fit that went wrong is marked and counted, never replaced by a guess.

No real spot is a Gaussian. `half_maximum_widths` reads the full width at half maximum off the
spot's own profile, averaged over all directions: right for other shapes too, two to three times as
noisy.

K. Levenberg, Quarterly of Applied Mathematics 2, 164 (1944), doi 10.1090/qam/10666;
D. W. Marquardt, Journal of SIAM 11, 431 (1963), doi 10.1137/0111030.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.polynomial.legendre import legvander
from scipy.stats import trim_mean

from crosscope.deconvolution import FWHM_PER_SIGMA

_STEPS = 60
_LARGEST_SHIFT_PX = 2.0
_SMALLEST_R2 = 0.5
# Out to 0.8 FWHM a polynomial of degree 3 in r^2 meets even a Lorentzian tip to 1 % of its height.
_CORE = 0.8
_SMALLEST_CORE_PX = 2.0
_DEGREE = 3
# In pixels: as if so many said that the spot is the Gaussian.  Where a spot of 3 px sits between
# four pixels, they show its profile at three distances only: too few for four coefficients.
_RIDGE = 0.1
_PASSES = 3


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
    Least squares without weights: unbiased under Poisson noise, not of least variance. For Gaussian
    spots of 3 to 10 px on a background of 10 photons the mean width is right within 1 % at 500
    photons in the peak and within 3 % at 50.

    The width is that of the spot as it is in the image: a bead of diameter d adds about 0.35 d^2 to
    the square of the point spread function's, a camera's pixel, which integrates, 0.46 px^2 (at
    3 px 2.5 % of the width).

    Other shapes are no Gaussians: the fit then answers between tip and tails, depending on the
    window. It is off, without any noise, by

    ================================================  ========  ========  ======
    radius_px                                         1.2 FWHM  1.5 FWHM  2 FWHM
    ================================================  ========  ========  ======
    Airy pattern                                      -4 %      -6 %      -6 %
    STED, `optics.psf.sted_otf`                       +1 %      +2 %      +2 %
    Lorentzian of 100 nm times Gaussian of 290 nm     +5 %      +12 %     +21 %
    ================================================  ========  ========  ======

    The last has the sharp tip and wide tails that depletion by a continuous wave leaves. Compare
    such widths for one shape and one window only, or take `half_maximum_widths`.
    """
    corner = np.rint(centres_yx_px).astype(int)
    windows = _windows(image, corner, radius_px)
    fitted = np.isfinite(windows).all(axis=(1, 2)) & (np.ptp(windows, axis=(1, 2)) > 0)

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


def half_maximum_widths(
    image: Float[np.ndarray, "y x"], centres_yx_px: Float[np.ndarray, "n 2"], *, radius_px: int
) -> Float[np.ndarray, "n"]:
    """Measure how wide each spot is at half of its height above the local background.

    The background is the mean of the middle half of the values in the window's corners. The profile
    over the distance r from the centre, averaged over all directions, is a fitted Gaussian plus
    what the pixels within 0.8 of the width say beyond it: a polynomial of degree 3 in r^2. That
    width is first the Gaussian's, then the measured one. Distances are stretched so that the
    Gaussian is round: an elongated spot, too, has one profile.

    Parameters
    ----------
    image : (y, x)
    centres_yx_px : (n, 2)
        Where the spots are, to 2 px, with no other spot within 1.4 radius_px (`spots.isolated`).
    radius_px : int
        Windows are 2 radius_px + 1 wide. 2 to 3 FWHM: within it the tails should have died away;
        what is left of them counts as background.

    Returns
    -------
    (n,)
        Full widths at half maximum, px; of an elongated spot the geometric mean of its two. NaN
        where `fit_spots` fails (no spot, the border, a NaN), where 0.8 of the width is more than
        radius_px, and where the profile does not fall to half of its height within 0.8 of the
        width.

    Notes
    -----
    The width is that of the spot as it is in the image, bead and pixel included: see `fit_spots`.

    For Gaussian, Airy and STED spots of 3 to 10 px on a background of 10 photons the mean over
    many is right within 2 % at 500 photons in the peak; a single width then scatters by 4 to 5 % at
    3 px and by 1 to 2 % at 10 px. At 50 photons a single width scatters by 15 % at 3 px and by 5 %
    at 10 px; the median over many is right within 2 %, their mean up to 3 % low. Below 3 px the
    pixels are too coarse to tell the shape: the answer goes over into the Gaussian's.
    """
    fits = fit_spots(image, centres_yx_px, radius_px=radius_px)
    widths_px = np.full(len(centres_yx_px), np.nan)
    if not fits.valid.any():
        return widths_px
    corner = np.rint(centres_yx_px).astype(int)[fits.valid]
    windows = _windows(image, corner, radius_px)  # n w w
    offset_px = np.arange(-radius_px, radius_px + 1)
    corners = np.hypot(offset_px[:, None], offset_px) > radius_px
    background = trim_mean(windows[:, corners], 0.25, axis=1)
    height = windows - background[:, None, None]
    width_px, amplitude = fits.fwhm_px[fits.valid], fits.amplitude[fits.valid]
    rounding = width_px / fits.fwhm_yx_px[fits.valid].T  # yx n
    y, x = (fits.yx_px[fits.valid] - corner).T[:, :, None]
    y, x = rounding[:, :, None] * (offset_px - np.stack([y, x]))  # n w
    distance_px = np.hypot(y[:, :, None], x[:, None, :])

    spread_px = width_px / FWHM_PER_SIGMA
    for _ in range(_PASSES):
        core_px = np.maximum(_CORE * width_px, _SMALLEST_CORE_PX)
        core_px[~(core_px <= radius_px)] = np.nan
        width_px = 2 * _half_radius(height, distance_px, core_px, amplitude, spread_px)
    widths_px[fits.valid] = width_px
    return widths_px


def _half_radius(
    height: Float[np.ndarray, "n w w"],
    distance_px: Float[np.ndarray, "n w w"],
    core_px: Float[np.ndarray, "n"],
    amplitude: Float[np.ndarray, "n"],
    spread_px: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "n"]:
    """Return where the mean radial profile first falls to half of its height in the middle.

    NaN where core_px is, or where it doesn't fall so low within the core.
    """
    n = len(height)
    usable = ~np.isnan(core_px)
    core_px, amplitude, spread_px = (
        np.where(usable, each, 1.0)[:, None] for each in (core_px, amplitude, spread_px)
    )

    def gaussian(r: Float[np.ndarray, "*n m"]) -> Float[np.ndarray, "n m"]:
        return amplitude * np.exp(-((r * core_px / spread_px) ** 2) / 2)

    def polynomials(r: Float[np.ndarray, "*n m"]) -> Float[np.ndarray, "*n m p"]:
        return legvander(2 * r**2 - 1, _DEGREE)

    r = distance_px.reshape(n, -1) / core_px
    basis = polynomials(np.minimum(r, 1)) * (r < 1)[:, :, None]
    excess = (height.reshape(n, -1) - gaussian(r))[:, :, None]
    normal = basis.mT @ basis + _RIDGE * np.eye(_DEGREE + 1)
    coefficients = np.linalg.solve(normal, basis.mT @ excess)  # n p 1

    r = np.linspace(0, 1, 401)
    profile = gaussian(r) + (polynomials(r) @ coefficients)[:, :, 0]
    above = profile - 0.5 * profile[:, :1]
    after = np.argmax(above < 0, axis=1)  # 0 where it never falls so low, or has no height
    index = np.arange(n)
    before, beyond = above[index, after - 1], above[index, after]
    usable &= after > 0
    share = np.divide(before, before - beyond, out=np.zeros(n), where=usable)
    return np.where(usable, core_px[:, 0] * (after - 1 + share) / (len(r) - 1), np.nan)


def _windows(
    image: Float[np.ndarray, "y x"], corner: Int[np.ndarray, "n 2"], radius_px: int
) -> Float[np.ndarray, "n w w"]:
    """Cut the window around each pixel, NaN where it leaves the image."""
    offset_px = np.arange(-radius_px, radius_px + 1)
    to_border_px = np.minimum(corner, np.array(image.shape) - 1 - corner).min(axis=1)
    inside = to_border_px >= radius_px
    rows, columns = (np.where(inside[:, None], corner, 0)[:, :, None] + offset_px).swapaxes(0, 1)
    rows, columns = rows % image.shape[0], columns % image.shape[1]
    windows = image[rows[:, :, None], columns[:, None, :]].astype(np.float64)
    windows[~inside] = np.nan
    return windows


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
