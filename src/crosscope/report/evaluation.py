"""Model + registered pairs -> figures, with deconvolution and other controls on the same fields.

The reference is the noise-free truth where there is one, else the target. Every method's image is
brought to the reference's grey values by a least-squares gain and offset before it is compared:
modalities have no common scale, and the controls know none. The plain figures, without that fit,
are given beside them for what comes in the target's grey values.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from torch import nn

from crosscope.data.cores import count_cores
from crosscope.data.errors import PairError
from crosscope.data.files import write_json, writing_folder
from crosscope.data.images import Image, list_images, read_image, select_plane
from crosscope.data.numbers import read_count, read_number
from crosscope.data.page import thin
from crosscope.data.pairs import stem
from crosscope.data.registered import RegisteredPair, crop_like
from crosscope.deconvolution import estimate_kernel_fwhm
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.images import fastest_engine
from crosscope.prediction.tiling import sharpen
from crosscope.report.controls import choose_counts, deconvolve
from crosscope.report.dial import turn_dial
from crosscope.report.figures import Field, correlation_curves, measure_field, summarise
from crosscope.report.page import THUMBNAIL_PX, Thumbnails, View, write_page
from crosscope.report.picture import Panel, densest, draw_fields
from crosscope.report.structures import SHOWN, Structures
from crosscope.report.tables import finite
from crosscope.report.trust import Judged, count_verdicts, describe_certificate, judge_fields

METHODS = ("input", "bicubic", "lucy_richardson", "nnls", "twin", "output", "target", "repeat")
SMALL = ("input", "output", "target")  # as thumbnails
VIEW_PX = 1024
LEAST_PX = 11  # SSIM's window
NOTES = (
    "A figure of resolution says how fine the detail is that an image shows, not that the detail "
    "is there: it is no proof of correctness. Look at the invented spots, SQUIRREL and the error.",
    "FRC (Fourier ring correlation) and local FRC: agreement with the target, whose noise no other "
    "image shares; the target's own with its repeat, else by splitting it in two.",
    "Single-image FRC splits an image in two and needs independent noise: registration has "
    "resampled the input, so that its value is too fine or none.",
)


@dataclass(frozen=True, eq=False)
class Report:
    """The figures, under the names of the JSON, and what is shown of the fields.

    Attributes
    ----------
    json : dict
        What report.json holds.
    panels : list of Panel
        Of picture.png.
    views : list of View
        The best, the median and the worst field, at full resolution.
    thumbnails : list of Thumbnails
        All fields.
    """

    json: dict[str, Any]
    panels: list[Panel]
    views: list[View]
    thumbnails: list[Thumbnails]

    @property
    def summary(self) -> dict[str, Any]:
        """Return the figures over all fields."""
        return dict(self.json["summary"])

    @property
    def fields(self) -> list[dict[str, Any]]:
        """Return the figures of each field."""
        return list(self.json["fields"])

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write FOLDER/report.json, report.html and picture.png, all or none."""
        with writing_folder(Path(folder), overwrite=overwrite) as part:
            write_json(part / "report.json", self.json)
            write_page(part / "report.html", self.json, self.views, self.thumbnails)
            if self.panels:
                draw_fields(self.panels, part / "picture.png")


