"""Target image -> the source image that it means: the blur from the one modality to the other.

    source = gain K (target - zero) + background

K is a round kernel of sum 1, known by its transfer function. It is estimated once for a model, from
its training pairs, never from the image that is judged.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Num
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.optimize import isotonic_regression

from crosscope.data.background import measure_background
from crosscope.data.errors import PairError
from crosscope.data.noise import Noise
from crosscope.data.numbers import GREY, ZOOM, read_number
from crosscope.data.registered import RegisteredPair
from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.metrics.decorrelation import measure_decorrelation
from crosscope.metrics.typical import typical_fwhm

FREQUENCIES = 65
"""Places at which the transfer function is known, 0 to 0.5 cycles per pixel of the target."""
BLOCKS = 3.5
"""A width of the source's finest structure is so many blocks, at least."""
WIDEST_PX = 128.0
"""Of the source's finest structure; the kernel as it is estimated reaches half as far."""
_BORDER = 1.5  # in widths of the source's finest structure
_FINE = 0.45  # cycles per pixel from which on a target holds noise alone
_LOW = 7  # rings from which the gain is extrapolated to frequency 0
_REACH = 3.0  # of the kernel, in widths
_KNOWN = np.linspace(0, 0.5, FREQUENCIES)
_SEEN = 0.1  # of the power at the lowest frequencies: where K is known at all


