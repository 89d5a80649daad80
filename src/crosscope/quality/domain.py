"""Image -> was the model made for such images? inside, near or outside, and why.

The mean features of some crops spread over the image are compared with those of the training
fields: by Mahalanobis's distance, for classical features, for what the generator's bottleneck makes
of the crops, and for what a wider blur changes in either, which tells another objective or a wrong
pixel size and would be one among many. How far a field of the same kind may be is what each
training field is from all others; the fewer crops there are, the farther. Other planes of a place
are no other crops: their features are averaged.

Registering resamples the training fields between their pixels, and blurs them so. Crops of a raw
image are resampled at the same places: else all would seem sharper than what was learnt.

P. C. Mahalanobis, Proc. Natl. Inst. Sci. India 2, 49 (1936).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Num
from torch import nn

from crosscope.data.numbers import read_number
from crosscope.data.sampling import Scaling
from crosscope.model.engine import Engine
from crosscope.quality.features import (
    CROP_PX,
    DARK,
    FINENESS,
    NAMES,
    SPREAD,
    STILL,
    Phase,
    grey_level,
    make_whole,
    measure_features,
)

Value = TypeVar("Value")
CROPS, DEEP_CROPS = 16, 4
"""How many crops of a plane are looked at, and by the network."""
DEEP, TELLING = 8, 32
"""Components of the bottleneck that are compared, and by which a wider blur is told, at most; no
more than one for every eight crops."""
NEAR, OUTSIDE = 1.15, 1.5
"""Distances, of the largest that a field of the same kind has, beyond which an image is so."""
LEAST_PX = 112
"""A smaller side is continued by its mirror image: of crops of 96 px of the models' own kinds 12 in
252 were said not to be inside, of 80 px 26, of 112 and 128 px 4 and 3."""
COUNTS = (1, 4, 16)
"""Numbers of crops for which that largest distance is known."""
LARGEST_FEATURE = 1e6
"""Features are logarithms: none reaches this, nor does what whitens them."""
_ONE_THREAD = Engine(1, "float32")
_SATURATED = 0.01  # of the bright pixels
_BRIGHTEST = 1e6  # times as bright as in training: what is more is not told from it
_SHRINK = 0.1  # of the covariance towards its diagonal
_FINENESS_ALONE = np.eye(len(NAMES))[FINENESS]  # the weights that leave nothing else
_CROPS_PER_COMPONENT = 8
_LEAST = 1e-12  # a change that is none
_PRIOR, _PRIOR_WIDTH, _PRIOR_CROPS = 0.4, 0.2, 20  # how crops of a kind vary, where few were seen
_PRIOR_SHARE = 0.1  # of how much components of the bottleneck vary
_LEAST_SPREAD = 1e-3  # of those: a network whose bottleneck hardly varies tells nothing
_LEAST_REACH = 1.3
_CONTRASTS = 3.0  # a third of the clearest crop's contrast is enough
_ENOUGH = 3  # crops for each feature tell how these vary together
_FEW, _HELD = 3, 4  # of n fields the reach is 1 + 3 / n times as far; 4 crops are one, at least
_OVERLAPPING, _APART_PX = 8, CROP_PX // 4  # crops of such along a side, at most, and how far apart
_LEAST_RATIO, _MANY = 1.1, 100.0  # from where on a ratio is worth a word, up to where a number
_TWO_PX = 2 * CROP_PX
_UNUSUAL = 1.0, 2.0  # standard deviations: of many crops, and how many more of a single one
_EXPLAINS = 0.75  # of the distance, or less, is left without what explains it
_SPOKEN = {
    "fineness": ("the finest structures are {} {} than in training", "wider", "finer"),
    "percentile 99.9": ("the brightest structures have {} {} light", "more", "less"),
    "density": ("bright structures cover {} {} area", "more", "less"),
    "band 26 to 32": ("the noise has {} {} power", "more", "less"),
}


class OtherVersionError(ValueError):
    """The features are those of another version."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Where the features of training crops lie.

    Attributes
    ----------
    centre : (f,)
    whiten : (f, f)
        What makes the crops' features independent and of variance 1.
    reach : tuple of float
        The largest distance of a training field from the others, by `COUNTS` of crops.
    """

    centre: Float[np.ndarray, " f"]
    whiten: Float[np.ndarray, "f f"]
    reach: tuple[float, ...]

    def distance(self, values: Float[np.ndarray, "n f"], count: float | None = None) -> float:
        """Return how far the mean of n crops is, 1 being as far as a training field may be.

        Where they overlap, they hold as much as `count` that don't.
        """
        count = len(values) if count is None else count
        far = float(np.linalg.norm(self.whiten @ (values.mean(axis=0) - self.centre)))
        allowed = np.exp(np.interp(math.log(count), np.log(COUNTS), np.log(self.reach)))
        return far / float(allowed)

    @property
    def spread(self) -> Float[np.ndarray, " f"]:
        """The standard deviations of the features."""
        return np.asarray(np.linalg.norm(np.linalg.pinv(self.whiten), axis=1))


@dataclass(frozen=True, eq=False)
class Discriminant:
    """One number of a crop, its features weighted, that changes most where a blur is wider.

    Attributes
    ----------
    weights : (f,)
    cloud : Cloud
        Of that number.
    """

    weights: Float[np.ndarray, " f"]
    cloud: Cloud

    def distance(self, values: Float[np.ndarray, "n f"], count: float) -> float:
        """Return how far the mean of n crops is: see `Cloud`."""
        return self.cloud.distance(values @ self.weights[:, None], count)

    def rises(self, values: Float[np.ndarray, "n f"]) -> bool:
        """Tell whether n crops are more blurred than in training, rather than less."""
        return bool((values @ self.weights).mean() > self.cloud.centre[0])


@dataclass(frozen=True, eq=False)
class Domain:
    """What a model was made for.

    Attributes
    ----------
    classical, deep : Cloud
    blur, deep_blur : Discriminant
        Of the features, and of the bottleneck's pooled channels.
    fineness : float
        The logarithm of the finest structures' width, as in `NAMES`.
    project : (d, c)
        From the bottleneck's pooled channels, less `middle`, to the components that are kept.
    middle : (c,)
    phases : tuple of Phase
        Where between pixels registering took the training fields' crops from, from the sharpest to
        the most blurred: those of what is judged are taken from there, too. STILL alone where
        nothing was moved, or fields are few.
    """

    classical: Cloud
    deep: Cloud
    blur: Discriminant
    deep_blur: Discriminant
    fineness: float
    project: Float[np.ndarray, "d c"]
    middle: Float[np.ndarray, " c"]
    phases: tuple[Phase, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "classical": _json_of(self.classical),
            "deep": _json_of(self.deep),
            "blur": _json_of(self.blur.cloud) | {"weights": _rounded(self.blur.weights)},
            "deep_blur": _json_of(self.deep_blur.cloud)
            | {"weights": _rounded(self.deep_blur.weights)},
            "fineness": self.fineness,
            "project": _rounded(self.project),
            "middle": _rounded(self.middle),
            "phases": [[*phase.start_px, *phase.drift_px] for phase in self.phases],
            "features": list(NAMES),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Domain":
        """Rebuild it; raises ValueError, KeyError or TypeError where it is damaged.

        OtherVersionError, a ValueError, where other features were measured.
        """
        if tuple(value["features"]) != NAMES or "deep_blur" not in value:
            raise OtherVersionError("the features are those of another version")
        project, middle = _array(value["project"]), _array(value["middle"])
        classical, deep, in_blur, in_deep_blur = (
            _cloud_of(value[name]) for name in ("classical", "deep", "blur", "deep_blur")
        )
        blur = Discriminant(_array(value["blur"]["weights"]), in_blur)
        deep_blur = Discriminant(_array(value["deep_blur"]["weights"]), in_deep_blur)
        sizes = [each.centre.shape for each in (classical, deep, in_blur, in_deep_blur)]
        shapes = [*sizes, blur.weights.shape, deep_blur.weights.shape, project.shape[1:]]
        wanted = [(len(NAMES),), (len(project),), (1,), (1,), (len(NAMES),), *[middle.shape] * 2]
        whole = {len(phase) for phase in value["phases"]} == {4}
        if shapes != wanted or middle.ndim != 1 or not whole:
            raise ValueError("the features' numbers don't fit each other")
        phases = tuple(
            Phase(
                (read_number(y, -0.5, 0.5), read_number(x, -0.5, 0.5)),
                (read_number(along_y, -1.0, 1.0), read_number(along_x, -1.0, 1.0)),
            )
            for y, x, along_y, along_x in value["phases"]
        )
        fineness = read_number(value["fineness"], -LARGEST_FEATURE, LARGEST_FEATURE)
        return cls(
            classical=classical,
            deep=deep,
            blur=blur,
            deep_blur=deep_blur,
            fineness=fineness,
            project=project,
            middle=middle,
            phases=phases,
        )


@dataclass(frozen=True, eq=False)
class Glimpse:
    """What was looked at of an image.

    Attributes
    ----------
    crops : (p, n, y, x)
        The same n places in p planes, on the network's grid, grey values; spread over the image.
    smoothed_noise : (n,)
        What `measure_smoothed_noise` says of how each place was resampled.
    independent : float
        How many crops that don't overlap the places hold.
    everything : bool
        Whether nothing else is in the image.
    side_px : int
        The smaller side of the image on that grid.
    same_pixels : bool
        Whether its pixels are as wide as those that the model was made for.
    saturated : float
        Part of the raw image's bright pixels that is cut off: see `saturated_share`.
    step : int
        In which its raw grey values come: see `find_step`.
    """

    crops: Num[np.ndarray, "p n y x"]
    smoothed_noise: Float[np.ndarray, " n"]
    independent: float
    everything: bool
    side_px: int
    same_pixels: bool = True
    saturated: float = 0.0
    step: int = 1


@dataclass(frozen=True)
class Belonging:
    """Whether an image is of the kind that a model was trained on.

    Attributes
    ----------
    domain : "inside", "near" or "outside"
    distance : float or None
        1 is as far as a field of the training's kind may be; None where it is too small for that.
    signal : bool
        Whether the image shows anything but noise; without it nothing else is judged.
    reasons : tuple of str
    remedies : tuple of str
        What helps against them, but for training.
    """

    domain: str
    distance: float | None
    signal: bool
    reasons: tuple[str, ...]
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Measured:
    """What was measured of places that show anything: features, and how far they are."""

    values: Float[np.ndarray, "n f"]
    count: float
    distance: float
    blur: float
    blurred: bool


@dataclass(frozen=True, eq=False)
class _Crops:
    """What crops of a training field show, and as how many they count that don't overlap."""

    values: Float[np.ndarray, "n f"]
    channels: Float[np.ndarray, "n c"]
    signal: Bool[np.ndarray, " n"]
    apart: float


