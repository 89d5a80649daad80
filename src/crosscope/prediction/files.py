"""Model + file or folder -> the same kind, and a JSON sidecar that says how it was made.

Models of several channels give a colour composite, too: sharp.png beside sharp.tif.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from crosscope.data.errors import CrosscopeError, DomainError, ImageError, OutputError
from crosscope.data.files import discard, require_free, write_json, writing
from crosscope.data.images import (
    Image,
    list_images,
    read_image,
    require_finite,
    select_channel,
    write_image,
)
from crosscope.data.slides import (
    Slide,
    cut_parts,
    is_slide,
    is_zarr,
    open_slide,
    slide_of,
    stand_in,
    write_slide,
)
from crosscope.model.engine import describe_device
from crosscope.model.model import Model
from crosscope.prediction.bounds import (
    lower_bound,
    mark_part,
    plan_bounds,
    read_calibration,
    upper_bound,
)
from crosscope.prediction.cluster import Cluster
from crosscope.prediction.composite import PERCENTILES, Composite, draw_composite
from crosscope.prediction.images import (
    PredictionPlan,
    find_empty,
    fit_channels,
    fit_models,
    fit_pixels,
    predict,
    predict_channels,
    settle,
    tell_idle,
)
from crosscope.prediction.slides import VERSION, Made, Run, predict_slide
from crosscope.prediction.tiling import TILE_PX

Models = Mapping[str, Model] | Model
Aside = Callable[[str], Path]
"""From what an image is, "trust" say, to where it lies beside an output."""
_NAMES = (  # of an entry in the sidecar
    *("input", "output", "input_sha256", "model_sha256", "pixel_size_nm"),
    *("domain", "verdict", "reasons", "seconds"),
)
_BOUNDS = ("low", "high", "sure")
_COMPOSITE = "composite"
_PREDICTING = 0.8  # part of the time, where the output is inspected, too


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is to be thought of an image, or how far what was made of it can be believed.

    Attributes
    ----------
    domain : "inside", "near", "outside" or None
        Whether the model was made for such images; None where nobody knows.
    verdict : "good", "doubtful", "refused" or None
        None where it was not judged.
    reasons : tuple of str
    numbers : mapping
        What was measured: "distance" (1 is as far as a training field may be) and "signal"; of an
        output "level", "chi_square", "rsp", "rse", "beyond_share", "claimed_resolution_nm" and,
        of level full, "sisters_beyond_share". A None has its reason beside it: "rsp_reason",
        "claimed_resolution_reason".
    trust : Image or None
        The trust map, of an output in memory.
    """

    domain: str | None = None
    verdict: str | None = None
    reasons: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    trust: Image | None = None


@runtime_checkable
class Inspector(Protocol):
    """Judges an image before it is predicted, and what was made of it: `quality.inspection`."""

    def admit(self, models: Models, image: Slide, plan: PredictionPlan) -> Verdict:
        """Say whether the models were made for an image; raise DomainError where not."""

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
        """Say how far an output can be believed, and write its trust map."""


@dataclass(frozen=True)
class Failure:
    """A file of a folder that could not be done, and why."""

    path: Path
    error: CrosscopeError

    @property
    def entry(self) -> dict[str, Any]:
        """What the sidecar says of it."""
        said: dict[str, Any] = {"input": str(self.path), "reasons": [str(self.error)]}
        if isinstance(self.error, DomainError):
            said |= {"domain": "outside", "verdict": "refused"}
        return dict.fromkeys(_NAMES) | said

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return self.error.exit_code


@dataclass(frozen=True)
class Predicted:
    """What became of the files.

    Attributes
    ----------
    outputs : list of dict
        One entry an image, as in the sidecar.
    failures : list of Failure
    """

    outputs: list[dict[str, Any]]
    failures: list[Failure]


@dataclass(frozen=True)
class _Work:
    """What is the same for all files of a call."""

    models: Models
    plan: PredictionPlan
    overwrite: bool
    inspector: Inspector | None
    bounds: tuple[Models, Models] | None
    earlier: Mapping[str, frozenset[str]]
    sidecar: Path


