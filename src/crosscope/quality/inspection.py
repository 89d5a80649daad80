"""Image -> admitted or refused; image + output -> a verdict and a trust map, part by part.

The trust map lies on the output's grid: in each pixel tenths of the standard deviation by which the
output contradicts its input (or, where asked for, a sister network), 255 at most. Along the border,
as far as light from beyond it shines in, nothing can be said, and the map is 0.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Num, UInt8
from torch import nn

from crosscope.data.errors import DomainError, InputError, ModelError
from crosscope.data.grids import resample_part, zoomed_shape
from crosscope.data.images import Image, require_finite, select_channel, write_image
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
from crosscope.prediction.images import PredictionPlan, fit_channels, fit_pixels
from crosscope.prediction.tiling import Sharpener, make_sharpener, make_tile, sharpen_tile
from crosscope.quality.claim import Claim
from crosscope.quality.disagreement import ROUNDED_FLOOR, ROUNDED_SHARE, Usual
from crosscope.quality.domain import (
    CROPS,
    Belonging,
    Domain,
    OtherVersionError,
    count_channels,
    judge_domain,
    place_crops,
)
from crosscope.quality.features import make_whole, saturated_share
from crosscope.quality.forward import Forward
from crosscope.quality.reblur import LIMIT, Reblurrer, Sums, add_up, make_reblurrer

Known = TypeVar("Known")
LEVELS = ("fast", "full")
TENTHS = 10
PLANES = 4
"""Of a stack or a time-lapse, so many planes are looked at before anything is predicted."""
TILE_PX = 768
VERSION = "0.5"
MOST_PAIRS = 8
"""More than so many were never worth it: see the learning curve in docs/systems.md."""
UNKNOWN = "the model has no certificate: nobody knows what it was made for"
_FAR = 2.0  # times what a training field has at most: then input and output disagree
_LEAST_CHI_SQUARE, _LEAST_BEYOND = 1.5, 5e-3
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
        if isinstance(models, Model):
            chosen = select_channel(image.image, channel=plan.channel)
            fit = fit_pixels(models, plan.sized(chosen), force=plan.force)
        else:
            fit = fit_channels(models, image.image, plan=plan)
        views = open_views(models, image, plan)
        known = [view for view in views if "domain" in view.model.certificate]
        if len(known) < len(views):
            return Verdict(fit.domain, reasons=(UNKNOWN,))
        found = [judge_view(view) for view in views]
        reasons = tuple(
            f"{view.label}{reason}"
            for view, each in zip(views, found, strict=True)
            for reason in each.reasons
        )
        domains = [each.domain for each in found]
        if "outside" in domains and not plan.force:
            count = max(sum(seen.part == "training" for seen in v.model.fields) for v in views)
            remedy = (
                f"Fine-tune it with about {min(max(count, 2), MOST_PAIRS)} pairs (train --init)"
            )
            reason = f"the model was not made for such an image: {'; '.join(reasons)}"
            raise DomainError(image.image.name, reason, f"{remedy}, or use --force and doubt it")
        numbers = {
            "distance": max(each.distance for each in found),
            "signal": any(each.signal for each in found),
        }
        worst = max([*domains, fit.domain or _WORST[0]], key=_WORST.index)
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
            shape = output.image.pixels.shape
            write_slide(
                output.image.with_pixels(stand_in(shape, np.uint8)),
                trust,
                lambda part: _walk_of(walks, part).inspect(part),
                version=output.version or VERSION,
                tile_px=_tile_px(walks),
                overwrite=overwrite,
                watch=watch,
            )
        else:
            pixels = draw_map(walks, output.image.pixels.shape, watch)
            write_image(output.image.with_pixels(pixels), trust, overwrite=overwrite)
        found = conclude(admitted, walks)
        return replace(found, numbers={**found.numbers, "trust": str(trust)})


def check(
    model: Model,
    image: Image,
    output: Image | None = None,
    *,
    plan: PredictionPlan | None = None,
    level: str = "fast",
) -> Verdict:
    """Say whether a model was made for an image, and how far an output can be believed.

    Parameters
    ----------
    model : Model
    image : Image
        Of the source modality, raw.
    output : Image, optional
        What the model, or anything else, made of it: on the grid that `predict` gives.
    plan : PredictionPlan
        As it was predicted with.
    level : "fast" or "full"
        full compares with the model's twin and members, too.

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
    plan = plan or PredictionPlan()
    image = plan.sized(select_channel(image, channel=plan.channel))
    require_finite(image)
    plan = replace(plan, channel=None, pixel_size_nm=None, force=True)
    inspector, seen = Inspector(level), slide_of(image)
    admitted = inspector.admit(model, seen, plan)
    if output is None:
        return conclude(admitted, [])
    shape = zoomed_shape(image.pixels.shape[-2:], fit_pixels(model, image, force=True).zoom)
    wanted = (*image.pixels.shape[:-2], *shape)
    if output.pixels.shape != wanted:
        reason = f"is {output.pixels.shape} px, of this image the model makes {wanted}"
        raise InputError(output.name, reason, "Pass what was predicted from it")
    require_finite(output)
    walks = open_walks(model, seen, slide_of(output), plan, full=level == "full")
    if walks is None:
        return admitted
    trust = output.with_pixels(draw_map(walks, output.pixels.shape, lambda done: None))
    return replace(conclude(admitted, walks), trust=trust)


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