def evaluate(
    model: Model,
    pairs: Sequence[RegisteredPair],
    *,
    truth: Mapping[str, Image] | None = None,
    repeat: Mapping[str, Image] | None = None,
    engine: Engine | None = None,
    watch: Callable[[float], None] = lambda done: None,
) -> Report:
    """Measure what a model is worth on registered pairs that it has not seen.

    Parameters
    ----------
    model : Model
    pairs : sequence of RegisteredPair
    truth : mapping from a pair's name to an Image, optional
        Noise-free targets on the raw target's grid; for every pair, or for none.
    repeat : mapping from a pair's name to an Image, optional
        The target taken a second time, on the raw target's grid: how well it repeats itself, noise
        included. What has less noise may come nearer to a noisy target than that. For every pair,
        or for none.
    engine : Engine, optional
    watch : callable
        Told the part done, 0 to 1.

    Returns
    -------
    Report
        Its JSON as `design` names it; what could not be measured is None, with a reason beside it.
        "trust" of each field is what quality control says without the reference, as is
        "certificate" of the model; a damaged certificate is such a reason.
        A field below 11 px, or with pixels that are not finite, the network's among them, is
        listed, and left out of every figure.

    Raises
    ------
    PairError
        No pairs, other pixel sizes than the model's, or a pair without its truth or repeat.
    """
    if not pairs:
        raise PairError("pairs", "there are none to evaluate", "Run crosscope register first")
    notes = list(NOTES)
    unsized = [pair.name for pair in pairs if not _require_fit(model, pair)]
    if unsized:
        notes.append(f"Without a pixel size, the model's was taken: {', '.join(unsized)}.")
    given = [
        _Given(
            pair,
            _exact(pair.target) if truth is None else _crop(truth, pair, "truth"),
            None if repeat is None else _crop(repeat, pair, "repeat"),
        )
        for pair in pairs
    ]
    given = _infer(model, given, engine, watch=lambda done: watch(0.1 * done))
    whole = [each for each in given if each.obstacle is None]
    judged = judge_fields(
        model,
        [each.pair for each in whole],
        [each.made for each in whole],
        engine=_in_torch(engine),
    )
    pixel_nm = math.sqrt(math.prod(model.target_pixel_size_nm))
    if not np.isclose(*model.target_pixel_size_nm, rtol=0.02):
        notes.append("Pixels are not square: lengths are by the geometric mean of their sides.")
    kernel_px, why_not = _estimate_kernel(whole)
    if why_not:
        notes.append(f"No deconvolution and no SQUIRREL: {why_not}.")
    counts: list[dict[str, int]] = [{} for _ in whole]
    if kernel_px is not None:
        counts = choose_counts(
            [_exact(each.pair.source) for each in whole],
            [each.reference for each in whole],
            kernel_px,
            watch=lambda done: watch(0.1 + 0.5 * done),
        )

    def field_of(n: int) -> Field:
        return _field_of(whole[n], kernel_px, counts[n])

    structures = Structures([each.reference for each in whole], kernel_px or 0.0, pixel_nm)

    def measure(n: int) -> tuple[dict[str, Any], Thumbnails, Any]:
        field = field_of(n)
        entry = measure_field(field, pixel_nm=pixel_nm, kernel_fwhm_px=kernel_px)
        small = {m: thin(field.fitted(m), THUMBNAIL_PX) for m in SMALL}
        return (
            entry | {"counts": counts[n]},
            Thumbnails(field.name, small),
            structures.measure(field),
        )

    entries, thumbnails = [], []
    with ThreadPoolExecutor(count_cores()) as pool:
        for entry, small, measured in pool.map(measure, range(len(whole))):
            entries.append(entry)
            thumbnails.append(small)
            structures.add(measured)
            watch(0.6 + 0.35 * len(entries) / len(whole))

    views, panels = [], []
    curves: dict[str, Any] = {"frequency_per_um": [], "correlation": {}}
    for rank, n in _ranked(entries):
        field = field_of(n)
        shown = {m: field.images[m].astype(np.float32) for m in SHOWN if m in field.images}
        views.append(_view(field, rank, pixel_nm, judged[n].layers))
        panels.append(Panel(field.name, shown, pixel_nm))
        if rank == "median" or not curves["correlation"]:
            curves = correlation_curves(field, pixel_nm)
    summary = {
        "reference": "truth" if truth else "target",
        "data_range": "span of the reference, field by field",
        "intensity": "each method fitted to the reference by a gain and an offset",
        "pixel_size_nm": pixel_nm,
        "kernel_fwhm_nm": None if kernel_px is None else kernel_px * pixel_nm,
        "notes": notes,
    }
    if kernel_px is None:
        summary["reason"] = why_not
    methods = [m for m in METHODS if any(m in entry["ssim"] for entry in entries)]
    summary |= summarise(entries, methods or ["input", "output", "target"])
    summary |= structures.summarise(methods or ["input", "output", "target"])
    summary |= count_verdicts(model, judged, structures.comparisons("output"))
    watch(1.0)
    return Report(
        {
            "summary": summary,
            "fields": _with_the_rest(given, _with_trust(entries, judged), model),
            **describe_certificate(model),
            "widths_nm": structures.widths_nm(),
            "profiles": structures.profiles,
            "spectra": structures.spectra(),
            "frc_curves": curves,
            "training": _training(model),
            **_learning_curve(model),
            **_dial(model, whole, engine, structures),
        },
        panels,
        views,
        thumbnails,
    )


def read_truth(folder: Path | str) -> dict[str, Image]:
    """Read the noise-free targets, or the repeats, of a folder, by the names of their pairs."""
    return {stem(file): select_plane(read_image(file)) for file in list_images(Path(folder))}