def predict_files(
    models: Models,
    source: Path,
    output: Path,
    *,
    plan: PredictionPlan | None = None,
    overwrite: bool = False,
    cluster: Cluster | None = None,
    inspector: Inspector | None = None,
    intervals: bool = False,
    watch: Callable[[float], None] = lambda done: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Predicted:
    """Predict a file, or every image of a folder, and write OUTPUT and OUTPUT.json.

    An OME-Zarr or a large TIFF is done part by part, see `predict_slide`; with a `cluster`, its
    parts, or the images of a folder, are spread over the workers. In a folder what can be done is
    done; the rest is listed. Each image appears under its final name when it is complete, the
    sidecar last. With a model for each channel, every output has a colour composite beside it, of
    its name but for .png; the sidecar says how it shows them. `say` is told which engine was
    chosen, and why.

    An `inspector` judges every image before and after, and writes a trust map: sharp.trust.tif
    beside sharp.tif, of a folder trust/NAME in it.

    With `intervals` the bounds of every pixel, and what is sure of it, lie there in the same way,
    as low, high and sure: see `bounds`. It takes as long as three predictions in float32.

    What is overwritten first loses what an earlier call laid beside it, its sidecar, too: a trust
    map is never of another output than it lies by.

    Raises
    ------
    CrosscopeError
        The one file cannot be done, or the output is in the way; or a model has no intervals, or
        none for such a plan: nothing is predicted then.
    """
    plan = plan or PredictionPlan()
    bounds = None
    if intervals:
        plan = plan_bounds(plan)
        _calibrations_of(models)
        bounds = _bounded(models, lower_bound), _bounded(models, upper_bound)
    if cluster:  # as many at a time as there are workers, which may be in other folders than we
        plan = replace(plan, threads=plan.threads or 1)
        source, output = source.absolute(), output.absolute()
    require_free(output, overwrite=overwrite, inputs=[source])
    sidecar = output.with_name(output.name + ".json")
    require_free(sidecar, overwrite=overwrite)
    folder = source.is_dir() and not is_zarr(source)
    files = list_images(source) if folder else [source]
    if folder and len({file.stem for file in files}) < len(files):
        reason = "has images of one name that differ only in their last suffix"
        raise ImageError(source, reason, "Rename one of them")
    if not folder and output.suffix.lower() not in (".tif", ".tiff", ".zarr"):
        reason = "is not the name of a TIFF file or an OME-Zarr"
        raise OutputError(output, reason, "End it in .ome.tif or .ome.zarr")
    if is_zarr(source) and output.resolve().is_relative_to(source.resolve()):
        raise OutputError(output, f"lies in {source}, which must stay", "Choose another name")
    if not folder and not isinstance(models, Model):
        require_free(output.with_suffix(".png"), overwrite=overwrite, inputs=[source])
    aside = partial(_name_beside, output)
    if not folder:
        for what in (*(["trust"] if inspector else []), *(_BOUNDS if intervals else [])):
            require_free(aside(what), overwrite=overwrite, inputs=[source])
    work = _Work(models, plan, overwrite, inspector, bounds, _read_earlier(sidecar), sidecar)
    if folder:
        files_to = [(file, output / f"{file.stem}.tif") for file in files]
        for file, to in files_to:
            _discard_earlier(work, file, to, partial(_name_in_folder, to))
        discard(sidecar)
        found = _predict_all(work, files_to, cluster, watch, say)
    else:
        run = cluster.run if cluster else None
        found = [_predict_file(work, source, output, aside, run, watch, say)]
    failures = [failure for failure in found if isinstance(failure, Failure)]
    outputs = [each.entry if isinstance(each, Failure) else each for each in found]
    write_json(sidecar, {"outputs": outputs}, overwrite=overwrite)
    return Predicted(outputs, failures)


def _name_in_folder(output: Path, what: str) -> Path:
    """Return where the trust map, say, of an output in a folder lies."""
    return output.parent / what / output.name


def _name_beside(output: Path, what: str) -> Path:
    """Return where the trust map, say, of an output lies: sharp.trust.ome.tif of sharp.ome.tif."""
    name, dot, suffixes = output.name.rpartition(".ome.")
    if not name:
        name, dot, suffixes = output.name.rpartition(".")
    return output.with_name(f"{name}.{what}{dot}{suffixes}")


def _read_earlier(sidecar: Path) -> dict[str, frozenset[str]]:
    """Return what an earlier call laid beside each output: "low", say; nothing where unreadable."""
    try:
        entries = json.loads(sidecar.read_text(encoding="utf-8"))["outputs"]
        return {Path(entry["output"]).name: _beside(entry) for entry in entries if entry["output"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _beside(entry: Mapping[str, Any]) -> frozenset[str]:
    """Return what lies beside an output, by its entry in the sidecar."""
    found = {"trust"} if "trust" in entry.get("quality", ()) else set()
    found |= {what for what in _BOUNDS if "intervals" in entry}
    return frozenset(found | ({_COMPOSITE} & entry.keys()))


def _predict_all(
    work: _Work,
    files_to: Sequence[tuple[Path, Path]],
    cluster: Cluster | None,
    watch: Callable[[float], None],
    say: Callable[[str], None],
) -> list[dict[str, Any] | Failure]:
    """Predict files one after the other; once the engine is known, on a cluster where given."""
    found: list[dict[str, Any] | Failure] = []
    for n, file_to in enumerate(files_to):
        plan = work.plan
        if cluster and plan.engine and plan.threads and plan.precision:
            return found + cluster.do_all(_try_file, work, files_to[n:], watch)

        def tell(done: float, n: int = n) -> None:
            watch((n + done) / len(files_to))

        found.append(_try_file(work, file_to, watch=tell, say=say))
        if not isinstance(found[-1], Failure):  # what was measured for one holds for all
            engine = {name: found[-1]["plan"][name] for name in ("engine", "threads", "precision")}
            work = replace(work, plan=replace(plan, **engine))
    return found


def _try_file(
    work: _Work,
    file_to: tuple[Path, Path],
    *,
    watch: Callable[[float], None] = lambda done: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any] | Failure:
    file, to = file_to
    try:
        return _predict_file(work, file, to, partial(_name_in_folder, to), None, watch, say)
    except CrosscopeError as error:
        return Failure(file, error)


def _discard_earlier(work: _Work, source: Path, output: Path, aside: Aside) -> None:
    """Remove what an earlier call laid beside an output."""
    for what in work.earlier.get(output.name, frozenset()):
        earlier = output.with_suffix(".png") if what == _COMPOSITE else aside(what)
        if earlier.resolve() != source.resolve():
            discard(earlier)


def _predict_file(
    work: _Work,
    source: Path,
    output: Path,
    aside: Aside,
    run: Run | None,
    watch: Callable[[float], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    began = time.monotonic()
    models, plan, overwrite, inspector = work.models, work.plan, work.overwrite, work.inspector
    by_parts = bool(run) or is_slide(source) or is_zarr(output)
    share = 1.0 if inspector is None else _PREDICTING
    passes = 3 if work.bounds else 1
    bounds: dict[str, Any] = {}

    def predicting(nth: int) -> Callable[[float], None]:
        return lambda done: watch(share * (nth + done) / passes)

    image = None if by_parts else read_image(source)
    with slide_of(image) if image else open_slide(source) as slide:
        judged = inspector.admit(models, slide, plan) if inspector else Verdict()
        note = _tell_forced(models, slide.image, plan, judged)
        _discard_earlier(work, source, output, aside)
        discard(work.sidecar)
        made = _make(work, image or source, output, run, note, predicting(0), say)
        if work.bounds:
            low, high = (
                _make(
                    replace(work, models=bound, plan=made.plan),
                    image or source,
                    aside(what),
                    run,
                    note,
                    predicting(nth),
                    say,
                )
                for nth, what, bound in zip((1, 2), ("low", "high"), work.bounds, strict=True)
            )
            _write_sure(work, low, high, aside, by_parts=by_parts)
            bounds = _tell_bounds(models, aside)
        if inspector:
            with slide_of(made.result) if image else open_slide(output) as result:
                judged = inspector.inspect(
                    models,
                    slide,
                    result,
                    made.plan,
                    admitted=judged,
                    trust=aside("trust"),
                    by_parts=by_parts,
                    overwrite=overwrite,
                    watch=lambda done: watch(share + (1 - share) * done),
                )
    domain = judged.domain if inspector else made.fit.domain
    libraries = dict.fromkeys(("torch", made.plan.settled.backend))
    remarks = made.remarks + tell_idle(models, made.image, plan)
    if bounds and domain in ("near", "outside"):
        remarks += ("its intervals may not hold: they were calibrated on other images",)
    if made.composite:
        with writing(output.with_suffix(".png"), overwrite=overwrite) as part:
            part.write_bytes(made.composite.png)
    return {
        "input": str(source),
        "output": str(output),
        "input_sha256": made.image.sha256,
        "model_sha256": models.sha256
        if isinstance(models, Model)
        else {name: model.sha256 for name, model in models.items()},
        "pixel_size_nm": made.result.pixel_size_nm,
        "domain": domain,
        "verdict": judged.verdict,
        "reasons": [*judged.reasons, *made.fit.reasons, *remarks, *made.image.assumed],
        "seconds": round(time.monotonic() - began, 3),
        "plan": {key: value for key, value in asdict(made.plan).items() if value is not None},
        "versions": {name: version(name) for name in ("crosscope", "numpy", *libraries)},
        "device": describe_device(),
        **({"quality": dict(judged.numbers)} if inspector else {}),
        **({"intervals": bounds} if bounds else {}),
        **(_shown(made.composite, output) if made.composite else {}),
    }


def _make(
    work: _Work,
    source: Image | Path,
    output: Path,
    run: Run | None,
    note: str | None,
    watch: Callable[[float], None],
    say: Callable[[str], None],
) -> Made:
    """Predict an image in memory, or a file part by part, and write it, with a note in it."""
    if isinstance(source, Path):
        return predict_slide(
            work.models,
            source,
            output,
            plan=work.plan,
            overwrite=work.overwrite,
            run=run,
            note=note,
            watch=watch,
            say=say,
        )
    made = _predict_image(work.models, source, plan=work.plan, watch=watch, say=say)
    write_image(replace(made.result, note=note), output, overwrite=work.overwrite)
    return made


def _tell_forced(models: Models, image: Image, plan: PredictionPlan, judged: Verdict) -> str | None:
    """Return what an output says of itself where it was refused, and forced; else None."""
    if not plan.force:
        return None
    fit = fit_models(models, image, plan=plan)
    if "outside" not in (judged.domain, fit.domain):
        return None
    return f"crosscope: refused (outside): {'; '.join((*judged.reasons, *fit.reasons))}; forced"


def _predict_image(
    models: Models,
    image: Image,
    *,
    plan: PredictionPlan,
    watch: Callable[[float], None],
    say: Callable[[str], None],
) -> Made:
    """Predict an image in memory."""
    if isinstance(models, Model):
        image = select_channel(image, channel=plan.channel)
        fit = fit_pixels(models, plan.sized(image), force=plan.force)
        require_finite(image)  # before anything is measured or said
        plan = settle(plan, models, image, say)
        result = predict(models, image, plan=plan, watch=watch)
        return Made(image, result, fit, plan, None, find_empty(image))
    fit = fit_channels(models, image, plan=plan)
    plan = settle(plan, next(iter(models.values())), image, say)
    result = predict_channels(models, image, plan=plan, watch=watch)
    return Made(image, result, fit, plan, draw_composite(result), find_empty(image))


# --- intervals ------------------------------------------------------------------------------------


def _calibrations_of(models: Models) -> dict[str, dict[str, Any]]:
    """Return what the sidecar says of each model's; raise ModelError where one has none."""
    named = {"the model": models} if isinstance(models, Model) else models
    return {name: read_calibration(model, name).entry for name, model in named.items()}


def _bounded(models: Models, bound: Callable[[Model], Model]) -> Models:
    """Return models that give a bound."""
    if isinstance(models, Model):
        return bound(models)
    return {name: bound(model) for name, model in models.items()}


def _write_sure(work: _Work, low: Made, high: Made, aside: Aside, *, by_parts: bool) -> None:
    """Write what is sure, by the two bounds, which are on the disk."""
    models = [work.models] if isinstance(work.models, Model) else list(work.models.values())
    shape = low.result.pixels.shape
    if not by_parts:
        pixels = np.empty(shape, np.uint8)
        with slide_of(low.result) as below, slide_of(high.result) as above:
            for part in cut_parts(shape, max(shape)):
                at: tuple[Any, ...] = (*part.place, part.y, part.x)
                pixels[at] = mark_part(models, below, above, part)
        write_image(low.result.with_pixels(pixels), aside("sure"), overwrite=work.overwrite)
        return
    with open_slide(aside("low")) as below, open_slide(aside("high")) as above:
        write_slide(
            low.result.with_pixels(stand_in(shape, np.uint8)),
            aside("sure"),
            partial(mark_part, models, below, above),
            version=below.version or VERSION,
            tile_px=TILE_PX,
            overwrite=work.overwrite,
        )


def _tell_bounds(models: Models, aside: Aside) -> dict[str, Any]:
    """Return the sidecar's entry; with a model for each channel, what is said of each."""
    said = _calibrations_of(models)
    (first, *_) = said.values()
    if not isinstance(models, Model):
        first = {key: {name: each[key] for name, each in said.items()} for key in first}
    return {what: str(aside(what)) for what in _BOUNDS} | first


def _shown(composite: Composite, output: Path) -> dict[str, Any]:
    return {
        _COMPOSITE: {
            "file": str(output.with_suffix(".png")),
            "percentiles": PERCENTILES,
            "channels": [asdict(channel) for channel in composite.channels],
        }
    }
