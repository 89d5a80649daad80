"""The whole path once, on tiny data, for all tests of the command line."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crosscope.terminal.commands import app


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the one JSON object on stdout, which holds no NaN and no Infinity."""
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in JSON")


Crosscope = Callable[..., Outcome]


@pytest.fixture(scope="session")
def crosscope() -> Crosscope:
    """Return a function that runs the program; nothing but an exit may come out of it."""

    def run(*arguments: str | Path) -> Outcome:
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        assert "Traceback" not in result.stderr
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@dataclass(frozen=True)
class Walk:
    """The folders of a walk, and what each command printed as JSON."""

    raw: Path
    pairs: Path
    run: Path
    results: dict[str, Any]

    @property
    def model(self) -> Path:
        return self.run / "model.zip"

    @property
    def image(self) -> Path:
        return self.raw / "source" / "0000.tif"


FAST = ("--steps", "20", "--base", "4", "--threads", "1", "--precision", "float32", "--no-claims")


def _walk(crosscope: Crosscope, folder: Path, *simulation: str) -> Walk:
    raw, pairs, run = folder / "raw", folder / "pairs", folder / "run"
    steps: dict[str, tuple[str | Path, ...]] = {
        "simulate": (*simulation[:1], raw, *simulation[1:]),
        "register": (raw / "source", raw / "target", pairs),
        "train": (pairs, run, *FAST),
    }
    results = {}
    for name, arguments in steps.items():
        outcome = crosscope(name, *arguments, "--json")
        assert outcome.code == 0, outcome.err
        results[name] = outcome.json
    return Walk(raw, pairs, run, results)


@pytest.fixture(scope="session")
def walk(crosscope: Crosscope, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Confocal to STED: one grid."""
    folder = tmp_path_factory.mktemp("walk")
    return _walk(crosscope, folder, "confocal-sted", "--pairs", "3", "--size-px", "112")


@pytest.fixture(scope="session")
def double(crosscope: Crosscope, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Wide-field 10x to 20x: half the pixel size."""
    folder = tmp_path_factory.mktemp("double")
    options = ("--sample", "filaments", "--pairs", "2", "--size-px", "256")
    return _walk(crosscope, folder, "widefield-20x", *options)