@dataclass(frozen=True)
class _Note:
    """A reason in words, and what helps against it, where that is known."""

    reason: str
    remedy: str = ""


def learn_domain(
    generator: nn.Module,
    sources: Sequence[Num[np.ndarray, "_y _x"]],
    scaling: Scaling,
    *,
    blurred: Sequence[Num[np.ndarray, "_y _x"]] = (),
    phases: Sequence[Phase] = (STILL,),
) -> Domain:
    """Learn the kind of image from a model's training fields.

    Parameters
    ----------
    generator : nn.Module
    sources : sequence of (y, x)
        On the network's grid, grey values; one is enough, though more tell what may vary.
    scaling : Scaling
    blurred : sequence of (y, x)
        The first of the sources, as an objective of a wider blur would show them; of up to three
        sources they are not looked at. Without, the finest structures' width stands for the blur.
    phases : sequence of Phase
        Where between pixels the sources' crops were taken from: see `Domain`. Beside what few
        fields leave unknown that is nothing.
    """
    few = len(sources) <= _FEW
    place = _overlap if few else place_crops

    def measure(source: Num[np.ndarray, "_y _x"]) -> _Crops:
        crops = scaling.apply(np.stack([make_whole(source[at]) for at in place(source.shape)]))
        features = measure_features(crops)
        apart = float(min(len(crops), _count_apart(source.shape)))
        return _Crops(features.values, pool_bottleneck(generator, crops), features.signal, apart)

    before = [measure(source) for source in sources]
    after = [] if few else [measure(source) for source in blurred]
    after += before[len(after) :]
    if not any(crops.signal.any() for crops in before):  # nothing but noise: everything is alike
        before = after = [replace(crops, signal=np.ones_like(crops.signal)) for crops in before]
    known = [(b, a) for b, a in zip(before, after, strict=True) if b.signal.any()]
    values = [b.values[b.signal] for b, _ in known]
    channels = [b.channels[b.signal] for b, _ in known]
    value_changes = [(a.values - b.values)[b.signal] for b, a in known]
    channel_changes = [(a.channels - b.channels)[b.signal] for b, a in known]
    held = [b.signal.mean() * b.apart for b, _ in known]
    unsure = 1 + _FEW / min(max(_FEW, len(held)), sum(held) / _HELD)
    middle = np.concatenate(channels).mean(axis=0)
    components, spread = _find_components(np.concatenate(channels) - middle)
    project, telling = components[:DEEP], components / spread
    clear = [_clear(each) for each in values]
    deep_blur = _learn_blur(
        [each @ telling.T for each in channels],
        [each @ telling.T for each in channel_changes],
        unsure,
        prior=_PRIOR_SHARE,
        alone=np.zeros(len(telling)),
    )
    return Domain(
        classical=_make_cloud(values, unsure),
        deep=_make_cloud([(each - middle) @ project.T for each in channels], unsure),
        blur=_learn_blur(
            values, value_changes, unsure, prior=_PRIOR, alone=_FINENESS_ALONE, shown=clear
        ),
        deep_blur=replace(deep_blur, weights=deep_blur.weights @ telling),
        fineness=float(np.concatenate(clear)[:, FINENESS].mean()),
        project=project,
        middle=middle,
        phases=(STILL,) if few else tuple(phases),
    )


