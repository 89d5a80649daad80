"""Model + its estimated microscope -> the resolution that can be claimed for it.

Single points, pairs and empty fields are seen through the microscope as it was estimated from the
training pairs, go through the network, and spots are looked for in what comes out:

    P(split | one)     a single point comes out as two or more
    P(merged | two)    a pair does not come out as two, each within half a width of its place

The claimed resolution is the separation from which on both are at most 5 %, as far as the trials
can tell: their upper bounds are (C. J. Clopper, E. S. Pearson, Biometrika 26, 404 (1934), doi
10.1093/biomet/26.4.404). Spots are found as in reports, so nothing under 0.93 of the target's width
can be claimed. What holds for equal points that are as bright as said holds for those alone: dimmer
ones, unequal ones or other structures may be worse.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from crosscope.data.numbers import LARGEST, read_count, read_number
from crosscope.metrics.spots import Spots, find_spots, match_spots
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.tiling import sharpen
from crosscope.quality.forward import Forward
from crosscope.quality.points import (
    See,
    cell_centres,
    light_of,
    nearest_spot,
    peak_share,
    see_by,
)

ENGINE = Engine(1, "float32")
SHARES = tuple(round(0.1 * n, 1) for n in range(2, 16))
"""Separations of the pairs, in widths of the source's finest structure."""
ALLOWED = 0.05
FIELD_PX = 512
BRIGHTNESS = 0.5
"""Of the source's scale, which is that of the brightest structures: about a typical object's."""
TRIALS, EMPTY_FIELDS = 300, 12
LEAST_TRIALS, MOST_FIELDS = 59, 40
"""Where spots are wide a field holds few, and there are fewer trials: what so many fields hold.
Below the least an error rate is not known to be under `ALLOWED`, even if nothing went wrong."""
_CHANCES = ("p_merged", "p_merged_upper")
_COUNTED = {"n": 1, "most_false_objects": 0, "empty_fields": 1}
_NUMBERS = {
    "peak_grey": (0.0, LARGEST),
    "p_split": (0.0, 1.0),
    "p_split_upper": (0.0, 1.0),
    "p_missed": (0.0, 1.0),
    "false_objects_per_field": (0.0, LARGEST),
}
_UNLESS_UNKNOWN = {
    "resolution_nm": (0.0, LARGEST),
    "photons": (0.0, LARGEST),
    "position_error_nm": (0.0, LARGEST),
    "intensity_bias": (-LARGEST, LARGEST),
    "pair_intensity_bias": (-LARGEST, LARGEST),
}
_SURE = 0.95  # one-sided, of an upper bound
_COUNTS = 0.25  # of a typical spot's height: what counts as a spot, as in reports
_FALSE = 0.10  # of a point's height in the target: what counts in a field without any
_SHOWN = 0.10  # of a point's height in the target: what a network makes of points, at least
_SCENE = 1.75  # widths of the source around a scene that are its own