# --- what is given --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Given:
    """A pair, what it is held against, its target's repeat, and what the networks make of it."""

    pair: RegisteredPair
    reference: Float32[np.ndarray, "y x"]
    repeat: Float32[np.ndarray, "y x"] | None
    made: Mapping[str, Float32[np.ndarray, "y x"]] = field(default_factory=dict)

    @property
    def obstacle(self) -> str | None:
        """Why the field cannot be measured."""
        images = (self.pair.source.pixels, self.pair.target.pixels, self.reference, self.repeat)
        if not all(image is None or np.isfinite(image).all() for image in images):
            return "it holds pixels without a value (NaN or infinite)"
        if min(self.reference.shape) < LEAST_PX:
            return f"it is smaller than {LEAST_PX} px"
        if not all(np.isfinite(image).all() for image in self.made.values()):
            return "the network's output holds pixels without a value (NaN or infinite)"
        return None


def _crop(
    images: Mapping[str, Image], pair: RegisteredPair, what: str
) -> Float32[np.ndarray, "y x"]:
    if pair.name not in images:
        remedy = f"Leave --{what} out, or complete it"
        raise PairError(pair.name, f"has no {what} of its name", remedy)
    return _exact(crop_like(images[pair.name], pair))


def _exact(image: Image) -> Float32[np.ndarray, "y x"]:
    """Return the pixels in single precision: exact, and no copy where they are that already."""
    return np.asarray(image.pixels, np.float32)


def _require_fit(model: Model, pair: RegisteredPair) -> bool:
    """Refuse a pair of other pixel sizes than the model's; return whether it has any."""
    if pair.source_pixel_size_nm is None or pair.target.pixel_size_nm is None:
        return False
    made = (*model.source_pixel_size_nm, *model.target_pixel_size_nm)
    have = tuple(size for sizes in pair.pixel_sizes_nm for size in sizes)
    if np.allclose(have, made, rtol=0.02):
        return True
    reason = f"has source and target pixels of {have} nm, the model was made for {made}"
    raise PairError(pair.name, reason, "Evaluate on pairs of the model's instruments")


def _estimate_kernel(given: Sequence[_Given]) -> tuple[float | None, str | None]:
    """Return the width of the blur from target to source, or why there is none."""
    try:
        return estimate_kernel_fwhm(
            [_exact(each.pair.source) for each in given],
            [_exact(each.pair.target) for each in given],
        ), None
    except PairError as error:
        return None, error.reason


def _infer(
    model: Model,
    given: Sequence[_Given],
    engine: Engine | None,
    *,
    watch: Callable[[float], None],
) -> list[_Given]:
    """Add what the network and its sisters make of each source: before all else, for the engine's
    threads and others would stand in each other's way.
    """
    networks: dict[str, nn.Module] = {"output": model.generator}
    networks |= {"twin": model.twin} if model.twin else {}
    networks |= {f"member {n}": member for n, member in enumerate(model.members, 1)}
    found = []
    for each in given:
        if each.obstacle is None:
            engine = engine or fastest_engine(model, each.pair.target)
            source = each.pair.source.pixels
            made = {
                m: sharpen(model, source[None], engine=engine, network=networks[m])[0]
                for m in networks
            }
            each = replace(each, made=made)
        found.append(each)
        watch(len(found) / len(given))
    return found


def _in_torch(engine: Engine | None) -> Engine:
    """Return an engine for networks that are used a few times: others have to be made ready."""
    return Engine(engine.threads if engine else count_cores(), "float32")


def _field_of(given: _Given, kernel_px: float | None, counts: Mapping[str, int]) -> Field:
    """Return the field of a pair: every method's image."""
    # registration resampled the source by a cubic kernel: that is the bicubic image
    source = given.pair.source.pixels.astype(np.float64)
    images = {"input": source, "bicubic": source, "target": given.pair.target.pixels} | dict(
        given.made
    )
    for method, count in counts.items():
        assert kernel_px is not None
        images[method] = deconvolve(source, kernel_px, method, count)
    if given.repeat is not None:
        images["repeat"] = given.repeat
    ordered = {m: np.asarray(images[m], np.float64) for m in METHODS if m in images}
    return Field(given.pair.name, ordered, given.reference.astype(np.float64))


# --- what is told ---------------------------------------------------------------------------------


def _with_trust(
    entries: Sequence[dict[str, Any]], judged: Sequence[Judged]
) -> list[dict[str, Any]]:
    return [entry | finite(each.to_json()) for entry, each in zip(entries, judged, strict=True)]


