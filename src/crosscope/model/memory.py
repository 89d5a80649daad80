"""Which engine was the fastest before, on this machine: engines.json in the user's cache folder.

What it forgets is measured again: a file that is damaged or cannot be written is no error.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosscope.data.errors import OutputError
from crosscope.data.files import write_json
from crosscope.model.engine import Engine

MOST = 200  # entries; the oldest are dropped
LARGEST = 2**20  # bytes; what is larger is not ours


@dataclass(frozen=True)
class Remembered:
    """The engine that was chosen, and the seconds that it took for a megapixel."""

    engine: Engine
    s_per_mp: float


def find_memory() -> Path:
    """Return where the file is, or would be."""
    if sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(folder)) / "crosscope" / "engines.json"  # noqa: PTH111 - no error without a home


def recall(asked: Mapping[str, Any]) -> Remembered | None:
    """Return what was chosen when the same was asked: network, shape, machine, versions."""
    for entry in reversed(_read()):
        with suppress(TypeError, ValueError, KeyError):
            if entry["asked"] == asked:
                engine, s_per_mp = Engine(**entry["engine"]), float(entry["s_per_mp"])
                if 0 < s_per_mp < math.inf:
                    return Remembered(engine, s_per_mp)
    return None


def remember(asked: Mapping[str, Any], chosen: Remembered) -> None:
    """Write down what was chosen, in place of what was before."""
    others = [entry for entry in _read() if entry.get("asked") != asked]
    entries = [*others[1 - MOST :], {"asked": asked, **asdict(chosen)}]
    with suppress(OutputError, OSError):
        write_json(find_memory(), {"engines": entries}, overwrite=True)


def _read() -> list[dict[str, Any]]:
    path = find_memory()
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if path.stat().st_size <= LARGEST:
            entries = json.loads(path.read_text(encoding="utf-8"))["engines"]
            return [entry for entry in entries if isinstance(entry, dict)]
    return []
