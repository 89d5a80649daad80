"""Slide -> slide, part by part: images of any size in the memory that a few parts take.

While one part is predicted, the next is read and the last is written. All lie in a hidden folder
beside the output until they are complete: a run that was killed goes on with what is missing, and
ends with the same bytes.
"""

import itertools
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Num

from crosscope.data.cores import count_cores
from crosscope.data.errors import ImageError, OutputError
from crosscope.data.files import sha256, unfinished_folder
from crosscope.data.grids import resample_part, zoomed_shape
from crosscope.data.images import Image, index_of_channel, select_channel
from crosscope.data.slides import (
    CHUNK_PX,
    Canvas,
    Part,
    Place,
    Slide,
    create_canvas,
    deliver,
    is_written,
    is_zarr,
    list_parts,
    open_canvas,
    open_slide,
    read_about,
    read_overview,
    reduce_part,
    stand_in,
    write_part,
)
from crosscope.model.dial import blend
from crosscope.model.model import Model
from crosscope.prediction.composite import MOST_PX, Composite, draw_composite
from crosscope.prediction.frames import average, planes_near
from crosscope.prediction.images import (
    Fit,
    PredictionPlan,
    fit_models,
    fit_pixels,
    join_channels,
    models_by_channel,
    settle,
    tell_empty,
)
from crosscope.prediction.tiling import Sharpener, make_sharpener, make_tile, sharpen_tile

UNIT_PX = 16
"""Parts begin at multiples of it, as of every network's stride."""
VERSION = "0.5"
"""Of the OME-Zarr that is written where the input is none."""
_REDUCING = 0.05  # part of the time that the pyramid takes, for the progress bar


@dataclass(frozen=True, eq=False)
class Made:
    """What came of an image.

    Attributes
    ----------
    image, result : Image
        The input and the output; of a slide the pixels stand in.
    fit : Fit
    plan : PredictionPlan
        Settled: with the engine that was used.
    composite : Composite or None
    remarks : tuple of str
        What is worth a word, one sentence each.
    """

    image: Image
    result: Image
    fit: Fit
    plan: PredictionPlan
    composite: Composite | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What a process must know, beside the models, to do parts: plain values.

    Attributes
    ----------
    source, folder : str
        The slide, and the hidden folder with the canvas.
    plan : PredictionPlan
        Settled.
    axes : str
        Of the output.
    channels : tuple of int
        Of the slide, one for each channel of the output.
    """

    source: str
    folder: str
    plan: PredictionPlan
    axes: str
    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Workshop:
    """All that is needed to do a part, open.

    Attributes
    ----------
    job : Job
    slide : Slide
    canvas : Canvas
    sharpeners, zooms : tuples
        One for each channel of the output: the model at work, and target px per source px.
    made : dict
        The frames that the last part was made from: a rolling average needs two of them again.
    """

    job: Job
    slide: Slide
    canvas: Canvas
    sharpeners: tuple[Sharpener, ...]
    zooms: tuple[tuple[float, float], ...]
    made: dict["_Frame", Float32[np.ndarray, "y x"]] = field(default_factory=dict)

    def frames_of(self, part: Part) -> list[Part]:
        """Return what a part is made from: itself, or its rolling average's three."""
        weight, frames = self.job.plan.rolling_average, self.canvas.levels[0].shape[0]
        places = planes_near(part.place, self.job.axes, frames, weight)
        return [replace(part, place=place) for place in places]


_Frame = tuple[Place, int, int]
"""Of a part: its plane, and its corner."""
Models = tuple[Model, ...]
Run = Callable[[Job, Models, Sequence[Part], Callable[[float], None]], None]
"""Does parts of one level, and tells the share done."""