@dataclass(frozen=True)
class Claim:
    """What a model does with points.

    Attributes
    ----------
    resolution_nm : float or None
        None where no separation qualifies, or the model makes no spots of points ...
    reason : str or None
        ... and why.
    peak_grey, photons : float, float or None
        Of a point in the source, above the background; photons where the detector's gain is known.
    separations_nm, p_merged, p_merged_upper, separation_bias_nm : tuple
        Of pairs: how many don't come out as two, with the upper bound; how much too far apart the
        others are, None where fewer than ten came out as two.
    p_split, p_split_upper, p_missed : float
        Of single points.
    n : int
        Pairs of each separation, and single points.
    position_bias_nm : (y, x), or None
    position_error_nm : float or None
        Root mean square distance of single points from their true places.
    intensity_bias, pair_intensity_bias : float or None
        Light of single points, and of the pairs of all separations, as it comes out beside that of
        the target, less 1.
    false_objects_per_field : float
        Spots above a tenth of such a point's height in the target, in an empty field of 512 x 512
        px of the target; mean of `empty_fields`.
    most_false_objects, empty_fields : int
    """

    resolution_nm: float | None
    reason: str | None
    peak_grey: float
    photons: float | None
    separations_nm: tuple[float, ...]
    p_merged: tuple[float, ...]
    p_merged_upper: tuple[float, ...]
    separation_bias_nm: tuple[float | None, ...]
    p_split: float
    p_split_upper: float
    p_missed: float
    n: int
    position_bias_nm: tuple[float, float] | None
    position_error_nm: float | None
    intensity_bias: float | None
    pair_intensity_bias: float | None
    false_objects_per_field: float
    most_false_objects: int
    empty_fields: int

    @property
    def sentence(self) -> str:
        """What a card and a report say."""
        light = f"{self.peak_grey:.0f} grey values above the background"
        if self.photons is not None:
            light = f"{self.photons:.0f} photons"
        if self.resolution_nm is None:
            return f"No resolution can be claimed at {light}: {self.reason}."
        return (
            f"Two points are told apart from {self.resolution_nm:.0f} nm on (split or merged in at "
            f"most {100 * ALLOWED:.0f} % of {self.n} trials at {light})."
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self) | {"sentence": self.sentence}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Claim":
        """Rebuild it; raises ValueError, KeyError or TypeError where it is damaged."""
        found = {field.name: value[field.name] for field in fields(cls)}
        for name in ("separations_nm", *_CHANCES):
            most = 1.0 if name in _CHANCES else LARGEST
            found[name] = tuple(read_number(each, 0.0, most) for each in found[name])
        bias = found["separation_bias_nm"]
        found["separation_bias_nm"] = tuple(n if n is None else read_number(n) for n in bias)
        for name, least in _COUNTED.items():
            found[name] = read_count(found[name], least)
        for name, limits in _NUMBERS.items():
            found[name] = read_number(found[name], *limits)
        for name, limits in _UNLESS_UNKNOWN.items():
            if found[name] is not None:
                found[name] = read_number(found[name], *limits)
        if found["position_bias_nm"] is not None:
            y, x = (read_number(each) for each in found["position_bias_nm"])
            found["position_bias_nm"] = y, x
        claim = cls(**found)
        lists = (claim.separations_nm, claim.p_merged, claim.p_merged_upper, bias)
        if not claim.separations_nm or len({len(each) for each in lists}) != 1:
            raise ValueError("the claimed resolution is damaged: its lists differ in length")
        if not (claim.reason is None or isinstance(claim.reason, str)):
            raise TypeError("the reason must be a sentence")
        if (claim.resolution_nm is None) == (claim.reason is None):
            raise ValueError("a claimed resolution is there, or the reason why it is not")
        return claim