def _with_the_rest(
    given: Sequence[_Given], entries: Sequence[dict[str, Any]], model: Model
) -> list[dict[str, Any]]:
    """Return an entry for each pair: figures, or why there are none; and whether it was seen."""
    seen = {seen.source_sha256: seen.part for seen in model.fields if seen.source_sha256}
    measured = iter(entries)
    fields = []
    for each in given:
        if each.obstacle is None:
            entry = next(measured)
        else:
            size_px = list(each.reference.shape)
            entry = {"name": each.pair.name, "size_px": size_px, "reason": each.obstacle}
            entry |= {"trust": None, "trust_reason": each.obstacle}
        fields.append(entry | {"seen": seen.get(each.pair.source_sha256 or "")})
    return fields


def _training(model: Model) -> dict[str, Any]:
    """Return the model's log, and where the kept network and its twin stand in it."""
    try:
        log = [_log_line(line) for line in model.log]
        warm = [line for line in log if line["phase"] == "warm"]
        best_step = model.training.get("best_step")
        found: dict[str, Any] = {
            "log": log,
            "kept_step": None if best_step is None else read_count(best_step),
            "twin_step": min(warm, key=lambda line: float(line["validation"]["loss"]))["step"]
            if warm and model.twin
            else None,
        }
    except _DAMAGES:
        nothing: dict[str, Any] = {"log": [], "kept_step": None, "twin_step": None}
        return nothing | {"reason": "what the model holds of it is damaged"}
    words = {"log": "log of it", "kept_step": "best step", "twin_step": "step of a twin"}
    missing = [word for key, word in words.items() if found[key] in (None, [])]
    return found | ({"reason": f"the model holds no {', no '.join(missing)}"} if missing else {})


def _log_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of a log as charts draw it; raise one of `_DAMAGES` where they could not."""
    read_count(line["step"])
    if not isinstance(line["phase"], str):
        raise TypeError("a phase is a word")
    for name in ("validation", "shares"):
        for value in line.get(name, {}).values():
            _drawn(value)
    return dict(line)


def _drawn(value: Any) -> None:
    if value is not None:
        read_number(value, -_DIVERGED, _DIVERGED)


_DAMAGES = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
_DIVERGED = 1e300


def _learning_curve(model: Model) -> dict[str, Any]:
    curve = model.training.get("learning_curve")
    if not curve:
        reason = "the model was trained without --learning-curve"
        return {"learning_curve": None, "learning_curve_reason": reason}
    try:
        for point in curve:
            read_count(point["pairs"], 1)
            _drawn(point.get("psnr_db"))
            _drawn(point.get("loss"))
    except _DAMAGES:
        reason = "what the model holds of it is damaged"
        return {"learning_curve": None, "learning_curve_reason": reason}
    return {"learning_curve": curve, "learning_curve_reason": None}


def _dial(
    model: Model, whole: Sequence[_Given], engine: Engine | None, structures: Structures
) -> dict[str, Any]:
    if model.twin is None or not whole:
        reason = "the model has no twin" if whole else "no field could be measured"
        return {"dial": None, "dial_reason": reason}
    found = turn_dial(
        model,
        [each.pair.source.pixels for each in whole],
        [each.reference for each in whole],
        engine=_in_torch(engine),
        fwhm_px=structures.fwhm_px,
        pixel_nm=structures.pixel_nm,
    )
    return {"dial": found, "dial_reason": None}


# --- what is shown --------------------------------------------------------------------------------


def _ranked(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """Yield the best, the median and the worst field by the output's PSNR, if known, each once."""
    nrmse = {n: entry["nrmse"]["output"] for n, entry in enumerate(entries)}  # never infinite
    order = sorted((n for n in nrmse if nrmse[n] is not None), key=lambda n: float(nrmse[n]))
    told: set[int] = set()
    for rank, place in (("best", 0), ("median", (len(order) - 1) // 2), ("worst", -1)):
        if order and order[place] not in told:
            told.add(order[place])
            yield rank, order[place]


def _view(
    field: Field, rank: str, pixel_nm: float, layers: Mapping[str, UInt8[np.ndarray, "_y _x"]]
) -> View:
    """Return a field in the reference's grey values, cut to its densest part if it is large."""
    height, width = (min(n, VIEW_PX) for n in field.reference.shape)
    top, left = densest(field.reference, (height, width))
    cut = slice(top, top + height), slice(left, left + width)
    # a copy: a slice would keep the whole field
    images = {method: field.fitted(method)[cut].copy() for method in field.images}
    error = images["output"] - field.reference[cut]
    shown = {name: layer[cut].copy() for name, layer in layers.items()}
    return View(field.name, rank, images, error, pixel_nm, shown)
