"""Image -> admitted or refused; image + output -> a verdict and a trust map, part by part.

The trust map lies on the output's grid: in each pixel tenths of the standard deviation by which the
output contradicts its input (or, where asked for, a sister network), 255 at most. Along the border,
as far as light from beyond it shines in, nothing can be said, and the map is 0.
"""

import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Num, UInt8
from torch import nn

from crosscope.data.errors import DomainError, InputError, ModelError
from crosscope.data.grids import resample_part, zoomed_shape
from crosscope.data.images import (
    Image,
    index_of_channel,
    require_finite,
    select_channel,
    write_image,
)
from crosscope.data.numbers import LARGEST, read_number
from crosscope.data.sampling import Scaling
from crosscope.data.slides import (
    Part,
    Place,
    Slide,
    cut_parts,
    slide_of,
    stand_in,
    write_slide,
)
from crosscope.model.dial import blend
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.files import Models, Verdict
from crosscope.prediction.frames import average, planes_near
from crosscope.prediction.images import (
    SAME_PIXEL,
    PredictionPlan,
    fit_models,
    fit_pixels,
    models_by_channel,
)
from crosscope.prediction.slides import VERSION, foresee
from crosscope.prediction.tiling import TILE_PX, Sharpener, make_sharpener, make_tile, sharpen_tile
from crosscope.quality.claim import Claim
from crosscope.quality.disagreement import ROUNDED_FLOOR, ROUNDED_SHARE, Usual
from crosscope.quality.domain import (
    CROPS,
    Belonging,
    Domain,
    Glimpse,
    OtherVersionError,
    count_channels,
    count_independent,
    cover,
    is_covered,
    judge_domain,
    place_crops,
    place_raw,
    spread_evenly,
)
from crosscope.quality.features import (
    STILL,
    Phase,
    find_step,
    make_whole,
    measure_smoothed_noise,
    saturated_share,
    wrap,
)
from crosscope.quality.forward import Forward
from crosscope.quality.reblur import LIMIT, Reblurrer, Sums, add_up, make_reblurrer

Known = TypeVar("Known")
LEVELS = ("fast", "full")
TENTHS = 10
PLANES = 4
"""Of a stack or a time-lapse, so many planes are looked at before anything is predicted."""
MOST_PAIRS = 8
"""More than so many were never worth it: see the learning curve in docs/systems.md."""
UNKNOWN = "the model has no certificate: nobody knows what it was made for"
_CROPS_OF_MANY = 9  # in a stack, by which a plane's noise is measured: 2 % of the time it takes
_FAR = 2.0  # times what a training field has at most: then input and output disagree
_LEAST_CHI_SQUARE, _LEAST_BEYOND = 1.5, 5e-3
_NAMED = 10  # planes, at most
_OTHER_IMAGE = 0.2  # of the image beyond the limit: it may not be of this image at all
_ANOTHER = "so much of it contradicts the input: is it the output of another image?"
_SISTERS = "sisters_beyond_share"
_REBLUR = ("chi_square", "rsp", "rse", "beyond_share")
_WORST = ("inside", "near", "outside")


@dataclass(frozen=True)
class Inspector:
    """Judges images and outputs; see `crosscope.prediction.files.Inspector`.

    Attributes
    ----------
    level : "fast" or "full"
        full lets the twin and the members predict, too: each takes as much time as the prediction.
        With a fidelity the twin is part of the output, and is not asked; nor is anything claimed.
    """

    level: str = "fast"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InputError("check", f"{self.level} is not a level", "Choose fast or full")

    def admit(self, models: Models, image: Slide, plan: PredictionPlan) -> Verdict:
        """Say whether models were made for an image; DomainError where not, unless forced."""
        fit = fit_models(models, image.image, plan=plan)
        views = open_views(models, image, plan)
        for view in views:  # what is damaged is told before anything is predicted
            _read_all(blend(view.model, plan.fidelity), full=self.level == "full")
        known = [view for view in views if "domain" in view.model.certificate]
        found = [judge_view(view) for view in known]
        reasons = tuple(
            f"{view.label}{reason}"
            for view, each in zip(known, found, strict=True)
            for reason in each.reasons
        )
        reasons += tuple(f"{view.label}{UNKNOWN}" for view in views if view not in known)
        domains = [each.domain for each in found]
        if "outside" in domains and not plan.force:
            told, remedy = "; ".join((*fit.reasons, *reasons)), _advise(known, found)
            raise DomainError(
                image.image.name,
                f"the model was not made for such an image: {told}",
                f"{remedy[0].upper()}{remedy[1:]}, or use --force and doubt it",
            )
        worst = max([*domains, fit.domain or _WORST[0]], key=_WORST.index)
        if len(known) < len(views):
            refused = worst == "outside"
            return Verdict(
                "outside" if refused else fit.domain, "refused" if refused else None, reasons
            )
        distances = [each.distance for each in found if each.distance is not None]
        numbers: dict[str, Any] = {"distance": max(distances, default=None)}
        if not distances:
            numbers["distance_reason"] = _SMALL
        numbers["signal"] = all(each.signal for each in found)
        return Verdict(worst, None, reasons, numbers)

    def inspect(
        self,
        models: Models,
        image: Slide,
        output: Slide,
        plan: PredictionPlan,
        *,
        admitted: Verdict,
        trust: Path,
        by_parts: bool,
        overwrite: bool,
        watch: Callable[[float], None],
    ) -> Verdict:
        """Compare an output with its input, write the trust map, and give the verdict."""
        walks = open_walks(models, image, output, plan, full=self.level == "full")
        if walks is None:
            return admitted
        if by_parts:
            write_map(walks, trust, overwrite=overwrite, watch=watch)
        else:
            pixels = draw_map(walks, output.image.pixels.shape, watch)
            write_image(output.image.with_pixels(pixels), trust, overwrite=overwrite)
        found = conclude(admitted, walks, level=self.level)
        return replace(found, numbers={**found.numbers, "trust": str(trust)})


