"""What a training run tells of itself: log.jsonl always, TensorBoard where it is installed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float

from crosscope.data.files import writing


class Journal:
    """The lines of a run, kept in memory and, where there is a folder, on the disk.

    Parameters
    ----------
    folder : Path or None
        The run's; None keeps the lines in memory only.
    last_step : int
        Lines beyond it are of steps that a killed run will do again: they are dropped.
    say : callable
        Told once where TensorBoard is missing.
    writes : bool
        False in all processes of a training but the first: they keep the lines in memory too.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        last_step: int,
        say: Callable[[str], None],
        writes: bool = True,
    ) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self._path: Path | None = None
        self._board: Any = None
        if not folder:
            return
        path = folder / "log.jsonl"
        if last_step and path.exists():
            # what follows the last line's end is what a kill cut off
            lines = map(json.loads, path.read_text().split("\n")[:-1])
            self.lines = [line for line in lines if line["step"] <= last_step]
        if not writes:
            return
        self._path = path
        folder.mkdir(parents=True, exist_ok=True)
        with writing(path, overwrite=True) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say("No TensorBoard curves: pip install 'crosscope[tensorboard]' for them.")
            return
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._board:
            self._board.close()

    def write(
        self, line: Mapping[str, Any], images: Mapping[str, Float[np.ndarray, "n y x"]]
    ) -> None:
        """Add a line, and the images beside it, scaled from 0 to 1, in a row each."""
        self.lines.append(line)
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._board:
            for name, value in _numbers(line):
                self._board.add_scalar(name, value, line["step"])
            for name, stack in images.items():
                row = np.concatenate(list(np.clip(stack, 0, 1)), axis=1)
                self._board.add_image(name, row, line["step"], dataformats="HW")


def _numbers(line: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for key, value in line.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found.append((prefix + key, float(value)))
    return found