def _most_allowed(agreement: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Return the chi-square and the share beyond the limit up to which an output is good."""
    usual = [
        (read_number(each["chi_square"], 0.0, LARGEST), read_number(each["beyond_share"], 0.0, 1.0))
        for each in agreement
    ]
    return (
        max([_LEAST_CHI_SQUARE, *(_FAR * chi_square for chi_square, _ in usual)]),
        max([_LEAST_BEYOND, *(_FAR * beyond for _, beyond in usual)]),
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
    """

    model: Model
    slide: Slide
    channel: int | None
    zoom: tuple[float, float]
    scaling: Scaling
    label: str

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

    def read(self, place: Place, y: slice, x: slice) -> Num[np.ndarray, "_y _x"]:
        """Read a part on the target's grid."""
        return resample_part(
            lambda v, u: self.slide.read(place, v, u),
            self.slide.image.pixels.shape[-2:],
            self.zoom,
            y,
            x,
        )


def open_views(models: Models, slide: Slide, plan: PredictionPlan) -> list[View]:
    """Return the channels that are predicted, in the order of the output's."""
    named = {plan.channel: models} if isinstance(models, Model) else dict(models)
    views = []
    for name, model in named.items():
        chosen = plan.sized(select_channel(slide.image, channel=name))
        channel = None
        if "c" in slide.image.axes:
            channel = slide.image.channels.index(chosen.channels[0])
        zoom = fit_pixels(model, chosen, force=True).zoom
        label = "" if isinstance(models, Model) else f"{name}: "
        views.append(View(model, slide, channel, zoom, plan.scaling(model), label))
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
    spots = list(place_crops(view.shape, CROPS // len(chosen)))
    crops = [make_whole(view.read(place, *at)) for place in chosen for at in spots]
    height, width = view.slide.image.pixels.shape[-2:]
    if not all(np.isfinite(crop).all() for crop in crops):
        require_finite(view.slide.image.with_pixels(np.concatenate(crops)))
    raw = [
        view.slide.read(place, y, x)
        for place in chosen
        for y, x in place_crops((height, width), CROPS // len(chosen))
    ]
    return judge_domain(
        view.model.generator,
        domain,
        np.stack(crops),
        view.scaling,
        saturated=saturated_share(np.stack(raw)),
    )


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
    sisters : tuple of Sister
        Empty where it is compared with its input only.
    sums : list of Sums
        Of the parts that are done.
    """

    view: View
    output: Slide
    channel: int | None
    reblurrer: Reblurrer
    sisters: tuple[Sister, ...]
    sums: list[Sums]

    @property
    def block_px(self) -> int:
        """Side of the blocks in which it is compared."""
        return self.reblurrer.forward.block_px

    def place_of(self, place: Place) -> Place:
        """Return the input's plane of an output's."""
        at = dict(zip(self.output.image.axes[:-2], place, strict=True))
        image = self.view.slide.image
        return tuple(
            (self.view.channel or 0) if axis == "c" else at[axis] for axis in image.axes[:-2]
        )

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
        compared = self.reblurrer.compare(seen, made)
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
        self.sums.append(add_up(compared, inner[0], inner[1]))
        doubt = judged[rows, columns].repeat(block_px, axis=0).repeat(block_px, axis=1)
        doubt = doubt[: part.y.stop - part.y.start, : part.x.stop - part.x.start]
        for sister in self.sisters:
            doubt = np.maximum(doubt, np.abs(self.disagree(sister, part, made, read)))
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
        place = self.place_of(part.place)
        other = sharpen_tile(
            sharpener, lambda y, x: self.view.read(place, y, x)[None], self.view.shape, *tiles
        )[0]
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
        walks.append(replace(plain, reblurrer=make_reblurrer(forward, *_samples(plain))))
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


def _samples(
    walk: Walk,
) -> tuple[list[Num[np.ndarray, "_y _x"]], list[Float[np.ndarray, "_y _x"]]]:
    """Read some crops of an input and its output: enough to measure the noise."""
    image = walk.output.image
    middle = {axis: n // 2 for axis, n in zip(image.axes, image.pixels.shape, strict=True)}
    middle["c"] = walk.channel or 0
    place = tuple(middle[axis] for axis in image.axes[:-2])
    spots = list(place_crops(walk.view.shape))
    seen = [walk.view.read(walk.place_of(place), y, x) for y, x in spots]
    return seen, [walk.output.read(place, y, x) for y, x in spots]


def draw_map(
    walks: Sequence[Walk], shape: tuple[int, ...], watch: Callable[[float], None]
) -> UInt8[np.ndarray, "*shape"]:
    """Return the whole trust map of an output in memory."""
    pixels = np.zeros(shape, np.uint8)
    parts = list(cut_parts(shape, _tile_px(walks)))
    for n, part in enumerate(parts):
        at: tuple[Any, ...] = (*part.place, part.y, part.x)
        pixels[at] = _walk_of(walks, part).inspect(part)
        watch((n + 1) / len(parts))
    return pixels


def _tile_px(walks: Sequence[Walk]) -> int:
    whole_px = math.lcm(16, *(walk.block_px for walk in walks))
    return whole_px * max(1, TILE_PX // whole_px)


def _walk_of(walks: Sequence[Walk], part: Part) -> Walk:
    """Return the channel that a part is of."""
    image = walks[0].output.image
    at = dict(zip(image.axes[:-2], part.place, strict=True)).get("c", 0)
    return walks[at] if len(walks) > 1 else walks[0]


def conclude(admitted: Verdict, walks: Sequence[Walk]) -> Verdict:
    """Give the verdict, with its reasons in words."""
    reasons = list(admitted.reasons)
    doubtful = admitted.domain == "near"
    numbers = dict(admitted.numbers)
    if numbers.get("signal") is False:
        doubtful = True
    found: dict[str, list[float | None]] = {}
    for walk in walks:
        sums = sum(walk.sums, Sums())
        if not sums.count:
            reasons.append(f"{walk.view.label}it is too small to be compared with its input")
            doubtful = True
            continue
        chi_square, beyond = read_certificate(walk.view.model, "agreement", _most_allowed)
        if sums.beyond_share > beyond:
            doubtful = True
            reasons.append(
                f"{walk.view.label}blurred again, {sums.beyond_share:.1%} of it contradict the "
                f"input by more than {LIMIT:g} standard deviations: look at the trust map"
            )
        elif sums.chi_square > chi_square:
            doubtful = True
            reasons.append(
                f"{walk.view.label}blurred again, it contradicts the input everywhere a little: by "
                f"{sums.chi_square:.2g} times the variance of noise"
            )
        for name in ("chi_square", "rsp", "rse", "beyond_share"):
            found.setdefault(name, []).append(getattr(sums, name))
        if "claim" in walk.view.model.certificate:
            claim = read_certificate(walk.view.model, "claim", Claim.from_json)
            found.setdefault("claimed_resolution_nm", []).append(claim.resolution_nm)
    single = len(walks) == 1
    numbers |= {name: values[0] if single else values for name, values in found.items()}
    verdict = "refused" if admitted.domain == "outside" else "doubtful" if doubtful else "good"
    return Verdict(admitted.domain, verdict, tuple(reasons), numbers)