def check(
    models: Models,
    image: Image | Slide,
    output: Image | Slide | None = None,
    *,
    plan: PredictionPlan | None = None,
    level: str = "fast",
    trust: Path | None = None,
    overwrite: bool = False,
    watch: Callable[[float], None] = lambda done: None,
) -> Verdict:
    """Say whether a model was made for an image, and how far an output can be believed.

    Parameters
    ----------
    models : Model, or mapping of channel names to Model
    image : Image or Slide
        Of the source modality, raw.
    output : Image or Slide, optional
        What the model, or anything else, made of it: on the grid that `predict` gives.
    plan : PredictionPlan
        As it was predicted with.
    level : "fast" or "full"
        full compares with the model's twin and members, too.
    trust : Path, optional
        Where the trust map is written, of a Slide part by part; that of an Image is returned, too.
    overwrite : bool
        Replace it where it exists.
    watch : callable
        Told the part done, 0 to 1.

    Returns
    -------
    Verdict
        Refused where the model was not made for the image; nothing is raised for that.

    Raises
    ------
    ImageError
        As `predict`.
    InputError
        The output is on another grid.
    """
    plan = replace(plan or PredictionPlan(), force=True)
    if isinstance(image, Image):
        for channel in models_by_channel(models, plan):
            require_finite(select_channel(image, channel=channel))
    seen = slide_of(image) if isinstance(image, Image) else image
    inspector = Inspector(level)
    admitted = inspector.admit(models, seen, plan)
    fit = fit_models(models, seen.image, plan=plan)
    admitted = replace(admitted, reasons=fit.reasons + admitted.reasons)
    if output is None:
        return conclude(admitted, [])
    wanted = foresee(models, seen.image, plan=plan)
    made = _on_grid(slide_of(output) if isinstance(output, Image) else output, wanted)
    shape = wanted.pixels.shape
    doubts = _tell_pixels(made.image, fit.pixel_size_nm)
    walks = open_walks(models, seen, made, plan, full=level == "full")
    if walks is None:
        return admitted
    drawn = None
    if isinstance(output, Image):
        drawn = output.with_pixels(draw_map(walks, shape, watch).reshape(output.pixels.shape))
        if trust:
            write_image(drawn, trust, overwrite=overwrite)
    elif trust:
        write_map(walks, trust, overwrite=overwrite, watch=watch)
    else:
        deque(inspect_parts(walks, shape, watch), maxlen=0)  # the sums alone are wanted
    found = conclude(admitted, walks, level=level, doubts=doubts)
    if any(_is_of_another(sums) for walk in walks for sums in walk.planes.values()):
        found = replace(found, reasons=(*found.reasons, _ANOTHER))
    return replace(found, trust=drawn)


