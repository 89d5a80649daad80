"""A file is whole or absent."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from crosscope.data.errors import ImageError, InputError, OutputError
from crosscope.data.files import (
    require_free,
    require_space,
    sha256,
    take_place,
    unfinished_folder,
    write_json,
    writing,
    writing_folder,
)

Writing = Callable[..., AbstractContextManager[Path]]
both = pytest.mark.parametrize("write", [writing, writing_folder])


def _fill(part: Path, text: str) -> None:
    (part / "inside" if part.is_dir() else part).write_text(text)


def _fail(write: Writing, path: Path, error: Exception) -> None:
    with write(path, overwrite=True) as part:
        _fill(part, "half")
        raise error


def _text(path: Path) -> str:
    return (path / "inside" if path.is_dir() else path).read_text()


@both
def test_the_final_name_appears_only_when_complete(tmp_path: Path, write: Writing) -> None:
    path = tmp_path / "deep" / "er" / "result.ome.tif"
    with write(path) as part:
        _fill(part, "whole")
        assert part.parent == path.parent
        assert not path.exists()
    assert _text(path) == "whole"
    assert list(path.parent.iterdir()) == [path]


@both
def test_nothing_is_left_after_a_failure(tmp_path: Path, write: Writing) -> None:
    with pytest.raises(KeyError):
        _fail(write, tmp_path / "result", KeyError())
    assert not list(tmp_path.iterdir())


@both
def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path, write: Writing) -> None:
    path = tmp_path / "result"
    with write(path) as part:
        _fill(part, "old")
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match="No space left on device"):
        _fail(write, path, full)
    assert _text(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@both
def test_what_exists_is_replaced_only_when_asked(tmp_path: Path, write: Writing) -> None:
    path = tmp_path / "result"
    with write(path) as part:
        _fill(part, "old")
    with pytest.raises(OutputError, match="--overwrite"), write(path) as part:
        _fill(part, "new")
    assert _text(path) == "old"
    with write(path, overwrite=True) as part:
        _fill(part, "new")
    assert _text(path) == "new"


def test_a_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError), writing(tmp_path / "result"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_parent_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError), writing(tmp_path / "file" / "result") as part:
        part.touch()


def test_an_empty_folder_is_free_and_a_dangling_link_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty", overwrite=False)
    (tmp_path / "link").symlink_to(tmp_path / "none")
    with pytest.raises(OutputError):
        require_free(tmp_path / "link", overwrite=False)


def test_json_holds_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"µ": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"µ": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == known


def test_a_name_that_is_no_utf8_is_written_as_an_escape(tmp_path: Path) -> None:
    name = b"caf\xe9.tif".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "a.json", name)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == name


@pytest.mark.parametrize("path", [".", "..", "/", "a/.."])
def test_the_current_folder_is_never_replaced(path: str) -> None:
    with pytest.raises(OutputError, match="which must stay"):
        require_free(Path(path), overwrite=True)


@pytest.mark.parametrize("path", ["in/a.tif", "in", "in/../in", "link"])
def test_inputs_and_what_holds_them_are_never_free(tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").touch()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(OutputError, match="which must stay"):
        require_free(tmp_path / path, overwrite=True, inputs=[tmp_path / "in" / "a.tif"])
    require_free(tmp_path / "in2", overwrite=False, inputs=[tmp_path / "in"])
    require_free(tmp_path / "in" / "b", overwrite=False, inputs=[tmp_path / "in"])


def test_the_hash_of_a_folder_is_that_of_its_list_of_hashes(tmp_path: Path) -> None:
    for name in ("b", "a b", "A", "c/0/1", "c.0", "\u00b5"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    command = "find -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"
    environment = os.environ | {"LC_ALL": "C"}
    known = subprocess.run(
        command, cwd=tmp_path, env=environment, shell=True, capture_output=True, text=True
    )
    assert sha256(tmp_path) == known.stdout.split()[0]
    before = sha256(tmp_path)
    (tmp_path / "c" / "0" / "1").write_text("other")
    assert sha256(tmp_path) != before


# --- folders that outlive an interruption ---------------------------------------------------------


def _interrupt(path: Path, error: BaseException) -> None:
    with unfinished_folder(path) as part:
        (part / "done").write_text("much")
        raise error


def test_an_interruption_leaves_what_was_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupt(tmp_path / "a.zarr", KeyboardInterrupt())
    with unfinished_folder(tmp_path / "a.zarr") as part:
        assert (part / "done").read_text() == "much"
        assert part.name.startswith(".")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ImageError("a", "is wrong", "Mend it"), False),
        (OutputError("a", "is in the way", "Move it"), False),
        (InputError("memory", "is short", "Buy more"), True),
    ],
)
def test_what_was_done_stays_where_the_machine_is_at_fault(
    tmp_path: Path, error: InputError, kept: bool
) -> None:
    with pytest.raises(type(error), match=error.reason):
        _interrupt(tmp_path / "a.zarr", error)
    assert [path.name for path in tmp_path.iterdir()] == [".a.zarr.unfinished"] * kept


def test_a_full_disk_is_told_with_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"No space.*is kept in .*\.a\.zarr\.unfinished"):
        _interrupt(tmp_path / "a.zarr", OSError(errno.ENOSPC, "No space left on device"))
    assert (tmp_path / ".a.zarr.unfinished" / "done").read_text() == "much"


def test_space_is_needed_less_what_is_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupt(tmp_path / "a", KeyboardInterrupt())
    usage = shutil.disk_usage(tmp_path)._replace(free=6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(OutputError, match=r"a: needs up to .* free\. Choose"),
        unfinished_folder(tmp_path / "a", needed_bytes=11.0),
    ):
        raise AssertionError
    with unfinished_folder(tmp_path / "a", needed_bytes=10.0) as part:
        assert (part / "done").exists()
    require_space(tmp_path / "not" / "there" / "yet", 6.0)


def test_a_lock_that_its_holder_removed_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def late(file: int, how: int) -> None:  # the other ends between our opening and locking it
        lock(file, how)
        (tmp_path / ".a.lock").unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(OutputError, match="another process"), unfinished_folder(tmp_path / "a"):
        raise AssertionError


def test_a_file_system_without_locks_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with unfinished_folder(tmp_path / "a") as part:
        assert part.is_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["nothing", "file", "folder", "empty folder", "link"])
def test_a_folder_takes_any_place(tmp_path: Path, there: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "inside").write_text("new")
    path = tmp_path / "path"
    if there == "file":
        path.write_text("old")
    elif there == "link":
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "mine").write_text("stays")
        path.symlink_to(tmp_path / "target")
    elif there != "nothing":
        path.mkdir()
        if there == "folder":
            (path / "old").write_text("old")
    (tmp_path / "new.old").mkdir()  # what a kill in the middle left
    (tmp_path / "new.old" / "rest").write_text("older")
    take_place(tmp_path / "new", path)
    assert [file.name for file in path.iterdir()] == ["inside"]
    assert not path.is_symlink()
    assert {file.name for file in tmp_path.iterdir()} <= {"path", "target"}
    if there == "link":
        assert (tmp_path / "target" / "mine").read_text() == "stays"


def test_what_is_replaced_is_whole_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("new", "path"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)  # what takes long
    with pytest.raises(KeyboardInterrupt):
        take_place(tmp_path / "new", tmp_path / "path")
    assert [file.name for file in (tmp_path / "path").iterdir()] == ["new"]


def test_a_file_never_takes_a_folders_place(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "path").mkdir()
    with pytest.raises(IsADirectoryError):
        take_place(tmp_path / "new", tmp_path / "path")
    (tmp_path / "path").rmdir()
    take_place(tmp_path / "new", tmp_path / "path")
    assert (tmp_path / "path").read_text() == "new"
