"""Two files or folders -> a folder of registered pairs, its pairs.json and its page.

Pairs are done side by side.  What is done is kept when a run is interrupted, and found again by
what it was made of: the bytes of both files, the options, and the version.
"""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from crosscope.data.cores import count_cores
from crosscope.data.correction import correct_flat, remove_hot_pixels
from crosscope.data.errors import CrosscopeError, ImageError, PairError, RegistrationError
from crosscope.data.files import require_free, resuming_folder, sha256, write_json, writing
from crosscope.data.images import Image, list_images, read_image, read_tiles
from crosscope.data.landmarks import Landmarks, read_landmarks
from crosscope.data.page import Row, draw_overlay, write_page
from crosscope.data.pairs import (
    MatchedFiles,
    RawPair,
    match_files,
    pair_images,
    stem,
)
from crosscope.data.registered import (
    RefusedPair,
    RegisteredPair,
    make_folders,
    record_of,
    write_pair_images,
)
from crosscope.data.registration.pair import (
    MOST_RESIDUAL_PX,
    before_registration,
    register_anyway,
    register_like,
)
from crosscope.data.stitching import stitch

VERSION = 1
"""Of the registration: what another one made is done again."""


@dataclass(frozen=True)
class RegistrationPlan:
    """All choices of a registration.

    Attributes
    ----------
    rigid : bool
        A shift and a turn only.
    max_residual_px : float or None
        See `register`.
    keep_all : bool
        Keep pairs above the limit, marked: not accepted, but in the folder and in training.
    channel : str or None
        Of images with several: register this one, and leave the others.
    per_channel : bool
        Register each channel by itself, as the slides' authors did.
    register_on : str or None
        Register this channel, and the others by its transform.
    source_pixel_size_nm, target_pixel_size_nm : float or None
        Instead of what the files say.
    landmarks : Path or None
        A table; see `read_landmarks`.
    source_flat, target_flat : Path or None
        Images of an even field, to divide the illumination out.
    hot_pixels : bool
        Replace hot pixels by their neighbours' median, before anything else.
    stitch : bool
        Source and target are tile scans, each to be put together first.
    """

    rigid: bool = False
    max_residual_px: float | None = None
    keep_all: bool = False
    channel: str | None = None
    per_channel: bool = False
    register_on: str | None = None
    source_pixel_size_nm: float | None = None
    target_pixel_size_nm: float | None = None
    landmarks: Path | None = None
    source_flat: Path | None = None
    target_flat: Path | None = None
    hot_pixels: bool = False
    stitch: bool = False


@dataclass(frozen=True)
class RegisteredFiles:
    """What became of two files or folders.

    Attributes
    ----------
    pairs : list of dict
        As in pairs.json.
    failures : list of CrosscopeError
        Of files that could not be read at all.
    """

    pairs: list[dict[str, Any]]
    failures: list[CrosscopeError]

    @property
    def exit_code(self) -> int:
        """Return 0, or 2 where a file could not be read or no pair is left."""
        return 2 if self.failures or not any(pair.get("file") for pair in self.pairs) else 0


def register_files(
    source: Path,
    target: Path,
    out: Path,
    *,
    plan: RegistrationPlan | None = None,
    overwrite: bool = False,
    workers: int | None = 1,
    watch: Callable[[float, str], None] = lambda done, name: None,
) -> RegisteredFiles:
    """Register two files, or two folders pair by pair, into the folder OUT.

    What can be registered is; the rest is listed with its reason. A run that was interrupted goes
    on where it stopped. With `overwrite` what is in OUT is done again only where an input or an
    option has changed; without, an OUT in which all is done and unchanged is left as it is.

    Parameters
    ----------
    source, target, out : Path
    plan : RegistrationPlan, optional
    overwrite : bool
        Replace the folder that is there.
    workers : int or None
        Processes side by side, None for one a core; scripts that ask for more than one need the
        usual `if __name__ == "__main__":`.
    watch : callable
        Is told the part done, and the pair's name.

    Raises
    ------
    CrosscopeError
        The files do not form pairs, there is but one pair and it cannot be registered, or OUT
        cannot be written.
    """
    plan = plan or RegistrationPlan()
    jobs = _jobs(source, target, plan)
    if not overwrite and (done := _all_done(out, jobs)) is not None:
        watch(1.0, "all done before")
        return RegisteredFiles(done, [])
    require_free(out, overwrite=overwrite, inputs=[source, target])
    with resuming_folder(out, overwrite=overwrite) as part:
        make_folders(part)
        for folder in ("overlays", "done"):
            (part / folder).mkdir(exist_ok=True)
        if out.is_dir():
            _take_over(out, part, jobs)
        kept = [job for job in jobs if _is_done(job, part)]
        failures: dict[str, CrosscopeError] = {}
        count = len(kept)
        for job, error in _work([job for job in jobs if job not in kept], part, workers):
            if error is not None:
                if len(jobs) == 1:
                    raise error
                failures[job.name] = error
            count += 1
            watch(count / len(jobs), job.name)
        results = [_results_of(job, part) for job in jobs]
        _require_no_twins(results)
        records = [record for result in results for record in result]
        write_json(part / "pairs.json", {"pairs": records}, overwrite=True)
        rows = [_row(record, part) for record in records]
        page = part / "registration.html"
        page.unlink(missing_ok=True)
        write_page(rows, page, max_residual_px=plan.max_residual_px or MOST_RESIDUAL_PX)
        shutil.rmtree(part / "done")
        unreadable = [e for e in failures.values() if not isinstance(e, RegistrationError)]
    return RegisteredFiles(records, unreadable)