def _on_grid(output: Slide, wanted: Image) -> Slide:
    """Return an output with the axes that the model gives it; those of length 1 files don't keep.

    Raises InputError where it is on another grid.
    """
    given, asked = output.image.pixels.shape, wanted.pixels.shape
    several = [[n for n in shape[:-2] if n > 1] + list(shape[-2:]) for shape in (given, asked)]
    if several[0] != several[1]:
        reason = f"is {given} px, of this image the model makes {asked}"
        raise InputError(output.image.name, reason, "Pass what was predicted from it")

    def read(place: Place, y: slice, x: slice) -> Num[np.ndarray, "_y _x"]:
        known = iter([at for at, n in zip(place, asked, strict=False) if n > 1])
        return output.read(tuple(next(known) if n > 1 else 0 for n in given[:-2]), y, x)

    pixels = stand_in(asked, output.image.pixels.dtype)
    channels = output.image.channels or wanted.channels
    image = output.image.with_pixels(pixels, axes=wanted.axes, channels=channels)
    return replace(output, image=image, read=read)


def _tell_pixels(output: Image, made_nm: tuple[float, float]) -> tuple[str, ...]:
    """Say that an output's pixels are not as large as the model makes them, where they are not."""
    said_nm = output.pixel_size_nm
    if said_nm is None or np.allclose(said_nm, made_nm, rtol=SAME_PIXEL, atol=0):
        return ()
    said, made = (" x ".join(f"{nm:.4g}" for nm in each) for each in (said_nm, made_nm))
    told = f"its pixels are {said} nm, but of this image the model makes pixels of {made} nm"
    return (f"{told}: is this what the model made of it?",)


def _read_all(model: Model, *, full: bool) -> None:
    """Raise ModelError where a part of the certificate is damaged that an output is judged by."""
    if "forward" not in model.certificate:
        return
    read_certificate(model, "forward", Forward.from_json)
    read_certificate(model, "agreement", _most_allowed)
    if "claim" in model.certificate:
        read_certificate(model, "claim", Claim.from_json)
    if full:
        read_usual(model)


def read_certificate(model: Model, part: str, read: Callable[[Any], Known]) -> Known:
    """Return a part of a model's certificate; raise ModelError where it is damaged, or too old."""
    remedy = "Certify it anew on its pairs (cs.certify)"
    if part not in model.certificate:
        raise ModelError("the model", f"has no certificate of its {part}", remedy)
    try:
        return read(model.certificate[part])
    except OtherVersionError as error:
        reason = "its certificate is of another version of crosscope"
        raise ModelError("the model", reason, remedy) from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"its certificate is damaged: {part} ({type(error).__name__}: {str(error)[:100]})"
        raise ModelError("the model", reason, remedy) from error


@dataclass(frozen=True)
class _Allowed:
    """Up to what an output is good; None where it is not known how far sisters usually are."""

    chi_square: float
    beyond_share: float
    sisters_beyond_share: float | None


def _most_allowed(agreement: Sequence[Mapping[str, float]]) -> _Allowed:
    """Return twice what the training fields have at most, and no less than what says nothing."""
    chi_squares = [read_number(each["chi_square"], 0.0, LARGEST) for each in agreement]
    beyond = [read_number(each["beyond_share"], 0.0, 1.0) for each in agreement]
    sisters = [read_number(each[_SISTERS], 0.0, 1.0) for each in agreement if _SISTERS in each]
    return _Allowed(
        max([_LEAST_CHI_SQUARE, *(_FAR * each for each in chi_squares)]),
        max([_LEAST_BEYOND, *(_FAR * each for each in beyond)]),
        max([_LEAST_BEYOND, *(_FAR * each for each in sisters)]) if sisters else None,
    )


