"""A file is whole or absent."""

import errno
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from crosscope.data.errors import OutputError
from crosscope.data.files import require_free, sha256, write_json, writing, writing_folder

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
