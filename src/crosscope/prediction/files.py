"""Model + file or folder -> the same kind, and a JSON sidecar that says how it was made.

Models of several channels give a colour composite, too: sharp.png beside sharp.tif.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from crosscope.data.errors import CrosscopeError, DomainError, ImageError, OutputError
from crosscope.data.files import require_free, write_json, writing
from crosscope.data.images import (
    Image,
    list_images,
    read_image,
    require_finite,
    select_channel,
    write_image,
)
from crosscope.data.slides import Slide, is_slide, is_zarr, open_slide, slide_of
from crosscope.model.model import Model
from crosscope.prediction.cluster import Cluster
from crosscope.prediction.composite import PERCENTILES, Composite, draw_composite
from crosscope.prediction.images import (
    PredictionPlan,
    find_empty,
    fit_channels,
    fit_pixels,
    predict,
    predict_channels,
    settle,
    tell_twinless,
)
from crosscope.prediction.slides import Made, Run, predict_slide

Models = Mapping[str, Model] | Model
_NAMES = (  # of an entry in the sidecar
    *("input", "output", "input_sha256", "model_sha256", "pixel_size_nm"),
    *("domain", "verdict", "reasons", "seconds"),
)
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
        output "chi_square", "rsp", "rse", "beyond_share" and, where the model has claims,
        "claimed_resolution_nm".
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


def predict_files(
    models: Models,
    source: Path,
    output: Path,
    *,
    plan: PredictionPlan | None = None,
    overwrite: bool = False,
    cluster: Cluster | None = None,
    inspector: Inspector | None = None,
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

    Raises
    ------
    CrosscopeError
        The one file cannot be done, or the output is in the way.
    """
    plan = plan or PredictionPlan()
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
    if not folder and inspector:
        require_free(trust_beside(output), overwrite=overwrite, inputs=[source])
    work = _Work(models, plan, overwrite, inspector)
    if folder:
        files_to = [(file, output / f"{file.stem}.tif") for file in files]
        found = _predict_all(work, files_to, cluster, watch, say)
    else:
        run = cluster.run if cluster else None
        found = [_predict_file(work, source, output, trust_beside(output), run, watch, say)]
    failures = [failure for failure in found if isinstance(failure, Failure)]
    outputs = [each.entry if isinstance(each, Failure) else each for each in found]
    write_json(sidecar, {"outputs": outputs}, overwrite=overwrite)
    return Predicted(outputs, failures)


def trust_beside(output: Path) -> Path:
    """Return where the trust map of an output lies: sharp.trust.ome.tif of sharp.ome.tif."""
    name, dot, suffixes = output.name.rpartition(".ome.")
    if not name:
        name, dot, suffixes = output.name.rpartition(".")
    return output.with_name(f"{name}.trust{dot}{suffixes}")


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
        return _predict_file(work, file, to, to.parent / "trust" / to.name, None, watch, say)
    except CrosscopeError as error:
        return Failure(file, error)


def _predict_file(
    work: _Work,
    source: Path,
    output: Path,
    trust: Path,
    run: Run | None,
    watch: Callable[[float], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    began = time.monotonic()
    models, plan, overwrite, inspector = work.models, work.plan, work.overwrite, work.inspector
    by_parts = bool(run) or is_slide(source) or is_zarr(output)
    share = 1.0 if inspector is None else _PREDICTING

    def predicting(done: float) -> None:
        watch(share * done)

    image = None if by_parts else read_image(source)
    with slide_of(image) if image else open_slide(source) as slide:
        judged = inspector.admit(models, slide, plan) if inspector else Verdict()
        if image:
            made = _predict_image(models, image, plan=plan, watch=predicting, say=say)
            write_image(made.result, output, overwrite=overwrite)
        else:
            made = predict_slide(
                models,
                source,
                output,
                plan=plan,
                overwrite=overwrite,
                run=run,
                watch=predicting,
                say=say,
            )
        if inspector:
            with slide_of(made.result) if image else open_slide(output) as result:
                judged = inspector.inspect(
                    models,
                    slide,
                    result,
                    made.plan,
                    admitted=judged,
                    trust=trust,
                    by_parts=by_parts,
                    overwrite=overwrite,
                    watch=lambda done: watch(share + (1 - share) * done),
                )
    libraries = dict.fromkeys(("torch", made.plan.engine or "torch"))
    remarks = made.remarks + tell_twinless(models, plan)
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
        "domain": judged.domain if inspector else made.fit.domain,
        "verdict": judged.verdict,
        "reasons": [*judged.reasons, *made.fit.reasons, *remarks, *made.image.assumed],
        "seconds": round(time.monotonic() - began, 3),
        "plan": {key: value for key, value in asdict(made.plan).items() if value is not None},
        "versions": {name: version(name) for name in ("crosscope", "numpy", *libraries)},
        **({"quality": dict(judged.numbers)} if inspector else {}),
        **(_shown(made.composite, output) if made.composite else {}),
    }


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


def _shown(composite: Composite, output: Path) -> dict[str, Any]:
    return {
        "composite": {
            "file": str(output.with_suffix(".png")),
            "percentiles": PERCENTILES,
            "channels": [asdict(channel) for channel in composite.channels],
        }
    }