def predict_slide(
    models: Mapping[str, Model] | Model,
    source: Path,
    output: Path,
    *,
    plan: PredictionPlan,
    overwrite: bool = False,
    run: "Run | None" = None,
    note: str | None = None,
    watch: Callable[[float], None] = lambda done: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Made:
    """Predict an OME-Zarr or a large TIFF into an OME-Zarr or a BigTIFF, with a pyramid.

    Parameters
    ----------
    models : Model, or mapping of channel names to Model
    source, output : Path
        OME-Zarr where the name ends in .zarr (of the source's version, else 0.5).
    plan : PredictionPlan
    overwrite : bool
    run : callable, optional
        Does the parts elsewhere, on a cluster, say; else they are done here.
    note : str, optional
        Written into the output: a TIFF's description, an OME-Zarr's attribute "crosscope".
    watch, say : callables
        Told the part done, 0 to 1; told which engine was chosen, and why.

    Returns
    -------
    Made

    Raises
    ------
    ImageError
        As `open_slide`, `select_channel`, `fit_pixels`; or a part holds NaN.
    OutputError
        The output is in the way, is being written by another process, or the disk is too small.
    """
    with open_slide(source) as slide:
        image, version = slide.image, slide.version or VERSION
    fit, result = fit_models(models, image, plan=plan), foresee(models, image, plan=plan)
    named = {"": models} if isinstance(models, Model) else dict(models)
    chosen = [plan.sized(select_channel(image, channel=name or plan.channel)) for name in named]
    plan = replace(plan, tile_px=-(-plan.tile_px // UNIT_PX) * UNIT_PX)
    copied = not is_zarr(output)
    needed_bytes = result.pixels.size * result.pixels.dtype.itemsize * (4 / 3) * (1 + copied)

    with unfinished_folder(output, overwrite=overwrite, needed_bytes=needed_bytes) as folder:
        digest = sha256(source)
        earlier = read_about(folder / "image.zarr")
        hashes = {name: _sha256_of(model, folder) for name, model in named.items()}

        def tell_about(plan: PredictionPlan) -> dict[str, Any]:
            return {
                "input": [image.name, digest, list(image.pixels.shape), str(image.pixels.dtype)],
                "models": hashes,
                "plan": {key: value for key, value in asdict(plan).items() if value is not None},
                "versions": {n: version_of(n) for n in ("crosscope", plan.settled.backend)},
                **({"note": note} if note else {}),
            }

        again = _with_engine_of(plan, earlier)
        if again and {**tell_about(again), "tile_px": plan.tile_px} == earlier:
            plan = again  # of the run that was killed: its parts and these must be alike
        else:
            plan = settle(plan, next(iter(named.values())), chosen[0], say)
        (folder / "image.zarr").mkdir(exist_ok=True)
        canvas = create_canvas(
            folder / "image.zarr",
            result,
            version=version,
            tile_px=plan.tile_px,
            about=tell_about(plan),
            compressed=not copied,
        )
        job = Job(
            source=str(source.absolute()),
            folder=str(folder.absolute()),
            plan=plan,
            axes=result.axes,
            channels=tuple(index_of_channel(image, each) for each in chosen),
        )
        before = 0.0
        for level in range(len(canvas.levels)):
            parts = [part for part in list_parts(canvas, level) if not is_written(canvas, part)]
            if plan.rolling_average:  # frame by frame of a place: each is predicted once
                parts.sort(key=lambda p: (p.y.start, p.x.start, p.place[1:], p.place))
            after = 1 - _REDUCING / 4**level
            if parts:
                tell = _within(watch, before, after)
                (run or run_here)(job, tuple(named.values()), parts, tell)
            before = after
        composite = None
        if not isinstance(models, Model):
            overview = read_overview(canvas, result, most_px=MOST_PX)
            composite = draw_composite(_coarser(result, overview))
        one = chosen[0] if isinstance(models, Model) else image
        remarks = _find_empty(source, one, job.channels)
        deliver(canvas, replace(result, note=note), output, version=version)
    watch(1.0)
    image = image.with_pixels(image.pixels, sha256=digest)
    return Made(image, result, fit, plan, composite, remarks)


def foresee(models: Mapping[str, Model] | Model, image: Image, *, plan: PredictionPlan) -> Image:
    """Return what becomes of an image, its pixels standing in: the grid of the output.

    Raises ImageError, DomainError and ModelError as predicting it does.
    """
    results = []
    for name, model in models_by_channel(models, plan).items():
        chosen = plan.sized(select_channel(image, channel=name))
        fit = fit_pixels(model, chosen, force=plan.force)
        shape = (*chosen.pixels.shape[:-2], *zoomed_shape(chosen.pixels.shape[-2:], fit.zoom))
        pixels = stand_in(shape, np.float32)
        results.append(chosen.with_pixels(pixels, pixel_size_nm=fit.pixel_size_nm))
    if isinstance(models, Model):
        return results[0]
    return join_channels(list(models), results, stack=_stand_in_stack)


def run_here(
    job: Job, models: Models, parts: Sequence[Part], watch: Callable[[float], None]
) -> None:
    """Do parts in this process: the next is read and the last is written meanwhile."""
    if parts[0].level:
        canvas = open_canvas(Path(job.folder) / "image.zarr")
        with ThreadPoolExecutor(count_cores()) as pool:
            for n, _ in enumerate(pool.map(partial(reduce_part, canvas), parts)):
                watch((n + 1) / len(parts))
        return
    workshop = open_workshop(job, models)
    with workshop.slide, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = [reader.submit(read_part, workshop, part) for part in parts[:1]]
        writing: list[Future[None]] = []
        for n, part in enumerate(parts):
            blocks = reading.pop().result()
            reading += [reader.submit(read_part, workshop, after) for after in parts[n + 1 : n + 2]]
            made = sharpen_part(workshop, part, blocks)
            if writing:
                writing.pop().result()
            writing.append(writer.submit(write_part, workshop.canvas, part, made))
            watch((n + 1) / len(parts))
        for last in writing:
            last.result()


def do_part(job: Job, models: Models, part: Part) -> None:
    """Do one part, of the full resolution or of a coarser level: what a cluster's worker does."""
    workshop = keep_workshop(job, models)
    if part.level:
        reduce_part(workshop.canvas, part)
        return
    blocks = read_part(workshop, part)
    write_part(workshop.canvas, part, sharpen_part(workshop, part, blocks))


def open_workshop(job: Job, models: Models) -> Workshop:
    """Open what `predict_slide` laid out in its hidden folder, in this process or another."""
    plan = job.plan
    if not Path(job.folder).is_dir():
        reason = f"is not to be seen from {platform.node()}"
        raise OutputError(job.folder, reason, "Give workers the same files under the same names")
    canvas, slide = open_canvas(Path(job.folder) / "image.zarr"), open_slide(Path(job.source))
    image = plan.sized(slide.image)
    engine = plan.settled
    sharpeners = (
        make_sharpener(
            blend(model, plan.fidelity),
            engine=engine,
            source_scaling=plan.scaling(model),
            exact=plan.exact,
        )
        for model in models
    )
    return Workshop(
        job=job,
        slide=slide,
        canvas=canvas,
        sharpeners=tuple(sharpeners),
        zooms=tuple(fit_pixels(model, image, force=True).zoom for model in models),
    )


keep_workshop = lru_cache(maxsize=1)(open_workshop)
"""Opened once for all the parts that a process does."""


@dataclass(frozen=True, eq=False)
class Block:
    """A part with its halo, grey values of the source on the target's grid, and where it begins."""

    pixels: Num[np.ndarray, "1 y x"]
    y_px: int
    x_px: int

    def read(self, y: slice, x: slice) -> Num[np.ndarray, "1 _y _x"]:
        """Return what lies between these pixels of the plane."""
        return self.pixels[
            :, y.start - self.y_px : y.stop - self.y_px, x.start - self.x_px : x.stop - self.x_px
        ]


def read_part(workshop: Workshop, part: Part) -> list[Block]:
    """Read what a part is made from, a block a frame; raise ImageError where one is not finite."""
    return [_read_frame(workshop, frame) for frame in workshop.frames_of(part)]


def sharpen_part(
    workshop: Workshop, part: Part, blocks: Sequence[Block]
) -> Float32[np.ndarray, "y x"]:
    """Predict a part from what was read for it."""
    frames = workshop.frames_of(part)
    made: dict[_Frame, Float32[np.ndarray, "y x"]] = {}
    names = [(frame.place, frame.y.start, frame.x.start) for frame in frames]
    for name, frame, block in zip(names, frames, blocks, strict=True):
        known = made.get(name, workshop.made.get(name))
        made[name] = _sharpen_frame(workshop, frame, block) if known is None else known
    workshop.made.clear()
    workshop.made.update(made)
    return average([made[name] for name in names], workshop.job.plan.rolling_average)


def _read_frame(workshop: Workshop, part: Part) -> Block:
    at = dict(zip(workshop.job.axes[:-2], part.place, strict=True))
    which = at.get("c", 0)
    at["c"] = workshop.job.channels[which]
    image = workshop.slide.image
    place = tuple(at[axis] for axis in image.axes[:-2])
    sharpener, shape = workshop.sharpeners[which], workshop.canvas.levels[0].shape[-2:]
    y, x = (
        make_tile(s.start, s.stop, n, sharpener)
        for s, n in zip((part.y, part.x), shape, strict=True)
    )
    rows, columns = (
        slice(t.read_start, min(t.read_stop, n)) for t, n in zip((y, x), shape, strict=True)
    )
    pixels = resample_part(
        lambda v, u: workshop.slide.read(place, v, u),
        image.pixels.shape[-2:],
        workshop.zooms[which],
        rows,
        columns,
    )
    if not np.isfinite(pixels).all():
        at |= {"y": round(rows.start / workshop.zooms[which][0])}
        at |= {"x": round(columns.start / workshop.zooms[which][1])}
        named = " ".join(f"{axis} {at[axis]}" for axis in image.axes)
        reason = f"has pixels that are NaN or infinite at about {named}, counted from 0"
        raise ImageError(image.name, reason, "Crop them away or fill them in before use")
    return Block(pixels[None], rows.start, columns.start)


def _sharpen_frame(workshop: Workshop, part: Part, block: Block) -> Float32[np.ndarray, "y x"]:
    which = dict(zip(workshop.job.axes[:-2], part.place, strict=True)).get("c", 0)
    sharpener, shape = workshop.sharpeners[which], workshop.canvas.levels[0].shape[-2:]
    y, x = (
        make_tile(s.start, s.stop, n, sharpener)
        for s, n in zip((part.y, part.x), shape, strict=True)
    )
    return sharpen_tile(sharpener, block.read, shape, y, x)[0]


def _sha256_of(model: Model, folder: Path) -> str | None:
    """Return that of its file, which one that was never saved is given for the while."""
    return model.sha256 or model.save(folder / "model.zip", overwrite=True).sha256


def _stand_in_stack(planes: Sequence[Num[np.ndarray, "*shape"]], *, axis: int) -> Any:
    shape = list(planes[0].shape)
    shape.insert(axis, len(planes))
    return stand_in(tuple(shape), planes[0].dtype)


def _find_empty(source: Path, image: Image, channels: Sequence[int]) -> tuple[str, ...]:
    """Do what `find_empty` does; a plane is read until two pixels differ, mostly one chunk."""
    with open_slide(source) as slide:
        axes, shape = slide.image.axes, slide.image.pixels.shape
        places = (
            place
            for place in np.ndindex(*shape[:-2])
            if "c" in image.axes or dict(zip(axes, place, strict=False)).get("c", 0) in channels
        )
        limits = np.array([_limits(slide, place) for place in places])
    return tell_empty(limits.T.reshape(2, *image.pixels.shape[:-2]), image.axes)


def _limits(slide: Slide, place: Place) -> tuple[float, float]:
    """Return the least and the largest grey value of what is read of a plane until they differ."""
    height, width = slide.image.pixels.shape[-2:]
    low, high = math.inf, -math.inf
    for y, x in itertools.product(range(0, height, CHUNK_PX), range(0, width, CHUNK_PX)):
        rows, columns = slice(y, min(y + CHUNK_PX, height)), slice(x, min(x + CHUNK_PX, width))
        block = slide.read(place, rows, columns)
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        if low < high:
            break
    return low, high


def _with_engine_of(
    plan: PredictionPlan, earlier: Mapping[str, Any] | None
) -> PredictionPlan | None:
    """Return the plan with the engine of an earlier run; None where it asks for another."""
    said = (earlier or {}).get("plan", {})
    engine = {name: said.get(name) for name in ("engine", "threads", "precision")}
    if None in engine.values() or any(
        getattr(plan, name) not in (None, value) for name, value in engine.items()
    ):
        return None
    return replace(plan, **engine)


def _coarser(image: Image, pixels: Num[np.ndarray, "c y x"]) -> Image:
    assert image.pixel_size_nm is not None
    y, x = (
        size * n / m
        for size, n, m in zip(
            image.pixel_size_nm, image.pixels.shape[-2:], pixels.shape[-2:], strict=True
        )
    )
    return image.with_pixels(pixels, axes="cyx", pixel_size_nm=(y, x))


def _within(watch: Callable[[float], None], first: float, last: float) -> Callable[[float], None]:
    return lambda done: watch(first + done * (last - first))