def measure_claim(
    model: Model,
    forward: Forward,
    *,
    brightness: float = BRIGHTNESS,
    trials: int = TRIALS,
    empty_fields: int = EMPTY_FIELDS,
    see: See | None = None,
    seed: int = 0,
    engine: Engine = ENGINE,
    watch: Callable[[float], None] = lambda done: None,
) -> Claim:
    """Measure from which separation on a model tells two points apart, and what it invents.

    Parameters
    ----------
    model : Model
    forward : Forward
        Target to source, as it was estimated from the training pairs.
    brightness : float
        Of a point: its peak in the source as a share of the model's source scale.
    trials : int
        Single points, and pairs of each separation; fewer where they would fill more than 40
        fields. From fewer than 59 nothing can be claimed, even without an error.
    empty_fields : int
    see : callable, optional
        Another view of points than by `forward`: that of the true microscope, in a simulation.
    seed : int
        Draws places, directions and noise; the same seed gives the same claim.
    engine : Engine
    watch : callable
        Told the part done, 0 to 1.
    """
    see = see or see_by(forward)
    rng = np.random.default_rng(seed)
    source_px, target_px = forward.source_fwhm_px, forward.target_fwhm_px
    pixel_nm = math.sqrt(math.prod(model.target_pixel_size_nm))
    peak_grey = brightness * model.source_scaling.scale
    height = peak_grey / (forward.gain * peak_share(forward))

    trials = max(1, min(trials, _held(source_px, rng) // (1 + len(SHARES))))
    places = _place_trials(source_px, trials, rng)
    whole = len(places) + empty_fields
    outputs = []
    for n, scenes in enumerate(places):
        raw = see(scenes.yx_px, np.full(len(scenes.yx_px), peak_grey), FIELD_PX, rng)
        outputs.append(_sharpen(model, raw, forward, engine))
        watch((n + 1) / whole)
    heights = [_singles(*both, target_px) for both in zip(places, outputs, strict=True)]
    unit = float(np.median(np.concatenate(heights)))
    nowhere = unit < _SHOWN * height
    typical = height if nowhere else unit

    nothing = np.zeros((0, 2)), np.zeros(0)
    counts = []
    for n in range(empty_fields):
        output = _sharpen(model, see(*nothing, FIELD_PX, rng), forward, engine)
        counts.append(len(_find(output, target_px, _FALSE * height).amplitude))
        watch((len(places) + n + 1) / whole)

    trial = [
        outcome
        for scenes, output in zip(places, outputs, strict=True)
        for outcome in _judge(
            scenes, output, _COUNTS * typical, source_px=source_px, target_px=target_px
        )
    ]
    ones = [outcome for outcome in trial if outcome.share == 0.0]
    pairs = [[outcome for outcome in trial if outcome.share == share] for share in SHARES]
    merged = [sum(not each.right for each in group) for group in pairs]
    split = sum(each.spots > 1 for each in ones)
    missed = sum(not each.right for each in ones)
    p_merged_upper = tuple(upper_bound(k, trials) for k in merged)
    separations_nm = tuple(share * source_px * pixel_nm for share in SHARES)
    resolution_nm, reason = _resolve(
        separations_nm, p_merged_upper, upper_bound(split, trials), nowhere=nowhere, trials=trials
    )
    offsets = np.array([each.offset_px for each in ones if each.right]).reshape(-1, 2) * pixel_nm
    per_point = height * math.pi * target_px**2 / (4 * math.log(2))
    return Claim(
        resolution_nm=resolution_nm,
        reason=reason,
        peak_grey=peak_grey,
        photons=peak_grey / forward.noise.gain if forward.noise.gain > 0 else None,
        separations_nm=separations_nm,
        p_merged=tuple(k / trials for k in merged),
        p_merged_upper=p_merged_upper,
        separation_bias_nm=tuple(_separation_bias_nm(group, pixel_nm) for group in pairs),
        p_split=split / trials,
        p_split_upper=upper_bound(split, trials),
        p_missed=missed / trials,
        n=trials,
        position_bias_nm=tuple(offsets.mean(axis=0).tolist()) if len(offsets) else None,
        position_error_nm=(
            float(np.sqrt((offsets**2).sum(axis=1).mean())) if len(offsets) else None
        ),
        intensity_bias=None if nowhere else _light_bias(ones, per_point),
        pair_intensity_bias=(
            None if nowhere else _light_bias([p for group in pairs for p in group], 2 * per_point)
        ),
        false_objects_per_field=float(np.mean(counts)),
        most_false_objects=max(counts),
        empty_fields=empty_fields,
    )


def upper_bound(errors: int, trials: int) -> float:
    """Return what the error rate is below with 95 % certainty (Clopper and Pearson)."""
    return float(stats.beta.ppf(_SURE, errors + 1, trials - errors)) if errors < trials else 1.0


@dataclass(frozen=True, eq=False)
class _Scenes:
    """The scenes of one field: where their points are, how far apart, and whose they are."""

    centre_px: Float[np.ndarray, "n 2"]
    share: Float[np.ndarray, "n"]  # of the source's width between a pair; 0 for a single point
    yx_px: Float[np.ndarray, "m 2"]
    owner: Int[np.ndarray, "m"]


@dataclass(frozen=True)
class _Outcome:
    """What became of a scene: `right` where every point came out at its place."""

    share: float
    right: bool
    spots: int
    offset_px: tuple[float, float]
    wider_px: float
    light: float


def _held(source_px: float, rng: np.random.Generator) -> int:
    """Return how many scenes the fields hold that are worth their time."""
    return MOST_FIELDS * len(cell_centres(source_px, size_px=FIELD_PX, rng=rng))


def _place_trials(source_px: float, trials: int, rng: np.random.Generator) -> list[_Scenes]:
    """Deal out single points and pairs, in any order, to as few fields as hold them."""
    waiting = rng.permutation(np.repeat([0.0, *SHARES], trials))
    dealt = []
    while len(waiting):
        centre_px = cell_centres(source_px, size_px=FIELD_PX, rng=rng)[: len(waiting)]
        share, waiting = waiting[: len(centre_px)], waiting[len(centre_px) :]
        angle = rng.uniform(0, 2 * math.pi, len(share))
        half = 0.5 * source_px * (share * np.stack([np.sin(angle), np.cos(angle)])).T
        two = np.flatnonzero(share)
        yx_px = np.concatenate([centre_px + half, (centre_px - half)[two]])
        owner = np.concatenate([np.arange(len(share)), two])
        dealt.append(_Scenes(centre_px, share, yx_px, owner))
    return dealt


def _sharpen(
    model: Model, raw: Float[np.ndarray, "_y _x"], forward: Forward, engine: Engine
) -> Float[np.ndarray, "y x"]:
    zoom = forward.zoom, forward.zoom
    sharp: Float[np.ndarray, "y x"] = sharpen(model, raw[None], engine=engine, zoom=zoom)[0]
    return sharp


def _singles(
    scenes: _Scenes, output: Float[np.ndarray, "y x"], target_px: float
) -> Float[np.ndarray, "n"]:
    """Return the height that each single point has in the output; 0 where there is no spot."""
    spots = _find(output, target_px, 0.0)
    near = nearest_spot(spots.yx_px, scenes.centre_px[scenes.share == 0], radius_px=target_px / 2)
    return np.array([spots.amplitude[each[0]] if each else 0.0 for each in near])


def _judge(
    scenes: _Scenes,
    output: Float[np.ndarray, "y x"],
    threshold: float,
    *,
    source_px: float,
    target_px: float,
) -> Iterator[_Outcome]:
    spots = _find(output, target_px, threshold)
    partner = match_spots(scenes.yx_px, spots.yx_px, radius_px=target_px / 2)
    near = nearest_spot(spots.yx_px, scenes.centre_px, radius_px=_SCENE * source_px)
    light = light_of(output, scenes.centre_px, radius_px=_SCENE * source_px)
    for n, share in enumerate(scenes.share):
        points = np.flatnonzero(scenes.owner == n)
        at = partner[points]
        right = bool((at >= 0).all())
        offset, wider = np.zeros(2), 0.0
        if right:
            offset = (spots.yx_px[at] - scenes.yx_px[points]).mean(axis=0)
            apart_px = np.linalg.norm(np.ptp(spots.yx_px[at], axis=0))
            wider = float(apart_px - share * source_px)
        yield _Outcome(
            share=float(share),
            right=right,
            spots=len(near[n]),
            offset_px=(float(offset[0]), float(offset[1])),
            wider_px=wider,
            light=float(light[n]),
        )


def _find(output: Float[np.ndarray, "y x"], target_px: float, threshold: float) -> Spots:
    return find_spots(output, fwhm_px=max(2.0, target_px), threshold=threshold)


def _resolve(
    separations_nm: tuple[float, ...],
    merged_upper: tuple[float, ...],
    split_upper: float,
    *,
    nowhere: bool,
    trials: int,
) -> tuple[float | None, str | None]:
    """Return the resolution that can be claimed, or the reason why none can."""
    if nowhere:
        return None, "this model makes no spots of points"
    if trials < LEAST_TRIALS:
        return None, f"{trials} trials are too few to know of an error rate of {ALLOWED:.0%}"
    if split_upper > ALLOWED:
        return None, f"up to {100 * split_upper:.0f} % of single points come out as two or more"
    good = np.logical_and.accumulate(np.array(merged_upper)[::-1] <= ALLOWED)[::-1]
    if not good.any():
        widest = f"{separations_nm[-1]:.0f} nm"
        share = f"{100 * merged_upper[-1]:.0f} %"
        return None, f"of points {widest} apart, up to {share} do not come out as two"
    return separations_nm[int(np.argmax(good))], None


def _separation_bias_nm(group: list[_Outcome], pixel_nm: float) -> float | None:
    wider = [each.wider_px for each in group if each.right]
    return pixel_nm * float(np.mean(wider)) if len(wider) >= 10 else None


def _light_bias(group: list[_Outcome], light: float) -> float:
    return float(np.median([each.light for each in group]) / light - 1)
