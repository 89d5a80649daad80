"""Input + output -> where they contradict: the output, blurred again, against what was seen.

    r = source - (gain K (output - zero) + background),   z = G * r / sd(G * r)

G is a spot as wide as the source's finest structure; z is the deviation in units of what noise and
the model of the blur leave there. An object that was added, deleted, moved or made brighter shows;
one bead or two under the source's width shows only where there is much light and the blur is well
known: both give nearly the same source.

Both images are compared in blocks, so wide as the source's resolution allows. Everything is local:
images of any size are compared part by part, each read with `Reblurrer.halo_px` around it.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Num
from scipy import ndimage

from crosscope.data.grids import Axis, in_blocks, resample, resample_within
from crosscope.data.noise import Noise, measure_darkest, measure_noise
from crosscope.data.registered import RegisteredPair
from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.quality.forward import Forward, estimate_forward

HALO = 3.0  # in widths of the source's finest structure
LIMIT = 5.0
"""A deviation of so many standard deviations is no chance: it contradicts the input."""
_BRIGHT = 0.25  # of the brightest: where the mismatch of the blur is measured
_LEAST_NOISE = 0.1  # of the estimate, in the darkest places
_FARTHEST = 1e6  # standard deviations: what is no number is so far


@dataclass(frozen=True, eq=False)
class Comparison:
    """A part of an input and an output in blocks.

    Attributes
    ----------
    z : (v, u)
        Above 0 where the output lacks light, below where it has too much.
    source, expected : (v, u)
        What was seen and what the output means, grey values of the source.
    """

    z: Float32[np.ndarray, "v u"]
    source: Float[np.ndarray, "v u"]
    expected: Float[np.ndarray, "v u"]


@dataclass(frozen=True)
class Reblurrer:
    """The comparison, made ready for one image.

    Attributes
    ----------
    forward : Forward
        Of the model.
    noise : Noise
        Of a block, as that image has it.
    shift : float
        Grey values by which its background is above `forward.background`: of dense fields, which
        hold no dark place, above that of the darkest in training.
    """

    forward: Forward
    noise: Noise
    shift: float

    @property
    def halo_px(self) -> int:
        """How far around a part must be read, pixels of the target: whole blocks."""
        block_px = self.forward.block_px
        return math.ceil(HALO * self.forward.source_fwhm_px / block_px) * block_px

    def compare(
        self, source: Num[np.ndarray, "y x"], output: Float[np.ndarray, "y x"]
    ) -> Comparison:
        """Compare a part of an input with its output.

        Parameters
        ----------
        source : (y, x)
            Grey values of the source on the target's grid, as the network is given them.
        output : (y, x)
            Target grey values. Both begin at a multiple of `block_px`.
        """
        forward = self.forward
        seen, expected = in_blocks(source, forward.block_px), self.expect(output)
        sigma = forward.source_fwhm_px / FWHM_PER_SIGMA / forward.block_px
        smooth = ndimage.gaussian_filter(seen - expected, sigma, truncate=3.0)
        variance = self.noise.variance(expected) / np.float32(4 * np.pi * sigma**2)
        light = forward.mismatch * (expected - np.float32(forward.background + self.shift))
        z = (smooth / np.sqrt(variance + np.square(light))).astype(np.float32)
        np.nan_to_num(z, copy=False, nan=_FARTHEST, posinf=_FARTHEST, neginf=-_FARTHEST)
        return Comparison(z, seen, expected)

    def expect(self, output: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "v u"]:
        """Return what an output means: grey values of the source, in blocks."""
        block_px = self.forward.block_px
        expected = self.forward.apply(in_blocks(output, block_px), block_px=block_px)
        expected += np.float32(self.shift)
        return expected


@dataclass(frozen=True)
class Sums:
    """What all parts of an image have together.

    Attributes
    ----------
    count : int
        Blocks.
    z2, z2_within, beyond : float
        Sum of z^2, of all and where |z| is not above `LIMIT`; and how many are above.
    source, expected, source2, expected2, product, error2 : float
        Sums of grey values, squares and products.
    shown, sisters_beyond : int
        Pixels that sisters were asked for, and in how many of them one is further than `LIMIT`.
    """

    count: int = 0
    z2: float = 0.0
    z2_within: float = 0.0
    beyond: int = 0
    source: float = 0.0
    expected: float = 0.0
    source2: float = 0.0
    expected2: float = 0.0
    product: float = 0.0
    error2: float = 0.0
    shown: int = 0
    sisters_beyond: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        both = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return Sums(**{name: a + b for (name, a), b in both})

    @property
    def chi_square(self) -> float:
        """Mean of z^2: 1 where input and output agree to the noise."""
        return self.z2 / self.count

    @property
    def chi_square_within(self) -> float:
        """The same of what does not contradict the input: large where all of it is off a little."""
        return self.z2_within / max(1, self.count - self.beyond)

    @property
    def beyond_share(self) -> float:
        """Share of the image that contradicts the input."""
        return self.beyond / self.count

    @property
    def sisters_beyond_share(self) -> float | None:
        """Share of the image in which a sister shows something else; None where none was asked."""
        return self.sisters_beyond / self.shown if self.shown else None

    @property
    def rse(self) -> float:
        """Root mean square of source - expected, grey values."""
        return math.sqrt(self.error2 / self.count)

    @property
    def rsp(self) -> float | None:
        """Pearson correlation of source and expected; None where one is constant."""
        n = self.count
        both = self.product - self.source * self.expected / n
        each = (self.source2 - self.source**2 / n) * (self.expected2 - self.expected**2 / n)
        return both / math.sqrt(each) if each > 0 else None


def add_up(part: Comparison, rows: slice, columns: slice) -> Sums:
    """Return the sums over some blocks of a part: those without its halo."""
    z, source, expected = (
        image[rows, columns].astype(np.float64) for image in (part.z, part.source, part.expected)
    )
    within = np.abs(z) <= LIMIT
    return Sums(
        count=z.size,
        z2=float((z**2).sum()),
        z2_within=float((z[within] ** 2).sum()),
        beyond=int((~within).sum()),
        source=float(source.sum()),
        expected=float(expected.sum()),
        source2=float((source**2).sum()),
        expected2=float((expected**2).sum()),
        product=float((source * expected).sum()),
        error2=float(((source - expected) ** 2).sum()),
    )


def make_reblurrer(
    forward: Forward,
    sources: Sequence[Num[np.ndarray, "_y _x"]],
    outputs: Sequence[Float[np.ndarray, "_y _x"]],
    *,
    registered: bool = False,
) -> Reblurrer:
    """Measure an image's noise and background on a few parts of it.

    Parameters
    ----------
    forward : Forward
    sources, outputs : equally many (y, x)
        As for `Reblurrer.compare`. `registered` ones were resampled by any shift.
    """
    block_px, zoom = forward.block_px, forward.zoom
    plain = Reblurrer(forward, forward.noise.times((zoom / block_px) ** 2), 0.0)
    expected = [plain.expect(output) for output in outputs]
    off = [in_blocks(s, block_px) - e for s, e in zip(sources, expected, strict=True)]
    level = np.concatenate([each.ravel() for each in expected])
    residual = np.concatenate([each.ravel() for each in off])
    shift = float(np.median(residual[level <= np.median(level)]))
    found = [measure_noise(o - shift, e + shift) for o, e in zip(off, expected, strict=True)]
    known = [each for each in found if each is not None]
    if not known:
        return replace(plain, shift=shift)
    share = fine_share(zoom, block_px, registered=registered)
    middle = {
        name: float(np.median([getattr(each, name) for each in known]))
        for name in ("gain", "read_noise", "zero")
    }
    return Reblurrer(forward, Noise(**middle).times((zoom / block_px) ** 2 / share), shift)


def learn_forward(
    pairs: Sequence[RegisteredPair], outputs: Sequence[Float[np.ndarray, "_y _x"]], *, zoom: float
) -> Forward:
    """Estimate the blur from registered pairs, and what it leaves in the outputs of a model.

    Parameters
    ----------
    pairs : sequence of RegisteredPair
        The training pairs: one is enough, and nothing but structure is needed.
    outputs : sequence of (y, x)
        What the model makes of their sources, target grey values.
    zoom : float
        Target pixels per raw source pixel.

    Raises
    ------
    PairError
        The sources show nothing of their targets.
    """
    forward = estimate_forward(pairs, zoom=zoom)
    sources = [pair.source.pixels for pair in pairs]
    reblurrer = make_reblurrer(forward, sources, outputs, registered=True)
    per_pixel = reblurrer.noise.times((forward.block_px / zoom) ** 2)
    parts = [reblurrer.compare(*both) for both in zip(sources, outputs, strict=True)]
    background = forward.background + reblurrer.shift
    light = np.concatenate([(part.expected - background).ravel() for part in parts])
    z2 = np.concatenate([np.square(part.z).ravel() for part in parts])
    bright = light > _BRIGHT * np.quantile(light, 0.999)
    variance = reblurrer.noise.variance(light[bright] + background)
    sigma = forward.source_fwhm_px / FWHM_PER_SIGMA / forward.block_px
    variance = variance / (4 * np.pi * sigma**2)
    excess = ((z2[bright] - 1) * variance).sum() / np.square(light[bright]).sum()
    mismatch = math.sqrt(max(0.0, float(excess)))
    found = [measure_darkest(in_blocks(source, forward.block_px)) for source in sources]
    if darkest := [each for each in found if each is not None]:
        level, noise = np.median(darkest, axis=0).tolist()
        noise /= math.sqrt(fine_share(zoom, forward.block_px, registered=True))
        if level + noise < background:  # dense fields: the regression has seen no dark place
            background = level
            least, most = _LEAST_NOISE * per_pixel.read_noise, per_pixel.read_noise
            per_pixel = Noise(per_pixel.gain, min(max(noise, least), most), level)
    return replace(forward, noise=per_pixel, background=background, mismatch=mismatch)


@functools.cache
def fine_share(zoom: float, block_px: int, *, registered: bool) -> float:
    """Return what `measure_noise` sees of white noise of variance 1 per source pixel, in blocks.

    The resampling to the target's grid takes fine noise away, of a registered source by any shift.
    """
    rng = np.random.default_rng(0)
    wide = max(256, 12 * block_px)  # enough blocks to measure their noise
    side_px = round(wide / zoom)
    shares = []
    for shifts_px in zoom * rng.uniform(-0.5, 0.5, (8 if registered else 1, 2)):
        white = rng.normal(size=(side_px, side_px))
        if registered:
            white = resample_within(white, *(Axis(wide, side_px, 1 / zoom, px) for px in shifts_px))
        else:
            white = resample(white, (zoom, zoom))
        blocks = in_blocks(white, block_px)
        found = measure_noise(blocks, np.zeros_like(blocks))
        assert found is not None
        shares.append(found.read_noise**2)
    return float(np.mean(shares))