def in_tenths(doubt: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x"]:
    """Return standard deviations, 0 or more, as a trust map holds them."""
    return np.minimum(np.rint(TENTHS * doubt), 255).astype(np.uint8)


# --- one channel ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class View:
    """One channel of an image as its model is given it.

    Attributes
    ----------
    model : Model
    slide : Slide
    channel : int or None
        Which of the slide's, where it has several.
    zoom : (y, x)
    scaling : Scaling
    label : str
        Named before a reason where there are several.
    same_pixels : bool
        Whether its pixels are as wide as those that the model was made for.
    rolling_average : float or None
        By which its frames were predicted.
    registered : bool
        Whether it was resampled before, by registering.
    """

    model: Model
    slide: Slide
    channel: int | None
    zoom: tuple[float, float]
    scaling: Scaling
    label: str
    same_pixels: bool = True
    rolling_average: float | None = None
    registered: bool = False

    @property
    def places(self) -> list[Place]:
        """Its planes."""
        image = self.slide.image
        at = image.axes.find("c")
        every = np.ndindex(*image.pixels.shape[:-2])
        return [place for place in every if at < 0 or place[at] == self.channel]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width on the target's grid."""
        return zoomed_shape(self.slide.image.pixels.shape[-2:], self.zoom)

    def read(
        self, place: Place, y: slice, x: slice, *, move: Phase = STILL
    ) -> Num[np.ndarray, "_y _x"]:
        """Read a part on the target's grid, or what lies so many source pixels farther."""
        zoom = move.zoom(self.zoom)
        # the part begins where it would if all of the plane were zoomed as usual
        farther_y, farther_x = (
            px + (at.start + 0.5) * (1 / usual - 1 / z)
            for px, at, usual, z in zip(move.start_px, (y, x), self.zoom, zoom, strict=True)
        )
        return resample_part(
            lambda v, u: self.slide.read(place, v, u),
            self.slide.image.pixels.shape[-2:],
            zoom,
            y,
            x,
            (farther_y, farther_x),
        )

    def average(
        self, place: Place, make: Callable[[Place], Float32[np.ndarray, "y x"]]
    ) -> Float32[np.ndarray, "y x"]:
        """Make a plane as it was predicted: of a rolling average by its three frames."""
        image, weight = self.slide.image, self.rolling_average
        near = planes_near(place, image.axes, image.pixels.shape[0], weight)
        return average([make(each) for each in near], weight)


def open_views(models: Models, slide: Slide, plan: PredictionPlan) -> list[View]:
    """Return the channels that are predicted, in the order of the output's."""
    views = []
    for name, model in models_by_channel(models, plan).items():
        chosen = plan.sized(select_channel(slide.image, channel=name))
        channel = None
        if "c" in slide.image.axes:
            channel = index_of_channel(slide.image, chosen)
        fit = fit_pixels(model, chosen, force=True)
        label = "" if isinstance(models, Model) else f"{name}: "
        views.append(
            View(
                model,
                slide,
                channel,
                fit.zoom,
                plan.scaling(model),
                label,
                same_pixels=fit.domain is None,
                rolling_average=plan.rolling_average,
            )
        )
    return views


def judge_view(view: View) -> Belonging:
    """Compare a channel with the training fields of its model."""
    domain = read_certificate(
        view.model, "domain", functools.partial(_domain_of, view.model.generator)
    )
    places = view.places
    chosen = [
        places[n] for n in np.linspace(0, len(places) - 1, min(PLANES, len(places))).astype(int)
    ]
    spots = list(cover(view.shape))
    phases, moves = _find_moves(view, spots, domain.phases)
    crops = np.stack(
        [
            [
                make_whole(view.read(place, y, x, move=move))
                for (y, x), move in zip(spots, moves, strict=True)
            ]
            for place in chosen
        ]
    )
    _require_finite(view.slide, crops)
    height, width = view.slide.image.pixels.shape[-2:]
    raw_spots = list(place_raw((height, width)))
    raw = np.stack([view.slide.read(place, y, x) for place in chosen for y, x in raw_spots])
    step = find_step(raw)
    glimpse = Glimpse(
        crops=crops,
        smoothed_noise=np.array([measure_smoothed_noise(view.zoom, phase) for phase in phases]),
        independent=count_independent(view.shape),
        everything=chosen == places and is_covered(view.shape),
        side_px=min(view.shape),
        same_pixels=view.same_pixels,
        saturated=saturated_share(raw, step),
        step=step,
    )
    return judge_domain(view.model.generator, domain, glimpse, view.scaling)


def _find_moves(
    view: View, spots: Sequence[tuple[slice, slice]], learnt: Sequence[Phase]
) -> tuple[list[Phase], list[Phase]]:
    """Return which phases crops are to have, and how to move them there."""
    corners = np.array([[y.start, x.start] for y, x in spots]) / view.zoom
    if view.registered or learnt == (STILL,):
        still = [Phase((y, x)) for y, x in wrap(corners).round(3).tolist()]
        return still, [STILL] * len(spots)
    phases = spread_evenly(learnt, len(spots))
    moves = []
    for spot, corner, phase in zip(spots, corners, phases, strict=True):
        asked = zip(spot, view.shape, phase.start_px - corner, phase.drift_px, strict=True)
        y, x = (_move_inwards(*each) for each in asked)
        moves.append(Phase((y, x), phase.drift_px))
    return phases, moves


def _move_inwards(part: slice, side_px: int, px: float, drift_px: float) -> float:
    """Return a move that differs by whole source pixels, away from a border that a crop touches."""
    farthest = max(drift_px, 0.0)
    if (part.start == 0) == (part.stop == side_px):  # both, or none
        move = (px + 0.5) % 1 - 0.5
    elif part.start == 0:
        move = px % 1
    else:
        move = -(-(px + farthest) % 1) - farthest
    return round(move, 3)


def _require_finite(slide: Slide, pixels: Num[np.ndarray, "*n _x"]) -> None:
    """Raise ImageError, with the slide's name, where pixels of it are NaN or infinite."""
    require_finite(slide.image.with_pixels(pixels.reshape(-1, pixels.shape[-1]), axes="yx"))


def _advise(views: Sequence[View], found: Sequence[Belonging]) -> str:
    """Say what helps where images are outside: what their reasons ask for, or else training."""
    asked = {remedy for each in found if each.domain == "outside" for remedy in each.remedies}
    if not all(view.same_pixels for view in views):
        asked.add("check its pixel size (--pixel-size-nm)")
    if asked:
        return " and ".join(sorted(asked))
    count = max(sum(seen.part == "training" for seen in view.model.fields) for view in views)
    return f"fine-tune it with about {min(max(count, 2), MOST_PAIRS)} pairs (train --init)"


def _domain_of(generator: nn.Module, value: Mapping[str, Any]) -> Domain:
    domain, channels = Domain.from_json(value), count_channels(generator)
    if len(domain.middle) != channels:
        reason = f"it has {len(domain.middle)} channels, the network {channels}"
        raise ValueError(reason)
    return domain


# --- input and output -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sister:
    """Another network that learnt the same, and how far the model usually is from it."""

    sharpener: Sharpener
    usual: Usual


@dataclass(frozen=True, eq=False)
class Walk:
    """One channel of an output, compared part by part.

    Attributes
    ----------
    view : View
    output : Slide
    channel : int or None
        Which of the output's, where it has several.
    reblurrer : Reblurrer
        Made ready for this image, where `measure` is not given.
    sisters : tuple of Sister
        Empty where it is compared with its input only.
    sums : list of (place, Sums)
        Of the parts that are done, and in which plane of the output each lies.
    measure : callable, optional
        From a plane to the comparison made ready for it: each has noise and background of its own.
    """

    view: View
    output: Slide
    channel: int | None
    reblurrer: Reblurrer
    sisters: tuple[Sister, ...]
    sums: list[tuple[Place, Sums]]
    measure: Callable[[Place], Reblurrer] | None = None

    @property
    def block_px(self) -> int:
        """Side of the blocks in which it is compared."""
        return self.reblurrer.forward.block_px

    @property
    def planes(self) -> dict[Place, Sums]:
        """What was found in each plane of the output."""
        found: dict[Place, Sums] = {}
        for place, sums in self.sums:
            found[place] = found.get(place, Sums()) + sums
        return found

    def place_of(self, place: Place) -> Place:
        """Return the input's plane of an output's."""
        at = dict(zip(self.output.image.axes[:-2], place, strict=True))
        image = self.view.slide.image
        return tuple(
            (self.view.channel or 0) if axis == "c" else at[axis] for axis in image.axes[:-2]
        )

    @np.errstate(over="ignore", invalid="ignore")  # pixels may be beyond all reason
    def inspect(self, part: Part) -> UInt8[np.ndarray, "y x"]:
        """Return a part of the trust map, and keep its sums."""
        halo_px, block_px = self.reblurrer.halo_px, self.block_px
        height, width = self.view.shape
        read = tuple(
            slice(max(0, s.start - halo_px), min(n, s.stop + halo_px))
            for s, n in zip((part.y, part.x), (height, width), strict=True)
        )
        seen = self.view.read(self.place_of(part.place), *read)
        made = self.output.read(part.place, *read)
        _require_finite(self.view.slide, seen)
        _require_finite(self.output, made)
        ready = self.measure(part.place) if self.measure else self.reblurrer
        compared = ready.compare(seen, made)
        rows, columns = (
            slice((s.start - r.start) // block_px, -(-(s.stop - r.start) // block_px))
            for s, r in zip((part.y, part.x), read, strict=True)
        )
        border = self.reblurrer.forward.border
        inner = []
        for s, r, n in zip((rows, columns), read, (height, width), strict=True):
            first, count = r.start // block_px, -(-n // block_px)
            low, high = max(s.start, border - first), min(s.stop, count - border - first)
            inner.append(slice(low, max(low, high)))
        judged = np.zeros_like(compared.z)
        judged[inner[0], inner[1]] = np.abs(compared.z[inner[0], inner[1]])
        sums = add_up(compared, inner[0], inner[1])
        doubt = judged[rows, columns].repeat(block_px, axis=0).repeat(block_px, axis=1)
        doubt = doubt[: part.y.stop - part.y.start, : part.x.stop - part.x.start]
        if self.sisters:
            apart = [np.abs(self.disagree(sister, part, made, read)) for sister in self.sisters]
            most = np.max(apart, axis=0)
            beyond = int((most > LIMIT).sum())
            sums = replace(sums, shown=most.size, sisters_beyond=beyond)
            doubt = np.maximum(doubt, most)
        self.sums.append((part.place, sums))
        return in_tenths(doubt)

    def disagree(
        self, sister: Sister, part: Part, made: Float[np.ndarray, "y x"], read: tuple[slice, ...]
    ) -> Float[np.ndarray, "_y _x"]:
        """Return how far the output is from a sister's."""
        sharpener = sister.sharpener
        halo_px = min(sister.usual.halo_px, self.reblurrer.halo_px)
        wide = [
            slice(max(0, s.start - halo_px), min(n, s.stop + halo_px))
            for s, n in zip((part.y, part.x), self.view.shape, strict=True)
        ]
        stride = sharpener.stride
        tiles = [
            make_tile(s.start - s.start % stride, min(s.stop + -s.stop % stride, n), n, sharpener)
            for s, n in zip(wide, self.view.shape, strict=True)
        ]
        other = self.view.average(
            self.place_of(part.place),
            lambda near: sharpen_tile(
                sharpener, lambda y, x: self.view.read(near, y, x)[None], self.view.shape, *tiles
            )[0],
        )
        y, x = (slice(w.start - r.start, w.stop - r.start) for w, r in zip(wide, read, strict=True))
        top, left = (s.start % stride for s in wide)
        height, width = made[y, x].shape
        other = other[top : top + height, left : left + width]
        found = sister.usual.disagreement(made[y, x], other)
        y, x = (
            slice(s.start - w.start, s.stop - w.start)
            for s, w in zip((part.y, part.x), wide, strict=True)
        )
        return found[y, x]


def open_walks(
    models: Models, slide: Slide, output: Slide, plan: PredictionPlan, *, full: bool
) -> list[Walk] | None:
    """Make ready to compare every channel; None where a model has no certificate."""
    views = [
        replace(view, model=blend(view.model, plan.fidelity))
        for view in open_views(models, slide, plan)
    ]
    if not all("forward" in view.model.certificate for view in views):
        return None
    walks = []
    for n, view in enumerate(views):
        forward = read_certificate(view.model, "forward", Forward.from_json)
        channel = n if "c" in output.image.axes else None
        engine = Engine(plan.threads or 1, plan.precision or "float32")
        sisters = _open_sisters(view, engine) if full else ()
        plain = Walk(view, output, channel, Reblurrer(forward, forward.noise, 0.0), sisters, [])
        walks.append(replace(plain, measure=_once(functools.partial(_measure, plain))))
    return walks


def _open_sisters(view: View, engine: Engine) -> tuple[Sister, ...]:
    model = view.model
    return tuple(
        Sister(
            make_sharpener(model, engine=engine, network=network, source_scaling=view.scaling), each
        )
        for network, each in zip(model.sisters, read_usual(model), strict=True)
    )


def read_usual(model: Model) -> list[Usual]:
    """Return how far each of a model's sisters is from it as a rule; ModelError where damaged.

    At least as far as two networks that are nearly the same get by rounding.
    """
    usual = [read_certificate(model, "twin", Usual.from_json)] if model.twin else []
    if model.members:
        usual += read_certificate(model, "members", functools.partial(_usual_of, model))
    floor = ROUNDED_FLOOR * model.target_scaling.scale
    return [
        replace(each, floor=max(each.floor, floor), share=max(each.share, ROUNDED_SHARE))
        for each in usual
    ]


def _usual_of(model: Model, entries: Sequence[Any]) -> list[Usual]:
    if len(entries) != len(model.members):
        raise ValueError(f"of {len(model.members)} members it has {len(entries)}")
    return [Usual.from_json(entry) for entry in entries]


def _measure(walk: Walk, place: Place) -> Reblurrer:
    """Make the comparison ready for a plane, by some crops of it: by fewer where there are many."""
    image = walk.output.image
    planes = math.prod(
        n for axis, n in zip(image.axes[:-2], image.pixels.shape, strict=False) if axis != "c"
    )
    spots = list(place_crops(walk.view.shape, CROPS if planes == 1 else _CROPS_OF_MANY))
    return make_reblurrer(
        walk.reblurrer.forward,
        [walk.view.read(walk.place_of(place), y, x) for y, x in spots],
        [walk.output.read(place, y, x) for y, x in spots],
    )


def _once(measure: Callable[[Place], Reblurrer]) -> Callable[[Place], Reblurrer]:
    """Return what measures each plane when it is first asked for; several threads may ask."""
    known: dict[Place, Reblurrer] = {}
    lock = threading.Lock()

    def find(place: Place) -> Reblurrer:
        with lock:
            if place not in known:
                known[place] = measure(place)
            return known[place]

    return find


def inspect_parts(
    walks: Sequence[Walk], shape: tuple[int, ...], watch: Callable[[float], None]
) -> Iterator[tuple[Part, UInt8[np.ndarray, "y x"]]]:
    """Yield the parts of the trust map of an output of this shape; the walks keep their sums."""
    parts = list(cut_parts(shape, _tile_px(walks)))
    for n, part in enumerate(parts):
        yield part, _walk_of(walks, part).inspect(part)
        watch((n + 1) / len(parts))


def draw_map(
    walks: Sequence[Walk], shape: tuple[int, ...], watch: Callable[[float], None]
) -> UInt8[np.ndarray, "*shape"]:
    """Return the whole trust map of an output in memory."""
    pixels = np.zeros(shape, np.uint8)
    for part, doubt in inspect_parts(walks, shape, watch):
        at: tuple[Any, ...] = (*part.place, part.y, part.x)
        pixels[at] = doubt
    return pixels


def write_map(
    walks: Sequence[Walk], trust: Path, *, overwrite: bool, watch: Callable[[float], None]
) -> None:
    """Write the trust map part by part, several at a time."""
    output = walks[0].output
    write_slide(
        output.image.with_pixels(stand_in(output.image.pixels.shape, np.uint8)),
        trust,
        lambda part: _walk_of(walks, part).inspect(part),
        version=output.version or VERSION,
        tile_px=_tile_px(walks),
        overwrite=overwrite,
        watch=watch,
    )


def _tile_px(walks: Sequence[Walk]) -> int:
    whole_px = math.lcm(16, *(walk.block_px for walk in walks))
    return whole_px * max(1, TILE_PX // whole_px)


def _walk_of(walks: Sequence[Walk], part: Part) -> Walk:
    """Return the channel that a part is of."""
    image = walks[0].output.image
    at = dict(zip(image.axes[:-2], part.place, strict=True)).get("c", 0)
    return walks[at] if len(walks) > 1 else walks[0]


def conclude(
    admitted: Verdict,
    walks: Sequence[Walk],
    *,
    level: str | None = None,
    doubts: Sequence[str] = (),
) -> Verdict:
    """Give the verdict, with its reasons in words.

    Parameters
    ----------
    admitted : Verdict
        On the image alone.
    walks : sequence of Walk
        Done: one a channel.
    level : "fast" or "full", optional
        As was asked for.
    doubts : sequence of str
        What else is wrong with the output.
    """
    found = [_judge_walk(admitted, walk, level) for walk in walks]
    doubts = [*doubts, *(doubt for each in found for doubt in each.doubts)]
    judged = "signal" in admitted.numbers
    doubtful = doubts or (judged and (admitted.domain == "near" or not admitted.numbers["signal"]))
    numbers = dict(admitted.numbers)
    if level and walks:
        numbers["level"] = level
    for name in dict.fromkeys(name for each in found for name in each.numbers):
        values = [each.numbers.get(name) for each in found]
        numbers[name] = values[0] if len(walks) == 1 else values
    reasons = [*admitted.reasons, *doubts, *(r for each in found for r in each.remarks)]
    verdict = "refused" if admitted.domain == "outside" else "doubtful" if doubtful else None
    if judged and not verdict:
        verdict = "good"
    return Verdict(admitted.domain, verdict, tuple(reasons), numbers)


@dataclass(frozen=True)
class _Found:
    """What came of a channel: why to doubt it, what else is to be said, and what was measured."""

    doubts: tuple[str, ...]
    remarks: tuple[str, ...]
    numbers: Mapping[str, Any]


def _judge_walk(admitted: Verdict, walk: Walk, level: str | None) -> _Found:
    """Judge a channel; what could not be measured is None, beside the reason."""
    planes, label = walk.planes, walk.view.label
    sums = sum(planes.values(), Sums())
    allowed = read_certificate(walk.view.model, "agreement", _most_allowed)
    remarks, numbers = [], dict[str, Any]()
    if sums.count:
        numbers |= {name: getattr(sums, name) for name in _REBLUR}
        doubts = _doubts_of(walk, allowed)
    else:
        numbers |= dict.fromkeys(_REBLUR) | {f"{name}_reason": _SMALL for name in _REBLUR}
        doubts = ["it is too small to be compared with its input"]
    if numbers["rsp"] is None and sums.count:
        numbers["rsp_reason"] = "the input or the output, blurred again, is the same everywhere"
    if level == "full":
        numbers[_SISTERS] = sums.sisters_beyond_share
        if sums.sisters_beyond_share is None:
            numbers[f"{_SISTERS}_reason"] = _ALONE
            remarks.append(f"it was compared with its input only: {_ALONE}")
        elif allowed.sisters_beyond_share is None:
            remarks.append(_UNUSUAL)
    numbers |= _tell_claim(admitted, walk)
    for name in [name for name, value in numbers.items() if _is_no_number(value)]:
        numbers |= {name: None, f"{name}_reason": "its grey values are beyond all reason"}
    doubts, remarks = ([f"{label}{text}" for text in each] for each in (doubts, remarks))
    return _Found(tuple(doubts), tuple(remarks), numbers)


def _doubts_of(walk: Walk, allowed: _Allowed) -> list[str]:
    """Say why to doubt a channel: of several planes, which."""
    found: dict[str, list[tuple[Place, float]]] = {"contradicts": [], "off": [], "twin": []}
    off = []
    for place, sums in walk.planes.items():
        share = sums.sisters_beyond_share
        if sums.beyond_share > allowed.beyond_share:
            found["contradicts"].append((place, sums.beyond_share))
        elif sums.chi_square > allowed.chi_square:
            off.append(sums.chi_square_within > allowed.chi_square)
            found["off"].append((place, math.sqrt(sums.chi_square)))
        if share is not None and share > (allowed.sisters_beyond_share or 1.0):
            found["twin"].append((place, share))
    worst = {name: max((much for _, much in each), default=0.0) for name, each in found.items()}
    everywhere = (
        "nearly everywhere: so it is where focus, point spread function or background are others "
        "than in training"
    )
    words = {
        "contradicts": f"blurred again, {worst['contradicts']:.1%} of it contradict the input by "
        f"more than {LIMIT:g} standard deviations: look at the trust map",
        "off": f"blurred again, it differs from the input by {worst['off']:.2g} times as much as "
        f"noise explains, "
        + (everywhere if any(off) else "by far in a few places: look at the trust map"),
        "twin": f"in {worst['twin']:.1%} of it another network that learnt the same (its twin or a "
        f"member) shows something else, by more than {LIMIT:g} standard deviations: look at the "
        f"trust map",
    }
    return [
        f"{_name_planes(walk, [place for place, _ in each])}{words[name]}"
        for name, each in found.items()
        if each
    ]


def _name_planes(walk: Walk, places: Sequence[Place]) -> str:
    """Return "in 2 of 9 planes (t 3, t 7), at most: ", or nothing where there is one only."""
    if len(walk.planes) == 1:
        return ""
    axes = walk.output.image.axes
    names = [
        " ".join(f"{axis} {n}" for axis, n in zip(axes, place, strict=False) if axis != "c")
        for place in places[:_NAMED]
    ]
    more = ", and more" if len(places) > _NAMED else ""
    return f"in {len(places)} of {len(walk.planes)} planes ({', '.join(names)}{more}), at most: "


def _is_of_another(sums: Sums) -> bool:
    return sums.count > 0 and sums.beyond_share > _OTHER_IMAGE


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


_SMALL = "the image is too small"
_ALONE = (
    "there was no other network to ask: the model has no members, and no twin, or one that is "
    "part of the output (fidelity)"
)
_UNUSUAL = (
    "how far other networks usually are from the model was not certified, so that their share is "
    "not judged: certify it anew on its pairs (cs.certify)"
)
_UNCLAIMED = "the model was certified without claims, or the output was made with a fidelity"
_ROLLED = "the output is a rolling average, and the certificate knows single frames"


def _tell_claim(admitted: Verdict, walk: Walk) -> dict[str, Any]:
    """Return the resolution that is claimed of an output, or None and why."""
    certificate, sums = walk.view.model.certificate, list(walk.planes.values())
    reason: str | None = None
    if admitted.domain == "outside":
        reason = "the model was not made for such an image"
    elif "domain" not in certificate:
        reason = UNKNOWN
    elif not any(each.count for each in sums):
        reason = f"{_SMALL} to be compared with its output"
    elif admitted.numbers.get("signal") is False:
        reason = "the image shows nothing but noise"
    elif any(map(_is_of_another, sums)):
        reason = "the output contradicts the input"
    elif "claim" not in certificate:
        reason = _UNCLAIMED
    elif walk.view.rolling_average and walk.output.image.axes.startswith("t"):
        reason = _ROLLED
    if reason:
        return {"claimed_resolution_nm": None, "claimed_resolution_reason": reason}
    claim = read_certificate(walk.view.model, "claim", Claim.from_json)
    why = {"claimed_resolution_reason": claim.reason} if claim.reason else {}
    return {"claimed_resolution_nm": claim.resolution_nm, **why}
