"""Files that are whole or absent: a temporary name first, the final name when complete."""

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crosscope.data.errors import CrosscopeError, InputError, OutputError

_ELSEWHERE = "Choose a folder with free space"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    That of a folder is of a list of its files' hashes and names, in the order of the names, as
    `find -type f | sort | xargs sha256sum` prints it there in the C locale.
    """
    if path.is_dir():
        names = (b"./" + os.fsencode(f.relative_to(path)) for f in path.rglob("*") if f.is_file())
        digest = hashlib.sha256()
        for name in sorted(names):
            digest.update(sha256(path / os.fsdecode(name)).encode() + b"  " + name + b"\n")
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_free(path: Path, *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise OutputError where `path` exists and may not be replaced; an empty folder is free.

    Never replaced, by `overwrite` neither: the inputs and the current folder, and what holds them.
    """
    for kept in (*inputs, Path.cwd()):
        if kept.resolve().is_relative_to(path.resolve()):
            raise OutputError(path, f"is, or holds, {kept}, which must stay", "Choose another name")
    if overwrite or not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    raise OutputError(path, "exists already", "Choose another name or pass --overwrite")


@contextmanager
def writing(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path; when the block ends well, the file there takes its final name.

    The temporary file lies in the same folder and keeps the suffix. It is flushed to the disk
    before it is renamed, and removed when the block fails: nothing half-written stays.

    Raises
    ------
    OutputError
        `path` exists and `overwrite` is false, or the operating system refuses (full, read-only).
    """
    require_free(path, overwrite=overwrite)
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        flush(part)
        part.replace(path)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        with suppress(OSError):  # where there never was a folder for it
            part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def writing_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder; when the block ends well, it takes the place of `path`.

    Raises
    ------
    OutputError
        `path` exists, is not an empty folder and `overwrite` is false, or the operating system
        refuses.
    """
    require_free(path, overwrite=overwrite)
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        take_place(part, path)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def take_place(part: Path, path: Path) -> None:
    """Put a file or a folder in the place of whatever `path` is, which stays whole until then."""
    old = part.with_name(f"{part.name}.old")
    if part.is_dir() and os.path.lexists(path):
        _remove(old)
        path.replace(old)  # a folder takes no other name's place but an empty folder's
    part.replace(path)
    _remove(old)


def discard(path: Path) -> None:
    """Remove a file, a link or a whole folder, if there is one; raise OutputError where refused."""
    try:
        _remove(path)
    except OSError as error:
        raise OutputError(
            path, f"is out of date and cannot be removed ({error.strerror})", "Remove it"
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def resuming_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder that outlives an interruption; it takes the place of `path` at the end.

    As `unfinished_folder`, and raises what it raises.
    """
    with unfinished_folder(path, overwrite=overwrite) as part:
        yield part
        take_place(part, path)


@contextmanager
def unfinished_folder(
    path: Path, *, overwrite: bool = False, needed_bytes: float = 0.0
) -> Iterator[Path]:
    """Give a hidden folder for the way to `path` that outlives an interruption.

    The next call with the same `path` gives the same folder, with what was finished in it. It is
    removed at the end, and by an error of a file that the user must mend first. It stays where the
    machine is at fault: a plain InputError, or an OSError, as of a full disk, which is told as an
    OutputError that names it.

    Raises
    ------
    OutputError
        As for `writing_folder`; another process is at it; or less than `needed_bytes` are free,
        not counted what the folder holds: nothing of it is touched then.
    """
    require_free(path, overwrite=overwrite)
    part = path.with_name(f".{path.name[:100]}.unfinished")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path, part.with_suffix(".lock")):
            held_bytes = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
            require_space(path, needed_bytes - held_bytes)
            part.mkdir(exist_ok=True)
            try:
                yield part
            except CrosscopeError as error:
                if type(error) is not InputError:
                    shutil.rmtree(part, ignore_errors=True)
                raise
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        kept = f"Mend that and start again: what is done is kept in {part}"
        raise _output_error(path, error, kept if part.is_dir() else _ELSEWHERE) from error


@contextmanager
def _alone(path: Path, lock: Path) -> Iterator[None]:
    """Hold a lock that the system releases however the process ends; none on Windows."""
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        yield
        return
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(file.fileno()).st_nlink > 0  # else its holder has just removed it
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks, as clusters have
            held = True
        if not held:
            reason = "is being worked on by another process"
            raise OutputError(path, reason, "Wait for it or choose another name")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def require_space(path: Path, needed_bytes: float | int) -> None:
    """Raise OutputError where the disk that `path` is to lie on has less free."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        reason = f"needs up to {needed_bytes / 2**30:.1f} GiB, and {free / 2**30:.1f} are free"
        raise OutputError(path, reason, _ELSEWHERE)


def write_table(
    path: Path, columns: Mapping[str, Iterable[float]], *, overwrite: bool = False
) -> None:
    """Write named columns of numbers, equally many in each, as CSV."""
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(f"{v:.8g}" for v in row) for row in rows)]
    with writing(path, overwrite=overwrite) as part:
        part.write_text("\n".join(lines) + "\n")


def write_json(path: Path, value: object, *, overwrite: bool = False) -> None:
    """Write JSON that every reader accepts: no NaN, no infinity, UTF-8, indented."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with writing(path, overwrite=overwrite) as part:
        # a file name's bytes that are no UTF-8 become JSON's own escapes
        part.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_html(
    path: Path,
    template: Path,
    *,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **shown: Any,
) -> None:
    """Fill a Jinja template, a page, with what is shown; text from the user's files is escaped."""
    import jinja2  # only pages need it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    text = environment.get_template(template.name).render(**shown)
    with writing(path) as part:  # a file's name need not be text: what is not becomes "?"
        part.write_bytes(text.encode("utf-8", "replace"))


def _output_error(path: Path, error: OSError, remedy: str = _ELSEWHERE) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(path, f"cannot be written ({reason})", remedy)