@dataclass(frozen=True)
class Forward:
    """What leads from the target modality to the source, on the target's grid.

    Attributes
    ----------
    transfer : tuple of float
        Of K, 1 at frequency 0, at `FREQUENCIES` equal steps from 0 to 0.5 cycles per pixel.
    gain : float
        Source grey values per target grey value.
    zero, background : float
        Grey levels of nothing in the target and in the source; of dense fields that of the source's
        darkest places (`learn_forward`).
    mismatch : float
        What the model of the blur leaves in a good output, as a share of the expected light: a
        standard deviation.
    target_fwhm_px : float
        Width of the finest structure of the targets.
    zoom : float
        Pixels of the target per pixel of the source.
    noise : Noise
        Of a source pixel, as it was taken.
    """

    transfer: tuple[float, ...]
    gain: float
    zero: float
    background: float
    mismatch: float
    target_fwhm_px: float
    zoom: float
    noise: Noise

    @property
    def source_fwhm_px(self) -> float:
        """Width of the source's finest structure, on the target's grid."""
        return math.hypot(self.target_fwhm_px, _blur_fwhm_px(self.transfer))

    @property
    def block_px(self) -> int:
        """Side of the blocks in which input and output are compared: a source pixel or more."""
        return max(math.ceil(self.zoom - 0.01), int(self.source_fwhm_px / BLOCKS), 1)

    @property
    def border(self) -> int:
        """Blocks along an image's border where light from beyond it may shine in."""
        return math.ceil(_BORDER * self.source_fwhm_px / self.block_px)

    def apply(
        self, target: Float[np.ndarray, "y x"], *, block_px: int = 1
    ) -> Float[np.ndarray, "y x"]:
        """Return the source that a target means, on the same grid; mirrored beyond the border.

        The target may be given by the means of blocks of so many pixels: the source comes as such.
        """
        waves = fft.dctn(target.astype(np.float32) - np.float32(self.zero), norm="ortho")
        height, width = target.shape
        waves *= _spread(self.transfer, height, width, block_px)
        blurred: Float[np.ndarray, "y x"] = fft.idctn(waves, norm="ortho", overwrite_x=True)
        blurred *= np.float32(self.gain)
        blurred += np.float32(self.background)
        return blurred

    def widened(self, times: float) -> "Forward":
        """Return what leads to a source whose blur is so many times as wide.

        That blur is the target's, taken for a Gaussian, and what comes to it.
        """
        sigma_px = self.target_fwhm_px / FWHM_PER_SIGMA
        coarser = np.interp(times * _KNOWN, _KNOWN, self.transfer)
        lost = np.exp(-2 * (math.pi * sigma_px * _KNOWN) ** 2 * (times**2 - 1))
        return replace(self, transfer=tuple((coarser * lost).tolist()))

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self) | {"transfer": [round(value, 6) for value in self.transfer]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Forward":
        """Rebuild it; raises ValueError, KeyError or TypeError where it is damaged."""
        limits = {
            "gain": (1e-9, 1e9),
            "zero": (-GREY, GREY),
            "background": (-GREY, GREY),
            "mismatch": (0.0, 1e3),
            "target_fwhm_px": (0.1, WIDEST_PX),
            "zoom": ZOOM,
        }
        numbers = {name: read_number(value[name], *both) for name, both in limits.items()}
        transfer = tuple(read_number(each, -2.0, 2.0) for each in value["transfer"])
        if len(transfer) != FREQUENCIES:
            raise ValueError("the blur between the modalities is damaged")
        found = cls(transfer=transfer, noise=Noise.from_json(value["noise"]), **numbers)
        read_number(found.source_fwhm_px, 0.0, WIDEST_PX)  # sizes blocks, kernels and halos
        return found


def estimate_forward(pairs: Sequence[RegisteredPair], *, zoom: float) -> Forward:
    """Estimate the blur from registered pairs; noise and mismatch are left open.

    Parameters
    ----------
    pairs : sequence of RegisteredPair
        The training pairs: one is enough, and nothing but structure is needed.
    zoom : float
        Target pixels per raw source pixel.

    Notes
    -----
    K is the cross-spectrum of source and target over the target's power, less the power of its
    white noise, in rings of frequency under a Hann window, made to fall with the frequency by
    isotonic regression; where the target has no power it is 0. Far from its centre the kernel is
    faded out, so that an image can be blurred part by part.

    Raises
    ------
    PairError
        The sources show nothing of their targets.
    """
    rings = _KNOWN
    cross, power, count = (np.zeros(FREQUENCIES) for _ in range(3))
    for pair in pairs:
        source, target = (image.pixels.astype(np.float64) for image in (pair.source, pair.target))
        frequency = np.hypot(fft.fftfreq(target.shape[0])[:, None], fft.rfftfreq(target.shape[1]))
        waves = [_windowed(image) for image in (source, target)]
        which = np.rint(frequency * (2 * (FREQUENCIES - 1))).astype(int)
        inside = which < FREQUENCIES
        for sums, values in (
            (cross, (waves[0] * waves[1].conj()).real),
            (power, np.abs(waves[1]) ** 2),
            (count, np.ones_like(frequency)),
        ):
            sums += np.bincount(which[inside], values[inside], FREQUENCIES)
    noise_power = power[rings > _FINE].sum() / count[rings > _FINE].sum()
    signal = power - noise_power * count
    low = np.arange(1, _LOW)  # the window spreads the mean over ring 0
    if not (cross[low].min() > 0 and signal[low].min() > 0):
        reason = "no source shows anything of its target"
        raise PairError("blur between the pairs", reason, "Check that the images belong together")
    # near 0 every blur is a Gaussian: ln K = -c f^2
    ratio = np.log(cross[low] / signal[low])
    gain = math.exp(np.polyfit(rings[low] ** 2, ratio, 1, w=np.sqrt(count[low]))[1])
    seen = np.logical_and.accumulate(signal > _SEEN * noise_power * count)
    ratio = np.where(seen, cross / np.where(seen, signal, 1.0), 0.0) / gain
    weights = np.maximum(signal, 1e-9 * signal[1])
    falling = isotonic_regression(ratio[1:], weights=weights[1:], increasing=False)
    transfer = _compact(np.clip(np.concatenate([[1.0], falling.x]), 0.0, 1.0))
    zero = float(np.median([measure_background(pair.target.pixels).level for pair in pairs]))
    means = [[float(np.mean(i.pixels)) for i in (p.source, p.target)] for p in pairs]
    background = float(np.median([source - gain * (target - zero) for source, target in means]))
    targets = [pair.target.pixels.astype(np.float32) for pair in pairs]
    return Forward(
        transfer=tuple(transfer.tolist()),
        gain=gain,
        zero=zero,
        background=background,
        mismatch=0.0,
        target_fwhm_px=_finest_px(targets),
        zoom=zoom,
        noise=Noise(0.0, 1.0, background),
    )


@functools.lru_cache(maxsize=8)  # parts of an image are of few shapes
def _spread(
    transfer: tuple[float, ...], height: int, width: int, block_px: int
) -> Float32[np.ndarray, "v u"]:
    """Return a transfer function at the frequencies of a cosine transform."""
    y, x = (np.arange(n, dtype=np.float32) / (2 * n * block_px) for n in (height, width))
    radius = np.sqrt(np.square(y)[:, None] + np.square(x))
    # finely sampled, for a kink in the transfer function is a tail of the kernel
    fine = np.linspace(0, 0.5, 16 * FREQUENCIES)
    known = CubicSpline(_KNOWN, transfer)(fine)
    return np.interp(radius, fine, known, right=0.0).astype(np.float32)


def _compact(transfer: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Fade the kernel of a transfer function out, far from its centre."""
    side = 4 * (FREQUENCIES - 1)
    y, x = fft.fftfreq(side), fft.rfftfreq(side)
    kernel = fft.irfft2(np.interp(np.hypot(y[:, None], x), _KNOWN, transfer, right=0.0))
    reach_px = min(_REACH * _blur_fwhm_px(transfer), side / 4)
    distance = side * np.hypot(y[:, None], fft.fftfreq(side)) / reach_px
    kernel *= 0.5 + 0.5 * np.cos(np.pi * np.clip(2 * distance - 1, 0, 1))
    faded: Float[np.ndarray, " f"] = fft.rfft2(kernel / kernel.sum()).real[0, ::2]
    return faded


def _blur_fwhm_px(transfer: Sequence[float] | Float[np.ndarray, " f"]) -> float:
    """Return the width of the Gaussian that lets half through at the same frequency."""
    half = float(np.interp(-0.5, -np.asarray(transfer), _KNOWN))  # falls
    return FWHM_PER_SIGMA * math.sqrt(math.log(2) / 2) / math.pi / max(half, 1e-3)


def _windowed(image: Float[np.ndarray, "y x"]) -> Num[np.ndarray, "y _"]:
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    waves: Num[np.ndarray, "y _"] = fft.rfft2((image - np.average(image, weights=window)) * window)
    return waves


def _finest_px(targets: Sequence[Float[np.ndarray, "_y _x"]]) -> float:
    """Return the width of the targets' spots; without spots the finest period; else 2 px."""
    fwhm_px = typical_fwhm(targets)
    if fwhm_px is not None:
        return fwhm_px
    periods = [measure_decorrelation(target).period_px for target in targets]
    known = [period for period in periods if period is not None]
    return float(np.median(known)) if known else 2.0