def _find_components(
    channels: Float[np.ndarray, "n c"],
) -> tuple[Float[np.ndarray, "d c"], float]:
    """Return the principal components of what varies, and how much they vary on average.

    Infinitely where they hardly do, as in a network that is dead: by its units nothing is told.
    """
    _, strengths, components = np.linalg.svd(channels, full_matrices=False)
    count = min(TELLING, max(1, len(channels) // _CROPS_PER_COMPONENT))
    spread = float(strengths[:count].mean()) / math.sqrt(len(channels))
    return components[:count], spread if spread > _LEAST_SPREAD else math.inf


def judge_domain(
    generator: nn.Module, domain: Domain, seen: Glimpse, scaling: Scaling
) -> Belonging:
    """Compare what was seen of an image with the training fields.

    `scaling` is the source's, by the image's own offset where that was given.
    """
    measured = _measure(generator, domain, seen, _scale(seen.crops, scaling))
    small = seen.side_px < LEAST_PX
    if measured is None and not small:
        return Belonging("inside", 0.0, False, (_tell_empty(seen),))
    distances, notes, least = [], [], 0
    cut_off = OUTSIDE * seen.saturated / _SATURATED
    if measured is None or small:
        words = "it is too small to be judged: {} px of at least {} on the output's grid"
        notes, least = [_Note(words.format(seen.side_px, LEAST_PX))], 1
    else:
        distances.append(measured.distance)
        notes = _explain(generator, domain, seen, scaling, measured)
        least = 1 if notes else 0
        if not notes and measured.distance > NEAR >= cut_off:
            notes = [_Note("the network sees other structures than in training")]
    if seen.saturated:
        distances.append(cut_off)
        words = "{:.1%} of its bright pixels share the highest grey value: saturated"
        remedy = "take it again with less light" if cut_off > NEAR else ""
        notes.append(_Note(words.format(seen.saturated), remedy))
    distance = max(distances, default=None)
    return Belonging(
        ("inside", "near", "outside")[max(least, _rank(distance))],
        distance,
        measured is not None,
        tuple(note.reason for note in notes),
        tuple(note.remedy for note in notes if note.remedy),
    )


def place_crops(shape: tuple[int, int], count: int = CROPS) -> Iterator[tuple[slice, slice]]:
    """Yield where up to so many crops of `CROP_PX` lie, spread evenly; a smaller image is one."""
    yield from itertools.product(*(_spread(side_px, _most(side_px, count)) for side_px in shape))


def cover(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield crops as `place_crops`; two that overlap where a side is too short for two apart."""
    counts = (2 if CROP_PX < side_px < _TWO_PX else _most(side_px) for side_px in shape)
    yield from itertools.product(*map(_spread, shape, counts))


def spread_evenly(values: Sequence[Value], count: int) -> list[Value]:
    """Return so many of some values in order, those that stand for all; some twice if need be."""
    return [values[int((n + 0.5) / count * len(values))] for n in range(count)]


def place_raw(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield parts as `place_crops`; a side that is too short for two is taken whole."""
    yield from itertools.product(
        *(
            [slice(0, side_px)] if side_px < _TWO_PX else _spread(side_px, _most(side_px))
            for side_px in shape
        )
    )


def count_independent(shape: tuple[int, int]) -> float:
    """Return how many crops that don't overlap `cover` holds: fractions, where it is small."""
    rows, columns = (
        side_px / CROP_PX if side_px < _TWO_PX else float(_most(side_px)) for side_px in shape
    )
    return rows * columns


def is_covered(shape: tuple[int, int]) -> bool:
    """Tell whether `cover` leaves nothing out."""
    return all(side_px <= max(_TWO_PX - 1, _most(side_px) * CROP_PX) for side_px in shape)


@torch.inference_mode()
def pool_bottleneck(
    generator: nn.Module, crops: Float32[np.ndarray, "n y x"]
) -> Float[np.ndarray, "n c"]:
    """Return the means over each crop of the channels in the generator's bottleneck."""
    height, width = (n - n % int(generator.stride) for n in crops.shape[1:])  # type: ignore[arg-type]
    x = torch.from_numpy(np.ascontiguousarray(crops[:, None, :height, :width]))
    x = x.to(next(generator.parameters()).device)
    pooled: Float[np.ndarray, "n c"]
    with _ONE_THREAD.in_use():  # a few crops: waking a second thread takes longer
        deepest = generator.encode(x)  # type: ignore[operator]
    pooled = deepest.abs().mean(dim=(2, 3)).cpu().numpy().astype(np.float64)
    return np.log(pooled + 1e-6)


def count_channels(generator: nn.Module) -> int:
    """Return how many channels the generator's bottleneck has."""
    side = int(generator.stride)  # type: ignore[arg-type]
    return pool_bottleneck(generator, np.zeros((1, side, side), np.float32)).shape[1]


def _overlap(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield crops as `place_crops`, but many that overlap: they tell better what varies in few."""
    counts = (min(_OVERLAPPING, 1 + max(0, n - CROP_PX) // _APART_PX) for n in shape)
    yield from itertools.product(*map(_spread, shape, counts))


def _count_apart(shape: tuple[int, int]) -> float:
    """Return how many crops fit beside each other, in fractions; one, at least."""
    return math.prod(max(1.0, n / CROP_PX) for n in shape)


def _most(side_px: int, count: int = CROPS) -> int:
    """Return how many crops lie along a side, where so many lie in the image."""
    return min(max(1, math.isqrt(count)), max(1, side_px // CROP_PX))


def _spread(side_px: int, count: int) -> list[slice]:
    starts = np.linspace(0, max(0, side_px - CROP_PX), count).round().astype(int).tolist()
    return [slice(start, min(start + CROP_PX, side_px)) for start in starts]


def _measure(
    generator: nn.Module, domain: Domain, seen: Glimpse, scaled: Float32[np.ndarray, "p n y x"]
) -> _Measured | None:
    """Measure scaled crops; None where all show nothing but noise."""
    places = scaled.shape[:2]
    features = measure_features(
        scaled.reshape(-1, *scaled.shape[2:]),
        smoothed_noise=np.tile(seen.smoothed_noise, places[0]),
    )
    signal = features.signal.reshape(places)
    known = np.flatnonzero(signal.any(axis=0))
    if not len(known):
        return None
    values = _by_place(features.values.reshape(*places, -1)[:, known], signal[:, known])
    few = known[np.linspace(0, len(known) - 1, min(DEEP_CROPS, len(known))).astype(int)]
    some = scaled[:, few]
    pooled = pool_bottleneck(generator, some.reshape(-1, *some.shape[2:]))
    channels = _by_place(pooled.reshape(*some.shape[:2], -1), signal[:, few])
    deep = (channels - domain.middle) @ domain.project.T
    clear = _clear(values)
    share = seen.independent / places[1]
    blur, rises = max(
        (each.distance(told, share * len(told)), each.rises(told))
        for each, told in ((domain.blur, clear), (domain.deep_blur, channels))
    )
    distance = max(
        domain.classical.distance(values, share * len(values)),
        domain.deep.distance(deep, share * len(deep)),
        blur,
    )
    return _Measured(values, share * len(values), distance, blur, rises)


def _scale(crops: Num[np.ndarray, "*shape"], scaling: Scaling) -> Float32[np.ndarray, "*shape"]:
    """Return crops as the network is given them; those beyond all reason no brighter than that."""
    brightest = max(float(crops.max()), -float(crops.min())) / scaling.scale
    return scaling.apply(crops * (_BRIGHTEST / brightest) if brightest > _BRIGHTEST else crops)


def _by_place(
    values: Float[np.ndarray, "p n f"], signal: Bool[np.ndarray, "p n"]
) -> Float[np.ndarray, "n f"]:
    """Return the means over the planes in which a place shows anything."""
    total = np.where(signal[..., None], values, 0.0).sum(axis=0)
    return np.asarray(total / signal.sum(axis=0)[:, None])


def _clear(values: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "m f"]:
    """Return the crops that have contrast: in others noise says how fine they are."""
    contrast = values[:, SPREAD]
    return values[contrast > contrast.max() - math.log(_CONTRASTS)]


def _learn_blur(
    known: Sequence[Float[np.ndarray, "_n f"]],
    changes: Sequence[Float[np.ndarray, "_m f"]],
    unsure: float,
    *,
    prior: float,
    alone: Float[np.ndarray, " f"],
    shown: Sequence[Float[np.ndarray, "_k f"]] | None = None,
) -> Discriminant:
    """Return the number by which a wider blur is told, and where it lies in the crops `shown`.

    `shown` are `known`, unless given. Of little, or where less than two fields are known to change,
    the weights are `alone`: little does not tell how features vary together.
    """
    altered = sum(bool(change.any()) for change in changes)
    enough = altered > 1 and sum(map(len, known)) >= _ENOUGH * len(NAMES)

    def weigh(fields: Sequence[Any], others: Sequence[Any]) -> Float[np.ndarray, " f"]:
        return _weigh_blur(fields, others, prior) if enough else alone

    def numbers(weights: Float[np.ndarray, " f"]) -> list[Float[np.ndarray, "_n 1"]]:
        return [values @ weights[:, None] for values in shown or known]

    weights = weigh(known, changes)
    cloud = _make_cloud(
        numbers(weights),
        unsure,
        prior=_PRIOR_WIDTH,
        unseen=lambda n: numbers(weigh(_without(known, n), _without(changes, n))),
    )
    return Discriminant(weights, cloud)


def _weigh_blur(
    fields: Sequence[Float[np.ndarray, "_n f"]],
    changes: Sequence[Float[np.ndarray, "_m f"]],
    prior: float,
) -> Float[np.ndarray, " f"]:
    """Return the weights of the features by which a wider blur is told best.

    By Fisher's discriminant between crops and the same ones blurred, `changes` from the one to the
    other. R. A. Fisher, Ann. Eugen. 7, 179 (1936).
    """
    _, whiten = _fit(np.concatenate(fields), prior)
    direction = whiten @ np.concatenate(changes).mean(axis=0)
    weights: Float[np.ndarray, " f"] = direction @ whiten / max(np.linalg.norm(direction), _LEAST)
    return weights


def _without(values: Sequence[Value], n: int) -> list[Value]:
    return [each for m, each in enumerate(values) if m != n]


def _make_cloud(
    fields: Sequence[Float[np.ndarray, "_n f"]],
    unsure: float,
    *,
    prior: float = _PRIOR,
    unseen: Callable[[int], Sequence[Float[np.ndarray, "_n f"]]] | None = None,
) -> Cloud:
    """Learn where crops lie; `unseen` shows all of them by what was learnt without a field."""
    centre, whiten = _fit(np.concatenate(fields), prior)
    rng = np.random.default_rng(0)
    reach = []
    for count in COUNTS:
        # of independent crops the mean's distance would be about the root of f / count
        far = [_LEAST_REACH * math.sqrt(len(centre) / count)]
        for n in range(len(fields)):
            seen = unseen(n) if unseen else fields
            part, others = seen[n], _without(seen, n)
            if others:
                about, white = _fit(np.concatenate(others), prior)
                for _ in range(1 if count >= len(part) else 8):
                    some = part[rng.permutation(len(part))[:count]]
                    far.append(float(np.linalg.norm(white @ (some.mean(axis=0) - about))))
        reach.append(unsure * max(far))
    return Cloud(centre, whiten, tuple(reach))


def _fit(
    values: Float[np.ndarray, "n f"], prior: float
) -> tuple[Float[np.ndarray, " f"], Float[np.ndarray, "f f"]]:
    """Return the mean, and what whitens: the inverse root of the covariance.

    As if `_PRIOR_CROPS` had been seen before, whose features vary by `prior`, independently.
    """
    centre = values.mean(axis=0)
    covariance = (values - centre).T @ (values - centre)
    covariance += _PRIOR_CROPS * prior**2 * np.eye(len(centre))
    covariance /= len(values) + _PRIOR_CROPS
    spread = np.sqrt(np.diag(covariance))
    scaled = (1 - _SHRINK) * covariance / np.outer(spread, spread) + _SHRINK * np.eye(len(centre))
    strength, directions = np.linalg.eigh(scaled)
    return centre, (directions / np.sqrt(strength)).T / spread


def _rank(distance: float | None) -> int:
    """Return 0 for inside, 1 for near, 2 for outside."""
    return sum(distance is not None and distance > limit for limit in (NEAR, OUTSIDE))


def _tell_empty(seen: Glimpse) -> str:
    words = "no signal: it shows nothing but noise"
    count = seen.crops.shape[0] * seen.crops.shape[1]
    return words if seen.everything else f"{words} in the {count} parts looked at"


def _explain(
    generator: nn.Module, domain: Domain, seen: Glimpse, scaling: Scaling, measured: _Measured
) -> list[_Note]:
    """Say in words what differs, first what would bring it nearer if it were undone."""
    notes, scaled = [], _scale(seen.crops, scaling)
    if seen.step > 1:
        # an offset that was given may be of grey values before they are divided, or after
        for fewer in (_scale(seen.crops / seen.step, scaling), scaled / np.float32(seen.step)):
            divided = _measure(generator, domain, seen, fewer)
            if divided and divided.distance <= _EXPLAINS * measured.distance:
                measured, scaled = divided, fewer
                notes = [_tell_step(seen.step)]
    if measured.distance <= NEAR:
        return notes
    dark, usual = measured.values[:, DARK], float(domain.classical.centre[DARK])
    spread = domain.classical.spread
    varies = math.sqrt(spread[DARK] ** 2 - spread.min() ** 2)  # without what `_fit` assumes of all
    if abs(dark.mean() - usual) > _unusual(measured.count) * varies:
        # told by the average, or by the darkest place, with nothing in it if structures are sparse
        for level in (grey_level(dark.mean()) - grey_level(usual), grey_level(dark.min())):
            moved = _measure(generator, domain, seen, scaled - np.float32(level))
            if moved and moved.distance <= min(NEAR, _EXPLAINS * measured.distance):
                return [*notes, _tell_background(level * scaling.scale, scaling)]
    return notes + [_Note(words) for words in _differences(domain, measured, seen)]


def _unusual(count: float) -> float:
    """Return by how many standard deviations of a crop the mean of so many is seldom off."""
    return _UNUSUAL[0] + _UNUSUAL[1] / math.sqrt(count)


def _tell_step(step: int) -> _Note:
    words = f"grey values come in steps of {step}: fewer bits, stored left-aligned?"
    return _Note(f"{words} divide by {step}", f"divide its grey values by {step}")


def _tell_background(grey: float, scaling: Scaling) -> _Note:
    size = f"{abs(grey):.0f}" if abs(grey) >= 10 else f"{abs(grey):.2g}"
    than = "higher" if grey > 0 else "lower"
    return _Note(
        f"the background is {size} grey values {than} than in training: give --offset, or subtract "
        "it",
        f"give --offset {scaling.offset + grey:.4g}, or subtract the background",
    )


def _differences(domain: Domain, measured: _Measured, seen: Glimpse) -> Iterator[str]:
    """Say which features are more unusual than in fields of the kind, and a microscopist knows."""
    change = measured.values.mean(axis=0) - domain.classical.centre
    unusual = np.abs(change) > _unusual(measured.count) * domain.classical.spread
    change[FINENESS] = _clear(measured.values)[:, FINENESS].mean() - domain.fineness
    unusual[FINENESS] = measured.blur > NEAR
    for name, (words, more, less) in _SPOKEN.items():
        n = NAMES.index(name)
        ratio = math.exp(min(abs(change[n]), 9.0))
        times = f"{ratio:.2g} times" if ratio < _MANY else f"over {_MANY:g} times"
        rises = change[n] > 0
        if n == FINENESS and ratio < _LEAST_RATIO:  # told by other features
            times, ratio = "a little", _LEAST_RATIO
            rises = measured.blurred
        if ratio >= _LEAST_RATIO and unusual[n]:
            asked = n == FINENESS and seen.same_pixels and not seen.saturated
            told = words.format(times, more if rises else less)
            yield f"{told}: another objective?" if asked else told


def _json_of(cloud: Cloud) -> dict[str, Any]:
    arrays = {"centre": _rounded(cloud.centre), "whiten": _rounded(cloud.whiten)}
    return arrays | {"reach": list(cloud.reach)}


def _cloud_of(value: Mapping[str, Any]) -> Cloud:
    centre, whiten = (_array(value[name]) for name in ("centre", "whiten"))
    reach = tuple(read_number(each, 1e-6, LARGEST_FEATURE) for each in value["reach"])
    if whiten.shape != (centre.size,) * 2 or len(reach) != len(COUNTS):
        raise ValueError("a cloud of features is damaged")
    return Cloud(centre, whiten, reach)


def _array(value: Any) -> Float[np.ndarray, "*shape"]:
    try:
        found = np.array(value, np.float64)
    except OverflowError as error:
        raise ValueError("a feature's number is too large") from error
    if not (np.abs(found) <= LARGEST_FEATURE).all():
        raise ValueError("the features' numbers are not finite, or too large")
    return found


def _rounded(values: Float[np.ndarray, "*shape"]) -> list[Any]:
    return np.vectorize(lambda v: float(f"{v:.6g}"), otypes=[float])(values).tolist()
