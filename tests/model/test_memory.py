import json
import os
from pathlib import Path
from typing import Any

import pytest

from crosscope.model.engine import Engine
from crosscope.model.memory import MOST, Remembered, find_memory, recall, remember

ASKED = {"network": "fast", "tile_px": [256, 256], "fixed": {"threads": None}}
CHOSEN = Remembered(Engine(2, "bfloat16", "openvino"), 0.31)


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that is not there yet, and the file that would be in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    return tmp_path / "cache" / "crosscope" / "engines.json"


def test_nothing_is_known_at_first(memory: Path) -> None:
    assert recall(ASKED) is None
    assert not memory.parent.exists()


def test_what_was_chosen_is_known_again_for_the_same_only(memory: Path) -> None:
    remember(ASKED, CHOSEN)
    assert find_memory() == memory
    assert recall(ASKED) == CHOSEN
    assert recall(ASKED | {"network": "paper"}) is None
    assert recall(ASKED | {"fixed": {"threads": 1}}) is None
    assert [path.name for path in memory.parent.iterdir()] == ["engines.json"]


def test_the_latest_holds_and_others_stay(memory: Path) -> None:
    other = ASKED | {"network": "paper"}
    remember(other, CHOSEN)
    for threads in (1, 2):
        remember(ASKED, Remembered(Engine(threads, "float32"), 0.5))
    assert recall(ASKED) == Remembered(Engine(2, "float32"), 0.5)
    assert recall(other) == CHOSEN
    assert len(json.loads(memory.read_text())["engines"]) == 2


def test_it_does_not_grow_for_ever(memory: Path) -> None:
    entries = [{"asked": n} for n in range(2 * MOST)]
    memory.parent.mkdir(parents=True)
    memory.write_text(json.dumps({"engines": entries}))
    remember(ASKED, CHOSEN)
    assert len(json.loads(memory.read_text())["engines"]) == MOST
    assert recall(ASKED) == CHOSEN


ENTRY: dict[str, Any] = {
    "asked": ASKED,
    "engine": {"threads": 2, "precision": "float32", "backend": "torch"},
    "s_per_mp": 1.0,
}


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000],
        *[b'{"engines": 3}', b'{"engines": [3]}'],
        json.dumps({"engines": [ENTRY | {"engine": {"threads": 2, "speed": 9}}]}).encode(),
        json.dumps({"engines": [ENTRY | {"s_per_mp": "fast"}]}).encode(),
        json.dumps({"engines": [ENTRY | {"s_per_mp": -1}]}).encode(),
        json.dumps({"engines": [ENTRY | {"s_per_mp": float("nan")}]}).encode(),
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(memory: Path, content: bytes) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_bytes(content)
    assert recall(ASKED) is None
    remember(ASKED, CHOSEN)
    assert recall(ASKED) == CHOSEN
    json.loads(memory.read_text())


def test_a_folder_that_cannot_be_written_is_no_error(memory: Path) -> None:
    memory.parent.parent.write_text("a file where the folder should be")
    remember(ASKED, CHOSEN)
    assert recall(ASKED) is None


def test_the_folder_is_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_memory() == tmp_path / ".cache" / "crosscope" / "engines.json"
    if os.name == "posix":  # as Windows would have it
        monkeypatch.setattr("sys.platform", "win32")
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
        assert find_memory() == tmp_path / "Local" / "crosscope" / "engines.json"
