"""Model + file or folder -> the same kind, and a JSON sidecar that says how it was made.

Models of several channels give a colour composite, too: sharp.png beside sharp.tif.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crosscope.data.errors import CrosscopeError, ImageError, OutputError
from crosscope.data.files import require_free, write_json, writing
from crosscope.data.images import (
    Image,
    list_images,
    read_image,
    require_finite,
    select_channel,
    write_image,
)
from crosscope.model.model import Model
from crosscope.prediction.composite import PERCENTILES, Composite, draw_composite
from crosscope.prediction.images import (
    PredictionPlan,
    fastest_engine,
    find_empty,
    fit_channels,
    fit_pixels,
    predict,
    predict_channels,
)

_NAMES = (  # of an entry in the sidecar
    *("input", "output", "input_sha256", "model_sha256", "pixel_size_nm"),
    *("domain", "verdict", "reasons", "seconds"),
)


@dataclass(frozen=True)
class Failure:
    """A file of a folder that could not be done, and why."""

    path: Path
    error: CrosscopeError


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


def predict_files(
    models: Mapping[str, Model] | Model,
    source: Path,
    output: Path,
    *,
    plan: PredictionPlan | None = None,
    overwrite: bool = False,
    watch: Callable[[float], None] = lambda done: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Predicted:
    """Predict a file, or every image of a folder, and write OUTPUT and OUTPUT.json.

    In a folder what can be done is done; the rest is listed. Each image appears under its final
    name when it is complete, the sidecar last. With a model for each channel, every output has a
    colour composite beside it, of its name but for .png; the sidecar says how it shows them.
    `say` is told which engine was chosen, and why.

    Raises
    ------
    CrosscopeError
        The one file cannot be done, or the output is in the way.
    """
    plan = plan or PredictionPlan()
    require_free(output, overwrite=overwrite, inputs=[source])
    sidecar = output.with_name(output.name + ".json")
    require_free(sidecar, overwrite=overwrite)
    folder = source.is_dir()
    files = list_images(source) if folder else [source]
    if folder and len({file.stem for file in files}) < len(files):
        reason = "has images of one name that differ only in their last suffix"
        raise ImageError(source, reason, "Rename one of them")
    if not folder and output.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(output, "is not the name of a TIFF file", "End it in .ome.tif")
    if not folder and not isinstance(models, Model):
        require_free(output.with_suffix(".png"), overwrite=overwrite, inputs=[source])
    outputs, failures = [], []
    for n, file in enumerate(files):
        to = output / f"{file.stem}.tif" if folder else output
        try:
            entry = _predict_file(
                models,
                file,
                to,
                plan=plan,
                overwrite=overwrite,
                watch=lambda done, n=n: watch((n + done) / len(files)),  # type: ignore[misc]
                say=say,
            )
            outputs.append(entry)
            # what was measured for the first holds for all
            settled = {name: entry["plan"][name] for name in ("engine", "threads", "precision")}
            plan = replace(plan, **settled)
        except CrosscopeError as error:
            if not folder:
                raise
            failures.append(Failure(file, error))
            nothing = dict.fromkeys(_NAMES)
            outputs.append(nothing | {"input": str(file), "reasons": [str(error)]})
    write_json(sidecar, {"outputs": outputs}, overwrite=overwrite)
    return Predicted(outputs, failures)


def _predict_file(
    models: Mapping[str, Model] | Model,
    source: Path,
    output: Path,
    *,
    plan: PredictionPlan,
    overwrite: bool,
    watch: Callable[[float], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    began = time.monotonic()
    image = read_image(source)
    hashes: str | dict[str, str | None] | None
    composite = None
    if isinstance(models, Model):
        image = select_channel(image, channel=plan.channel)
        fit = fit_pixels(models, plan.sized(image), force=plan.force)
        require_finite(image)  # before anything is measured or said
        plan = _settled(plan, models, image, say)
        result = predict(models, image, plan=plan, watch=watch, say=say)
        hashes = models.sha256
    else:
        fit = fit_channels(models, image, plan=plan)
        plan = _settled(plan, next(iter(models.values())), image, say)
        result = predict_channels(models, image, plan=plan, watch=watch, say=say)
        hashes = {name: model.sha256 for name, model in models.items()}
        composite = draw_composite(result)
    libraries = dict.fromkeys(("torch", plan.engine or "torch"))
    write_image(result, output, overwrite=overwrite)
    if composite:
        with writing(output.with_suffix(".png"), overwrite=overwrite) as part:
            part.write_bytes(composite.png)
    return {
        "input": str(source),
        "output": str(output),
        "input_sha256": image.sha256,
        "model_sha256": hashes,
        "pixel_size_nm": result.pixel_size_nm,
        "domain": fit.domain,
        "verdict": None,
        "reasons": [*fit.reasons, *find_empty(image), *image.assumed],
        "seconds": round(time.monotonic() - began, 3),
        "plan": {key: value for key, value in asdict(plan).items() if value is not None},
        "versions": {name: version(name) for name in ("crosscope", "numpy", *libraries)},
        **(_shown(composite, output) if composite else {}),
    }


def _settled(
    plan: PredictionPlan, model: Model, image: Image, say: Callable[[str], None]
) -> PredictionPlan:
    """Return the plan with its engine, by measurement where it is left open."""
    engine = fastest_engine(model, image, plan=plan, say=say)
    return replace(plan, engine=engine.library, threads=engine.threads, precision=engine.precision)


def _shown(composite: Composite, output: Path) -> dict[str, Any]:
    return {
        "composite": {
            "file": str(output.with_suffix(".png")),
            "percentiles": PERCENTILES,
            "channels": [asdict(channel) for channel in composite.channels],
        }
    }
