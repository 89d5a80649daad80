"""Model + files, and what was made of them -> a verdict each, as the sidecars say it was made."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crosscope.data.errors import CrosscopeError, DomainError, InputError, OutputError
from crosscope.data.files import require_free, sha256
from crosscope.data.images import Image, list_images, read_image, write_image
from crosscope.data.slides import Slide, is_slide, is_zarr, open_slide
from crosscope.model.model import Model
from crosscope.prediction.files import Failure, Models, Verdict
from crosscope.prediction.images import PredictionPlan, tell_idle
from crosscope.quality.inspection import check
from crosscope.quality.support import Support, count_support

_NUMBERS = ("offset", "pixel_size_nm", "rolling_average", "fidelity")
_PLANNED = ("channel", "offset", "pixel_size_nm", "rolling_average")


@dataclass(frozen=True, eq=False)
class Checked:
    """What was found of an image, and of an output where there is one.

    Attributes
    ----------
    input : Path
    output : Path or None
    plan : PredictionPlan
        By which it was judged.
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
            "rolling_average": self.plan.rolling_average or 0.0,
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

    def told(self, *reasons: str) -> "Checked":
        """Return the same with more reasons."""
        verdict = replace(self.verdict, reasons=(*self.verdict.reasons, *reasons))
        return replace(self, verdict=verdict)

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return DomainError.exit_code if self.verdict.verdict == "refused" else 0


@dataclass(frozen=True)
class Sidecar:
    """What the JSON beside an output says of how it was made, as far as it does."""

    input: str = ""
    input_sha256: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)


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
        As it was predicted with; channel, offset, pixel size and rolling average that it leaves
        open are those that the output's sidecar says. Its fidelity does not count ...
    fidelity : float, optional
        ... but this one; else as the sidecar says, or 0.
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
    files = list_images(source)
    if output and not any((output / f"{file.stem}.tif").exists() for file in files):
        raise InputError(output, "holds no output of these images", "Pass what predict wrote")
    found: list[Checked | Failure] = []
    for n, file in enumerate(files):

        def tell(done: float, n: int = n) -> None:
            watch((n + done) / len(files))

        made, to = (folder and folder / f"{file.stem}.tif" for folder in (output, trust))
        table = objects and objects / f"{file.stem}.csv"
        alone = None
        if made and not made.exists():
            alone = f"it has no output in {output}: the image alone was judged"
            made = to = table = None
        try:
            checked = _check_file(work, file, made, to, table, tell)
            found.append(checked.told(alone) if alone else checked)
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
    plan, remarks = _as_made(work, sidecar)
    with ExitStack() as opened:
        seen = _open(source, opened)
        made = _open(output, opened) if output else None
        if trust and isinstance(made, Image) and is_zarr(trust):
            reason = "the output fits into memory, and its trust map, too"
            raise OutputError(trust, reason, "End its name in .tif")
        if objects and not (isinstance(seen, Image) and isinstance(made, Image)):
            reason = "objects are counted in images that fit into memory only"
            raise InputError(source, reason, "Count them in a part, saved as TIFF")
        found = check(
            work.models,
            seen,
            made,
            plan=plan,
            level=work.level,
            trust=trust if isinstance(made, Slide) else None,
            overwrite=work.overwrite,
            watch=watch,
        )
    support = None
    if objects and isinstance(seen, Image) and isinstance(made, Image):
        assert isinstance(work.models, Model), "one model, or nothing is counted"
        support = count_support(work.models, seen, made, plan=replace(plan, force=True))
        support.write_csv(objects, overwrite=work.overwrite)
    if trust and found.trust:
        write_image(found.trust, trust, overwrite=work.overwrite)
    image = seen if isinstance(seen, Image) else seen.image
    remarks += tell_idle(work.models, image, plan)
    digest = seen.sha256 if isinstance(seen, Image) else None
    if sidecar.input_sha256 and not digest:
        digest = sha256(source)
    if digest and sidecar.input_sha256 and digest != sidecar.input_sha256:
        remarks.append(
            f"{output} was made of another file, as its sidecar says: of {sidecar.input}, whose "
            f"SHA-256 begins with {sidecar.input_sha256[:12]}, not with {digest[:12]}"
        )
    if trust and "level" not in found.numbers:
        remarks.append("no trust map was written, for the model has no certificate to compare by")
    return Checked(source, output, plan, found, support).told(*remarks)


def _open(path: Path, opened: ExitStack) -> Image | Slide:
    return opened.enter_context(open_slide(path)) if is_slide(path) else read_image(path)


def _as_made(work: _Work, sidecar: Sidecar) -> tuple[PredictionPlan, list[str]]:
    """Return the plan, what is left open in it as the sidecar says, and what was taken from it."""
    asked = {name: getattr(work.plan, name) for name in _PLANNED} | {"fidelity": work.fidelity}
    if not isinstance(work.models, Model):
        del asked["channel"]
    taken = {
        name: sidecar.plan[name]
        for name, value in asked.items()
        if value is None and name in sidecar.plan
    }
    plan = replace(work.plan, **({"fidelity": work.fidelity or 0.0} | taken))
    options = {name: f"--{name.replace('_', '-')}" for name in taken}
    told = {n: f"{v:g}" if isinstance(v, float) else v for n, v in taken.items()}
    return plan, [
        f"it was predicted with {options[n]} {v}, says its sidecar" for n, v in told.items()
    ]


def read_sidecar(output: Path) -> Sidecar:
    """Read what lies beside an output, or beside its folder; nothing is raised for what is not."""
    for beside in (output, output.absolute().parent):
        with suppress(
            OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, InputError
        ):
            text = beside.with_name(f"{beside.name}.json").read_text(encoding="utf-8")
            for entry in json.loads(text)["outputs"]:
                if entry["output"] and Path(entry["output"]).name == output.name:
                    known, digest = entry["plan"], entry["input_sha256"]
                    plan: dict[str, Any] = {
                        name: float(value)
                        for name in _NUMBERS
                        if (value := known.get(name)) is not None
                        and (value or name in ("offset", "pixel_size_nm"))
                    }
                    if known.get("channel"):
                        plan["channel"] = str(known["channel"])
                    PredictionPlan(**plan)  # raises where that is none
                    if isinstance(digest, str):
                        return Sidecar(str(entry["input"]), digest, plan)
    return Sidecar()
