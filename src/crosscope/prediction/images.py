"""Model + image -> image of the target modality: planes, pixel sizes, what is refused."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Num

from crosscope.data.errors import DomainError, ImageError, InputError, ModelError
from crosscope.data.images import Channel, Image, require_finite, select_channel
from crosscope.data.sampling import Scaling
from crosscope.model.choice import BACKENDS, settle_engine
from crosscope.model.dial import blend
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.frames import MOST, roll
from crosscope.prediction.tiling import TILE_PX, sharpen

SAME_PIXEL = 0.02  # relative difference of pixel sizes up to which an image is used as it is ...
NEAR_PIXEL = 0.30  # ... and up to which it is resampled; beyond it the model was not made for it


@dataclass(frozen=True)
class Fit:
    """How an image fits a model's pixels.

    Attributes
    ----------
    domain : str or None
        "near" where the image is resampled from another pixel size, "outside" where that was
        forced, None where nothing is known against it.
    reasons : tuple of str
    zoom : (y, x)
        Output pixels per input pixel.
    pixel_size_nm : (y, x)
        Of the output.
    off : float
        How far the image's pixels are from the model's: the logarithm of the ratio.
    """

    domain: str | None
    reasons: tuple[str, ...]
    zoom: tuple[float, float]
    pixel_size_nm: tuple[float, float]
    off: float


@dataclass(frozen=True)
class PredictionPlan:
    """How a model is applied.

    Attributes
    ----------
    channel : str or None
        Which channel of several.
    pixel_size_nm : float or None
        Where the file says nothing, or is wrong.
    offset : float or None
        The camera's grey level of zero light, where it is not that of the training.
    engine, threads, precision : "torch" or "openvino", int, "float32" or "bfloat16", or None
        None: the fastest, by measurement.
    tile_px, exact : int, bool
        See `tiling.sharpen`.
    force : bool
        Use the model for pixel sizes that it was not made for.
    fidelity : float
        From the adversarial model, 0, to its regression twin, 1: see `model.dial`.
    rolling_average : float or None
        Weight of the frame before, and of that after, in each of a time-lapse: see `frames`.
    """

    channel: str | None = None
    pixel_size_nm: float | None = None
    offset: float | None = None
    engine: str | None = None
    threads: int | None = None
    precision: str | None = None
    tile_px: int = TILE_PX
    exact: bool = False
    force: bool = False
    fidelity: float = 0.0
    rolling_average: float | None = None

    def __post_init__(self) -> None:
        size_nm, offset, weight = self.pixel_size_nm, self.offset, self.rolling_average
        rules = {
            "pixel_size_nm must be above 0": size_nm is None or 0 < size_nm < math.inf,
            "offset must be finite": offset is None or math.isfinite(offset),
            "fidelity must be between 0 and 1": 0 <= self.fidelity <= 1,
            "rolling_average must be between 0 and 1/3": weight is None or 0 <= weight <= MOST,
            "tile_px must be at least 1": self.tile_px >= 1,
            "threads must be at least 1": self.threads is None or self.threads >= 1,
            "precision must be float32 or bfloat16": self.precision
            in (None, "float32", "bfloat16"),
            "engine must be torch or openvino": self.engine in (None, *BACKENDS),
            "exact tiles need the engine torch": not self.exact or self.engine != "openvino",
        }
        for rule, holds in rules.items():
            if not holds:
                raise InputError("prediction plan", rule, "Correct it and start again")

    def sized(self, image: Image) -> Image:
        """Return the image with the pixel size that was given, where one was."""
        if self.pixel_size_nm is None:
            return image
        return replace(image, pixel_size_nm=(self.pixel_size_nm, self.pixel_size_nm))

    @property
    def settled(self) -> Engine:
        """The engine, of a plan that leaves nothing open."""
        assert self.engine is not None, "settle the plan first"
        assert self.threads is not None, "settle the plan first"
        assert self.precision is not None, "settle the plan first"
        return Engine(self.threads, self.precision, self.engine)

    def scaling(self, model: Model) -> Scaling:
        """Return the model's scaling of the source, by the offset that was given, where one was."""
        scaling = model.source_scaling
        return scaling if self.offset is None else replace(scaling, offset=self.offset)