# --- jobs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """Two files (or tile scans) to register, and the key of what comes of it."""

    name: str
    files: MatchedFiles
    plan: RegistrationPlan
    key: str
    source_sha256: str
    target_sha256: str


def _jobs(source: Path, target: Path, plan: RegistrationPlan) -> list[_Job]:
    if plan.landmarks is not None:
        read_landmarks(plan.landmarks)  # a mistake in it is told before the work begins
    helpers = [plan.landmarks, plan.source_flat, plan.target_flat]
    for path in helpers:
        if path is not None and not path.is_file():
            raise ImageError(path, "does not exist", "Check the name")
    options = {key: str(value) for key, value in asdict(plan).items()}
    options |= {f"sha {path}": sha256(path) for path in helpers if path is not None}
    if plan.stitch:
        matches = [MatchedFiles(stem(source), source, target, "given")]
    else:
        matches = match_files(source, target)
    jobs = []
    for files in matches:
        hashes = [_hash(path) for path in (files.source, files.target)]
        made_of = json.dumps([VERSION, files.name, hashes, options], sort_keys=True)
        key = hashlib.sha256(made_of.encode("utf-8", "surrogateescape")).hexdigest()
        jobs.append(_Job(files.name, files, plan, key, *hashes))
    return jobs


def _hash(path: Path) -> str:
    """Return the hash of a file, or of all images of a tile scan's folder."""
    if not path.is_dir():
        return sha256(path)
    return hashlib.sha256(" ".join(map(sha256, list_images(path))).encode()).hexdigest()


# side by side, more threads would stand in each other's way; and sums would differ in the last bits
@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]
def _do(job: _Job, out: Path) -> CrosscopeError | None:
    """Register the pairs of one job into `out`; the record, written last, says that it is done."""
    records: list[dict[str, Any]] = []
    failure: CrosscopeError | None = None
    try:
        for pair, outcome in _outcomes(job):
            record = record_of(outcome) | {"key": job.key}
            if pair is not None:
                _draw(pair, outcome, out / "overlays", overwrite=True)
            if isinstance(outcome, RegisteredPair):
                if outcome.reason is None or job.plan.keep_all:
                    write_pair_images(outcome, out, overwrite=True)
                else:
                    record["file"] = None
                    failure = RegistrationError(outcome.name, outcome.reason, _REMEDY)
            records.append(record)
    except (ImageError, PairError, RegistrationError) as error:
        refused = RefusedPair(job.name, error.reason, job.source_sha256, job.target_sha256)
        records.append(record_of(refused) | {"key": job.key})
        failure = error
    write_json(_done(job, out), records, overwrite=True)
    return failure


_REMEDY = "Look at its overlay, or allow more by --max-residual-px or --all"


def _outcomes(job: _Job) -> Iterator[tuple[RawPair, RegisteredPair | RefusedPair]]:
    plan = job.plan
    pairs = _read(job)
    landmarks = _landmarks(plan, job.name)
    leader: RegisteredPair | None = None
    if plan.register_on is not None:
        names = [pair.channel for pair in pairs]
        if plan.register_on not in names:
            there = ", ".join(name or "one without a name" for name in names)
            reason = f"has no channel {plan.register_on!r}, but {there}"
            raise PairError(job.files.source, reason, "Name one of them by --register-on")
        leader = _register(pairs[names.index(plan.register_on)], plan, landmarks)
    for pair in pairs:
        try:
            if leader is None:
                yield pair, _register(pair, plan, landmarks)
            elif pair.channel == plan.register_on:
                yield pair, leader
            else:
                yield pair, register_like(pair, leader)
        except RegistrationError as error:
            if len(pairs) == 1:
                raise
            yield pair, RefusedPair(pair.name, error.reason, job.source_sha256, job.target_sha256)


def _register(pair: RawPair, plan: RegistrationPlan, landmarks: Landmarks | None) -> RegisteredPair:
    return register_anyway(
        pair, rigid=plan.rigid, max_residual_px=plan.max_residual_px, landmarks=landmarks
    )


def _read(job: _Job) -> list[RawPair]:
    """Read the two images, correct them, and part their channels."""
    plan, files = job.plan, job.files
    images = []
    for path, flat, digest in (
        (files.source, plan.source_flat, job.source_sha256),
        (files.target, plan.target_flat, job.target_sha256),
    ):
        image = _stitched(path, flat, digest, plan) if plan.stitch else read_image(path)
        images.append(image if plan.stitch else _corrected(image, flat, plan))
    return pair_images(
        files,
        *images,
        channel=plan.channel,
        all_channels=plan.per_channel or plan.register_on is not None,
        source_pixel_size_nm=plan.source_pixel_size_nm,
        target_pixel_size_nm=plan.target_pixel_size_nm,
    )


