"""Image -> was the model made for such images? inside, near or outside, and why.

The mean features of some crops spread over the image are compared with those of the training
fields: by Mahalanobis's distance, for classical features, for what the generator's bottleneck makes
of the crops, and for the width of the finest structures alone, which tells another objective or a
wrong pixel size and would be one among many. How far a field of the same kind may be is what each
training field is from all others; the fewer there are, the farther.

P. C. Mahalanobis, Proc. Natl. Inst. Sci. India 2, 49 (1936).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Num
from torch import nn

from crosscope.data.numbers import read_number
from crosscope.data.sampling import Scaling
from crosscope.model.engine import Engine
from crosscope.quality.features import (
    CROP_PX,
    FINENESS,
    NAMES,
    SPREAD,
    make_whole,
    measure_features,
)

CROPS, DEEP_CROPS = 16, 4
"""How many crops of an image are looked at, and by the network."""
DEEP = 8
"""Components of the bottleneck that are kept, or one for eight crops that there are."""
NEAR, OUTSIDE = 1.15, 1.5
"""Distances, of the largest that a field of the same kind has, beyond which an image is so."""
COUNTS = (1, 4, 16)
"""Numbers of crops for which that largest distance is known."""
LARGEST_FEATURE = 1e6
"""Features are logarithms: none reaches this, nor does what whitens them."""
_ONE_THREAD = Engine(1, "float32")
_SATURATED = 0.01  # of the bright pixels
_SHRINK = 0.1  # of the covariance towards its diagonal
_PRIOR, _PRIOR_WIDTH, _PRIOR_CROPS = 0.4, 0.2, 20  # how crops of a kind vary, where few were seen
_LEAST_REACH = 1.3
_CONTRASTS = 3.0  # a third of the clearest crop's contrast is enough
_FEW = 3.0  # of one field the reach is four times as far, of three twice
_LEAST_RATIO, _MANY = 1.1, 100.0  # from where on a ratio is worth a word, up to where a number
_SPOKEN = {
    "fineness": (
        "the finest structures are {} times {} than in training: another objective?",
        "wider",
        "finer",
    ),
    "percentile 99.9": ("the brightest structures have {} times {} light", "more", "less"),
    "density": ("bright structures cover {} times {} area", "more", "less"),
    "band 26 to 32": ("the noise has {} times {} power", "more", "less"),
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

    def distance(self, values: Float[np.ndarray, "n f"]) -> float:
        """Return how far the mean of n crops is, 1 being as far as a training field may be."""
        far = float(np.linalg.norm(self.whiten @ (values.mean(axis=0) - self.centre)))
        allowed = np.exp(np.interp(math.log(len(values)), np.log(COUNTS), np.log(self.reach)))
        return far / float(allowed)


@dataclass(frozen=True, eq=False)
class Domain:
    """What a model was made for.

    Attributes
    ----------
    classical, deep, fineness : Cloud
    project : (d, c)
        From the bottleneck's pooled channels, less `middle`, to the components that are kept.
    middle : (c,)
    """

    classical: Cloud
    deep: Cloud
    fineness: Cloud
    project: Float[np.ndarray, "d c"]
    middle: Float[np.ndarray, " c"]

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        clouds = {"classical": self.classical, "deep": self.deep, "fineness": self.fineness}
        found: dict[str, Any] = {
            name: {
                "centre": _rounded(cloud.centre),
                "whiten": _rounded(cloud.whiten),
                "reach": list(cloud.reach),
            }
            for name, cloud in clouds.items()
        }
        arrays = {"project": _rounded(self.project), "middle": _rounded(self.middle)}
        return found | arrays | {"features": list(NAMES)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Domain":
        """Rebuild it; raises ValueError, KeyError or TypeError where it is damaged.

        OtherVersionError, a ValueError, where other features were measured.
        """
        if tuple(value["features"]) != NAMES:
            raise OtherVersionError("the features are those of another version")
        project, middle = (_array(value[name]) for name in ("project", "middle"))
        clouds = [_cloud_of(value[name]) for name in ("classical", "deep", "fineness")]
        sizes = tuple(len(cloud.centre) for cloud in clouds)
        if sizes != (len(NAMES), len(project), 1) or project.shape[1:] != middle.shape:
            raise ValueError("the features' numbers don't fit each other")
        return cls(clouds[0], clouds[1], clouds[2], project, middle)


@dataclass(frozen=True)
class Belonging:
    """Whether an image is of the kind that a model was trained on.

    Attributes
    ----------
    domain : "inside", "near" or "outside"
    distance : float
        1 is as far as a field of the training's kind may be.
    signal : bool
        Whether the image shows anything but noise; without it nothing else is judged.
    reasons : tuple of str
    """

    domain: str
    distance: float
    signal: bool
    reasons: tuple[str, ...]


def learn_domain(
    generator: nn.Module, sources: Sequence[Num[np.ndarray, "_y _x"]], scaling: Scaling
) -> Domain:
    """Learn the kind of image from a model's training fields.

    Parameters
    ----------
    generator : nn.Module
    sources : sequence of (y, x)
        On the network's grid, grey values; one is enough, though more tell what may vary.
    scaling : Scaling
    """
    fields = [
        scaling.apply(np.stack([make_whole(source[at]) for at in place_crops(source.shape)]))
        for source in sources
    ]
    classical, deep = [], []
    pooled = [pool_bottleneck(generator, crops) for crops in fields]
    middle = np.concatenate(pooled).mean(axis=0)
    _, _, components = np.linalg.svd(np.concatenate(pooled) - middle, full_matrices=False)
    project = components[: min(DEEP, max(1, sum(map(len, fields)) // 8))]
    for crops, channels in zip(fields, pooled, strict=True):
        features = measure_features(crops)
        if features.signal.any():
            classical.append(features.values[features.signal])
            deep.append((channels[features.signal] - middle) @ project.T)
    if not classical:  # nothing but noise: everything is alike
        classical = [measure_features(crops).values for crops in fields]
        deep = [(channels - middle) @ project.T for channels in pooled]
    fineness = _make_cloud([_fineness(values) for values in classical], prior=_PRIOR_WIDTH)
    return Domain(_make_cloud(classical), _make_cloud(deep), fineness, project, middle)


def judge_domain(
    generator: nn.Module,
    domain: Domain,
    crops: Num[np.ndarray, "n y x"],
    scaling: Scaling,
    *,
    saturated: float = 0.0,
) -> Belonging:
    """Compare some crops of an image with the training fields.

    Parameters
    ----------
    generator : nn.Module
    domain : Domain
    crops : (n, y, x)
        On the network's grid, grey values; spread over the image.
    scaling : Scaling
        Of the source, by the image's own offset where that was given.
    saturated : float
        Part of the raw image's bright pixels that is cut off: see `saturated_share`.
    """
    scaled = scaling.apply(crops)
    features = measure_features(scaled)
    if not features.signal.any():
        return Belonging("inside", 0.0, False, ("no signal: it shows nothing but noise",))
    seen = np.flatnonzero(features.signal)
    values = features.values[seen]
    few = scaled[seen[np.linspace(0, len(seen) - 1, min(DEEP_CROPS, len(seen))).astype(int)]]
    deep = (pool_bottleneck(generator, few) - domain.middle) @ domain.project.T
    distances = [
        domain.classical.distance(values),
        domain.deep.distance(deep),
        domain.fineness.distance(_fineness(values)),
    ]
    reasons = _reasons(domain.classical, values) if max(distances) > NEAR else ()
    if saturated:
        distances.append(OUTSIDE * (saturated / _SATURATED))
        reasons += (
            f"{saturated:.1%} of its bright pixels share the highest grey value: saturated",
        )
    distance = max(distances)
    where = "outside" if distance > OUTSIDE else "near" if distance > NEAR else "inside"
    return Belonging(where, distance, True, reasons)


def place_crops(shape: tuple[int, int], count: int = CROPS) -> Iterator[tuple[slice, slice]]:
    """Yield where up to so many crops of `CROP_PX` lie, spread evenly; a smaller image is one."""
    most = max(1, math.isqrt(count))
    rows, columns = (
        np.linspace(0, max(0, n - CROP_PX), min(most, max(1, n // CROP_PX))).round().astype(int)
        for n in shape
    )
    for y in rows.tolist():
        for x in columns.tolist():
            yield slice(y, min(y + CROP_PX, shape[0])), slice(x, min(x + CROP_PX, shape[1]))


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


def _fineness(values: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "m 1"]:
    """Return how fine those crops are that have contrast: in others noise says it."""
    contrast = values[:, SPREAD]
    return values[contrast > contrast.max() - math.log(_CONTRASTS)][:, [FINENESS]]


def _make_cloud(fields: Sequence[Float[np.ndarray, "_n f"]], *, prior: float = _PRIOR) -> Cloud:
    centre, whiten = _fit(np.concatenate(fields), prior)
    rng = np.random.default_rng(0)
    reach = []
    for count in COUNTS:
        # of independent crops the mean's distance would be about the root of f / count
        far = [_LEAST_REACH * math.sqrt(len(centre) / count)]
        for n, part in enumerate(fields):
            others = [each for m, each in enumerate(fields) if m != n]
            if others:
                about, white = _fit(np.concatenate(others), prior)
                for _ in range(1 if count >= len(part) else 8):
                    some = part[rng.permutation(len(part))[:count]]
                    far.append(float(np.linalg.norm(white @ (some.mean(axis=0) - about))))
        reach.append((1 + _FEW / len(fields)) * max(far))
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


def _reasons(cloud: Cloud, values: Float[np.ndarray, "n f"]) -> tuple[str, ...]:
    """Say in words what differs, what a microscopist can act on first."""
    change = values.mean(axis=0) - cloud.centre
    unusual = np.abs(change) * np.sqrt((cloud.whiten**2).sum(axis=0))
    said = []
    for name, (words, more, less) in _SPOKEN.items():
        n = NAMES.index(name)
        ratio = math.exp(min(abs(change[n]), 9.0))
        if ratio >= _LEAST_RATIO and unusual[n] > 1:
            times = f"{ratio:.2g}" if ratio < _MANY else f"over {_MANY:g}"
            said.append(words.format(times, more if change[n] > 0 else less))
    return tuple(said) or ("the network sees other structures than in training",)


def _cloud_of(value: Mapping[str, Any]) -> Cloud:
    centre, whiten = (_array(value[name]) for name in ("centre", "whiten"))
    reach = tuple(read_number(each, 1e-6, LARGEST_FEATURE) for each in value["reach"])
    if whiten.shape != (centre.size,) * 2 or len(reach) != len(COUNTS):
        raise ValueError("a cloud of features is damaged")
    return Cloud(centre, whiten, reach)


def _array(value: Any) -> Float[np.ndarray, "*shape"]:
    found = np.array(value, np.float64)
    if not (np.abs(found) <= LARGEST_FEATURE).all():
        raise ValueError("the features' numbers are not finite, or too large")
    return found


def _rounded(values: Float[np.ndarray, "*shape"]) -> list[Any]:
    return np.vectorize(lambda v: float(f"{v:.6g}"), otypes=[float])(values).tolist()