def predict(
    model: Model,
    image: Image,
    *,
    plan: PredictionPlan = PredictionPlan(),
    watch: Callable[[float], None] = lambda done: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Image:
    """Turn an image of the source modality into one of the target modality, plane by plane.

    Parameters
    ----------
    model : Model
    image : Image
        Raw, as the source microscope gives it; t and z are kept, of c one channel is taken.
    plan : PredictionPlan
    watch, say : callables
        Told the part done, 0 to 1; told which engine runs it and why.

    Returns
    -------
    Image
        float32 grey values of the target modality on its pixel grid, the field's corner kept.

    Raises
    ------
    ImageError
        Pixels that are not finite, an unknown pixel size, several channels and none chosen.
    DomainError
        The pixel size is more than 30 % from the model's, and `force` is not set.
    """
    image = plan.sized(select_channel(image, channel=plan.channel))
    require_finite(image)
    fit = fit_pixels(model, image, force=plan.force)
    engine = fastest_engine(model, image, plan=plan, say=say)
    sharp = sharpen(
        blend(model, plan.fidelity),
        image.pixels.reshape(-1, *image.pixels.shape[-2:]),
        engine=engine,
        zoom=fit.zoom,
        source_scaling=plan.scaling(model),
        tile_px=plan.tile_px,
        exact=plan.exact,
        watch=watch,
    )
    pixels = sharp.reshape(*image.pixels.shape[:-2], *sharp.shape[-2:])
    if plan.rolling_average and image.axes.startswith("t"):
        pixels = roll(pixels, plan.rolling_average)
    return image.with_pixels(pixels, pixel_size_nm=fit.pixel_size_nm)


def predict_channels(
    models: Mapping[str, Model],
    image: Image,
    *,
    plan: PredictionPlan = PredictionPlan(),
    watch: Callable[[float], None] = lambda done: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Image:
    """Apply to each named channel its own model, and put the results together again.

    Channels without a model are left out; each output channel keeps its name and colour.

    Raises, beside what `predict` raises, ModelError where the models give different pixel grids.
    """
    fit_channels(models, image, plan=plan)
    results = [
        predict(
            model,
            image,
            plan=replace(plan, channel=name),
            watch=lambda done, n=n: watch((n + done) / len(models)),  # type: ignore[misc]
            say=say,
        )
        for n, (name, model) in enumerate(models.items())
    ]
    return join_channels(list(models), results)


def join_channels(
    names: Sequence[str],
    results: Sequence[Image],
    *,
    stack: Callable[..., npt.NDArray[Any]] = np.stack,
) -> Image:
    """Put images of one channel each together, in this order, behind t.

    Raises ModelError, with the model's name, where their pixel grids differ.
    """
    first = results[0]
    for name, result in zip(names, results, strict=True):
        if result.pixels.shape != first.pixels.shape:
            reason = f"gives {result.pixels.shape} pixels, the first model {first.pixels.shape}"
            raise ModelError(name, reason, "Take models of one target pixel size")
    axis = int(first.axes.startswith("t"))  # t c z y x
    return first.with_pixels(
        stack([result.pixels for result in results], axis=axis),
        axes=first.axes[:axis] + "c" + first.axes[axis:],
        channels=tuple(channel for result in results for channel in result.channels),
    )


def models_by_channel(
    models: Mapping[str, Model] | Model, plan: PredictionPlan
) -> dict[str | None, Model]:
    """Return models with the channels that they are for; one model is for the plan's."""
    named = [(plan.channel, models)] if isinstance(models, Model) else models.items()
    return dict(named)


def fit_models(models: Mapping[str, Model] | Model, image: Image, *, plan: PredictionPlan) -> Fit:
    """Compare an image with its model, or each of its channels with that channel's."""
    if isinstance(models, Model):
        chosen = plan.sized(select_channel(image, channel=plan.channel))
        return fit_pixels(models, chosen, force=plan.force)
    return fit_channels(models, image, plan=plan)


def fit_channels(models: Mapping[str, Model], image: Image, *, plan: PredictionPlan) -> Fit:
    """Compare each model with its channel before any is applied.

    Returns
    -------
    Fit
        The worst; its reasons name the channels that have no model, too.

    Raises
    ------
    ImageError
        A channel is not there.
    DomainError
        As `fit_pixels`, naming the channel.
    InputError
        The plan names a channel, too.
    """
    if plan.channel is not None:
        remedy = "Leave --channel out, or pass one model only"
        raise InputError(plan.channel, "one channel is chosen, and models for each", remedy)
    fits, served = [], set[Channel]()
    for name, model in models.items():
        channel = plan.sized(select_channel(image, channel=name))
        served |= set(channel.channels)
        named = replace(channel, name=f"{image.name}, channel {name}")
        fits.append(fit_pixels(model, named, force=plan.force))
    worst = max(fits, key=lambda fit: fit.off)
    left_out = tuple(
        f"channel {channel.name} has no model and is left out"
        for channel in image.channels
        if channel not in served
    )
    return replace(worst, reasons=worst.reasons + left_out)


def find_empty(image: Image) -> tuple[str, ...]:
    """Say which planes hold nothing, all their pixels being equal: worth a word, not an error.

    Returns
    -------
    tuple of str
        One sentence or none; planes are counted from 0 along t, c and z, ten are named.
    """
    limits = np.stack([image.pixels.min(axis=(-2, -1)), image.pixels.max(axis=(-2, -1))])
    return tell_empty(limits, image.axes)


def tell_idle(
    models: Mapping[str, Model] | Model, image: Image, plan: PredictionPlan
) -> tuple[str, ...]:
    """Say what is asked for and changes nothing: it is predicted all the same.

    Returns
    -------
    tuple of str
        One sentence for a fidelity and each model that has no twin, one for a rolling average and
        an image that is no time-lapse; or none.
    """
    named = {"the model": models} if isinstance(models, Model) else models
    idle = [
        f"{name} has no twin, so that --fidelity {plan.fidelity:g} changes nothing"
        for name, model in named.items()
        if plan.fidelity and model.twin is None
    ]
    if plan.rolling_average and not image.axes.startswith("t"):
        asked = f"--rolling-average {plan.rolling_average:g}"
        idle.append(f"it is no time-lapse (axes {image.axes}), so that {asked} changes nothing")
    return tuple(idle)


def tell_empty(limits: Num[np.ndarray, "2 *planes"], axes: str) -> tuple[str, ...]:
    """Say it of planes of which two grey values are known, the same where all are."""
    lowest, highest = limits
    empty = np.argwhere(lowest == highest)
    if not len(empty):
        return ()
    if not lowest.ndim:
        return (f"it is empty: all its pixels are {lowest:g}",)
    at = [" ".join(map("{} {}".format, axes, place)) for place in empty[:10]]
    more = ", and more" if len(empty) > len(at) else ""
    count = f"{len(empty)} of {lowest.size} planes are empty, all pixels of one grey value"
    return (f"{count}: {', '.join(at)}{more}, counted from 0",)


def fit_pixels(model: Model, image: Image, *, force: bool = False) -> Fit:
    """Compare an image's pixel size with the model's and say what follows.

    Within 2 % the image is used as it is, up to 30 % it is resampled, beyond it is refused.
    """
    if image.pixel_size_nm is None:
        remedy = "Pass it by --pixel-size-nm"
        raise ImageError(image.name, "its pixel size is not known", remedy)
    ratios = [
        is_ / made
        for is_, made in zip(image.pixel_size_nm, model.source_pixel_size_nm, strict=True)
    ]
    off = max(abs(math.log(ratio)) for ratio in ratios)
    model_zoom = [
        source / target
        for source, target in zip(
            model.source_pixel_size_nm, model.target_pixel_size_nm, strict=True
        )
    ]
    if off <= math.log1p(SAME_PIXEL):
        y, x = model_zoom
        size_nm = image.pixel_size_nm[0] / y, image.pixel_size_nm[1] / x
        return Fit(None, (), (y, x), size_nm, off)
    reason = "its pixels are {:.4g} x {:.4g} nm (y, x), the model was made for {:.4g} x {:.4g} nm"
    reason = reason.format(*image.pixel_size_nm, *model.source_pixel_size_nm)
    near = off <= math.log1p(NEAR_PIXEL)
    if not near and not force:
        remedy = "Train a model for this pixel size, or use --force and don't trust the result"
        raise DomainError(image.name, reason, remedy)
    y, x = (zoom * ratio for zoom, ratio in zip(model_zoom, ratios, strict=True))
    domain = "near" if near else "outside"
    return Fit(domain, (reason,), (y, x), model.target_pixel_size_nm, off)


def fastest_engine(
    model: Model,
    image: Image,
    *,
    plan: PredictionPlan = PredictionPlan(),
    say: Callable[[str], None] = lambda sentence: None,
) -> Engine:
    """Choose what the plan leaves open, engine, threads and precision: see `settle_engine`."""
    height, width = image.pixels.shape[-2:]
    return settle_engine(
        blend(model, plan.fidelity),
        (height, width),
        backend="torch" if plan.exact else plan.engine,
        threads=plan.threads,
        precision=plan.precision,
        say=say,
    )


def settle(
    plan: PredictionPlan,
    model: Model,
    image: Image,
    say: Callable[[str], None] = lambda sentence: None,
) -> PredictionPlan:
    """Return the plan with its engine, by measurement where it is left open."""
    engine = fastest_engine(model, image, plan=plan, say=say)
    return replace(plan, engine=engine.backend, threads=engine.threads, precision=engine.precision)