def _stitched(path: Path, flat: Path | None, digest: str, plan: RegistrationPlan) -> Image:
    tiles = [_corrected(tile, flat, plan) for tile in read_tiles(path)]
    return replace(stitch(tiles, name=path.name), sha256=digest)


def _corrected(image: Image, flat: Path | None, plan: RegistrationPlan) -> Image:
    if plan.hot_pixels:
        image = remove_hot_pixels(image)
    return image if flat is None else correct_flat(image, read_image(flat))


def _landmarks(plan: RegistrationPlan, name: str) -> Landmarks | None:
    if plan.landmarks is None:
        return None
    by_pair = read_landmarks(plan.landmarks)
    return by_pair.get(name, by_pair.get(None))


def _draw(
    pair: RawPair, outcome: RegisteredPair | RefusedPair, folder: Path, *, overwrite: bool
) -> None:
    """Draw source and target over each other, before and after."""
    pictures = {}
    source_nm, target_nm = pair.source.pixel_size_nm, pair.target.pixel_size_nm
    if isinstance(outcome, RegisteredPair):
        y, x = outcome.target_px_per_source_px.tolist()
        pictures["after"] = draw_overlay(outcome.source.pixels, outcome.target.pixels)
    elif source_nm is not None and target_nm is not None:
        y, x = source_nm[0] / target_nm[0], source_nm[1] / target_nm[1]
    else:
        return
    pictures["before"] = draw_overlay(*before_registration(pair, (y, x)))
    for when, jpeg in pictures.items():
        with writing(folder / f"{outcome.name}.{when}.jpg", overwrite=overwrite) as part:
            part.write_bytes(jpeg)


# --- side by side ---------------------------------------------------------------------------------


def _work(
    jobs: Sequence[_Job], out: Path, workers: int | None
) -> Iterator[tuple[_Job, CrosscopeError | None]]:
    """Do the jobs, and yield each as it is done, with what went wrong."""
    workers = min(workers or count_cores(), len(jobs))
    if workers <= 1:
        yield from ((job, _do(job, out)) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        todo, running = iter(jobs), {}
        try:
            while True:
                # no more than are needed ahead: an interruption then loses little
                for job in todo:
                    running[pool.submit(_do, job, out)] = job
                    if len(running) >= 2 * workers:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# --- what is done already -------------------------------------------------------------------------


def _done(job: _Job, out: Path) -> Path:
    return out / "done" / f"{job.name}.json"


def _is_done(job: _Job, out: Path) -> bool:
    try:
        records = json.loads(_done(job, out).read_text(encoding="utf-8"))
        return all(
            record["key"] == job.key and _files_there(record, out) for record in records
        ) and bool(records)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _files_there(record: dict[str, Any], out: Path) -> bool:
    file = record.get("file")
    return not file or all((out / side / Path(file).name).is_file() for side in _SIDES)


_SIDES = ("source", "target")


def _all_done(out: Path, jobs: Sequence[_Job]) -> list[dict[str, Any]] | None:
    """Return the records of OUT where they are those of these jobs, else None."""
    records = _records_in(out)
    keys = {job.key for job in jobs}
    complete = {record.get("key") for record in records} == keys
    if not complete or not all(_files_there(record, out) for record in records):
        return None
    if not any(record.get("file") for record in records):
        return None
    return records


def _records_in(out: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads((out / "pairs.json").read_text(encoding="utf-8"))["pairs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _take_over(out: Path, part: Path, jobs: Sequence[_Job]) -> None:
    """Copy from OUT what these jobs would make again just so."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for record in _records_in(out):
        by_key.setdefault(str(record.get("key")), []).append(record)
    for job in jobs:
        records = by_key.get(job.key, [])
        if not records or _is_done(job, part):
            continue
        if not all(_files_there(record, out) for record in records):
            continue
        for record in records:
            for side in _SIDES if record.get("file") else ():
                file = Path(record["file"]).name
                shutil.copy2(out / side / file, part / side / file)
            for when in ("before", "after"):
                picture = out / "overlays" / f"{record['name']}.{when}.jpg"
                if picture.is_file():
                    shutil.copy2(picture, part / "overlays" / picture.name)
        write_json(_done(job, part), records, overwrite=True)


def _results_of(job: _Job, out: Path) -> list[dict[str, Any]]:
    return list(json.loads(_done(job, out).read_text(encoding="utf-8")))


def _require_no_twins(results: Sequence[Sequence[dict[str, Any]]]) -> None:
    names = [record["name"] for result in results for record in result]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise PairError(twins[0], "is the name of two pairs", "Rename one of the files")


def _row(record: dict[str, Any], out: Path) -> Row:
    pictures = []
    for when in ("before", "after"):
        path = out / "overlays" / f"{record['name']}.{when}.jpg"
        pictures.append(path.read_bytes() if path.is_file() else None)
    return Row(record, *pictures)
