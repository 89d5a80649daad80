"""Model + files, and what was made of them -> a verdict each, as the sidecars say it was made."""

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosscope.data.errors import CrosscopeError, DomainError, InputError, OutputError
from crosscope.data.files import require_free, sha256
from crosscope.data.images import Image, list_images, read_image
from crosscope.data.slides import Slide, is_slide, is_zarr, open_slide
from crosscope.model.model import Model
from crosscope.prediction.files import Failure, Models, Verdict
from crosscope.prediction.images import PredictionPlan
from crosscope.quality.inspection import check
from crosscope.quality.support import Support, count_support


@dataclass(frozen=True, eq=False)
class Checked:
    """What was found of an image, and of an output where there is one.

    Attributes
    ----------
    input : Path
    output : Path or None
    plan : PredictionPlan
        With the fidelity that it was judged by.
    verdict : Verdict
    support : Support or None
        Of its objects, where they were asked for.
    """

    input: Path
    output: Path | None
    plan: PredictionPlan
    verdict: Verdict
    support: Support | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """What is said of it, as JSON."""
        said: dict[str, Any] = {
            "input": str(self.input),
            "output": str(self.output) if self.output else None,
            "domain": self.verdict.domain,
            "verdict": self.verdict.verdict,
            "reasons": list(self.verdict.reasons),
            "fidelity": self.plan.fidelity,
            "quality": dict(self.verdict.numbers),
        }
        if self.support:
            said["support"] = self.support.json
            if self.support.claimed_px is None:
                why = self.verdict.numbers.get(
                    "claimed_resolution_reason", "of a fidelity nothing is"
                )
                said["support"] |= {"close_reason": f"no resolution is claimed: {why}"}
        return said

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return DomainError.exit_code if self.verdict.verdict == "refused" else 0


@dataclass(frozen=True)
class Sidecar:
    """What the JSON beside an output says of how it was made, as far as it does."""

    input: str = ""
    input_sha256: str | None = None
    fidelity: float = 0.0


def check_files(
    models: Models,
    source: Path,
    output: Path | None = None,
    *,
    plan: PredictionPlan | None = None,
    fidelity: float | None = None,
    level: str = "fast",
    trust: Path | None = None,
    objects: Path | None = None,
    overwrite: bool = False,
    watch: Callable[[float], None] = lambda done: None,
) -> list[Checked | Failure]:
    """Judge an image or every image of a folder, and what was made of it: see `check`.

    An OME-Zarr or a large TIFF is compared part by part. Of a folder what can be done is done;
    an image without an output, as one that was refused, is judged alone.

    Parameters
    ----------
    models : Model, or mapping of channel names to Model
    source : Path
    output : Path, optional
        Of a folder the folder that `predict_files` wrote: the output of a.png is a.tif in it.
    plan : PredictionPlan
        Its fidelity does not count.
    fidelity : float, optional
        That it was predicted with; else as the output's sidecar says, or 0.
    level : "fast" or "full"
    trust : Path, optional
        New trust map, of a folder a folder.
    objects : Path, optional
        New table of the output's objects, of a folder a folder: see `count_support`.
    watch : callable
        Told the part done, 0 to 1.

    Raises
    ------
    CrosscopeError
        The one file cannot be done, or a trust map is in the way.
    """
    work = _Work(models, plan or PredictionPlan(), fidelity, level, overwrite)
    for wanted in filter(None, (trust, objects)):
        require_free(wanted, overwrite=overwrite, inputs=[source, *([output] if output else [])])
        if output is None:
            raise InputError(wanted, "is of an output, and there is none", "Name the output, too")
    if objects and not isinstance(models, Model):
        reason = "objects are counted in outputs of one model"
        raise InputError(objects, reason, "Name the model, and the channel")
    if not source.is_dir() or is_zarr(source):
        if trust and trust.suffix.lower() not in (".tif", ".tiff", ".zarr"):
            reason = "is not the name of a TIFF file or an OME-Zarr"
            raise OutputError(trust, reason, "End it in .tif or .zarr")
        return [_check_file(work, source, output, trust, objects, watch)]
    if output and not output.is_dir():
        raise InputError(output, "is not a folder, but the input is", "Pass what predict wrote")
    found: list[Checked | Failure] = []
    files = list_images(source)
    for n, file in enumerate(files):

        def tell(done: float, n: int = n) -> None:
            watch((n + done) / len(files))

        made, to = (folder and folder / f"{file.stem}.tif" for folder in (output, trust))
        table = objects and objects / f"{file.stem}.csv"
        if made and not made.exists():
            made = to = table = None
        try:
            found.append(_check_file(work, file, made, to, table, tell))
        except CrosscopeError as error:
            found.append(Failure(file, error))
    return found


@dataclass(frozen=True)
class _Work:
    """What is the same for all files of a call."""

    models: Models
    plan: PredictionPlan
    fidelity: float | None
    level: str
    overwrite: bool


def _check_file(
    work: _Work,
    source: Path,
    output: Path | None,
    trust: Path | None,
    objects: Path | None,
    watch: Callable[[float], None],
) -> Checked:
    sidecar = read_sidecar(output) if output else Sidecar()
    fidelity = sidecar.fidelity if work.fidelity is None else work.fidelity
    plan, support = replace(work.plan, fidelity=fidelity), None
    with ExitStack() as opened:
        seen: Image | Slide
        made: Image | Slide | None
        if is_slide(source) or (output and is_slide(output)):
            seen = opened.enter_context(open_slide(source))
            made = opened.enter_context(open_slide(output)) if output else None
            digest = sha256(source) if sidecar.input_sha256 else None
        else:
            seen, made = read_image(source), read_image(output) if output else None
            digest = seen.sha256
        if objects:
            assert isinstance(work.models, Model)  # see above
            if not (isinstance(seen, Image) and isinstance(made, Image)):
                reason = "objects are counted in images that fit into memory only"
                raise InputError(source, reason, "Count them in a part, saved as TIFF")
            support = count_support(work.models, seen, made, plan=replace(plan, force=True))
            support.write_csv(objects, overwrite=work.overwrite)
        found = check(
            work.models,
            seen,
            made,
            plan=plan,
            level=work.level,
            trust=trust,
            overwrite=work.overwrite,
            watch=watch,
        )
    remarks = []
    if digest and sidecar.input_sha256 and digest != sidecar.input_sha256:
        remarks.append(
            f"{output} was made of another file, as its sidecar says: of {sidecar.input}, whose "
            f"SHA-256 begins with {sidecar.input_sha256[:12]}, not with {digest[:12]}"
        )
    if work.fidelity is None and fidelity:
        remarks.append(f"it was predicted with --fidelity {fidelity:g}, says its sidecar")
    if trust and "level" not in found.numbers:
        remarks.append("no trust map was written, for the model has no certificate to compare by")
    found = replace(found, reasons=(*found.reasons, *remarks))
    return Checked(source, output, plan, found, support)


def read_sidecar(output: Path) -> Sidecar:
    """Read what lies beside an output, or beside its folder; nothing is raised for what is not."""
    for beside in (output, output.absolute().parent):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            text = beside.with_name(f"{beside.name}.json").read_text(encoding="utf-8")
            for entry in json.loads(text)["outputs"]:
                if entry["output"] and Path(entry["output"]).name == output.name:
                    fidelity = float(entry["plan"].get("fidelity", 0.0))
                    if 0 <= fidelity <= 1 and isinstance(entry["input_sha256"], str):
                        return Sidecar(str(entry["input"]), entry["input_sha256"], fidelity)
    return Sidecar()
