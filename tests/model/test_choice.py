from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crosscope.data.errors import InputError, ModelError
from crosscope.data.sampling import Scaling
from crosscope.model import choice
from crosscope.model.choice import list_engines, settle_engine
from crosscope.model.engine import Engine
from crosscope.model.generator import build_generator
from crosscope.model.memory import find_memory
from crosscope.model.model import Model
from crosscope.model.reach import Reach
from crosscope.model.runners import openvino_precisions, prepare

FINE, COARSE = Engine(1, "float32"), Engine(1, "bfloat16")
COMPILED = Engine(1, "float32", "openvino")
openvino = pytest.mark.skipif(not openvino_precisions(), reason="OpenVINO is not installed")


def make_model() -> Model:
    return Model(
        network="fast",
        base=2,
        generator=build_generator("fast", 2).eval(),
        twin=None,
        source_scaling=Scaling(0.0, 1.0),
        target_scaling=Scaling(0.0, 1.0),
        source_pixel_size_nm=(30.0, 30.0),
        target_pixel_size_nm=(30.0, 30.0),
        reach=Reach(96, 48, 32),
    )


@pytest.fixture(autouse=True)
def _fresh_memory(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[Engine]]:
    """What was timed, call by call; the last of the candidates seems to be the fastest."""
    calls: list[list[Engine]] = []

    def pretend(works: dict[Engine, Callable[..., object]], _: object) -> dict[Engine, float]:
        calls.append(list(works))
        return {engine: 1 / n for n, engine in enumerate(works, start=1)}

    monkeypatch.setattr(choice, "time_engines", pretend)
    monkeypatch.setattr(choice, "prepare", lambda engine, network: abs)  # never run
    return calls


def settle(model: Model, **fixed: Any) -> tuple[Engine, list[str]]:
    told: list[str] = []
    return settle_engine(model, (200, 300), say=told.append, **fixed), told


def test_the_fastest_is_measured_once_and_remembered(timed: list[list[Engine]]) -> None:
    engine, told = settle(make_model())
    assert engine == timed[0][-1]
    assert told == [f"{engine}: {1e6 / len(timed[0]) / 256**2:.2g} s a megapixel, measured"]
    again, told = settle(make_model())
    assert again == engine
    assert len(timed) == 1
    assert told[0].endswith("measured before")
    for other in ({"threads": 1}, {"precision": "float32"}):
        settle(make_model(), **other)
    assert len(timed) == 3
    settle_engine(make_model(), (200, 30))  # another class of shapes
    settle_engine(make_model(), (140, 20))
    assert len(timed) == 4


def test_it_is_measured_again_where_the_memory_is_lost(timed: list[list[Engine]]) -> None:
    settle(make_model())
    find_memory().write_text("{")
    settle(make_model())
    assert len(timed) == 2


def test_the_real_timing_ends_in_an_engine_of_this_machine() -> None:
    engine, told = settle(make_model(), threads=1)
    assert engine in list_engines(threads=1)
    assert told[0].startswith(f"{engine}: ")


def test_what_is_given_is_kept_and_nothing_said(timed: list[list[Engine]]) -> None:
    engine, told = settle(make_model(), backend="torch", threads=3, precision="bfloat16")
    assert engine == Engine(3, "bfloat16")
    assert not told
    assert not timed
    assert not find_memory().exists()


@openvino
def test_openvino_can_be_asked_for(timed: list[list[Engine]]) -> None:
    engine, _ = settle(make_model(), backend="openvino", threads=1, precision="float32")
    assert engine == COMPILED
    settle(make_model(), backend="openvino")
    assert {engine.backend for engine in timed[0]} == {"openvino"}


def test_openvino_that_is_not_there_is_only_missed_where_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "load_openvino", lambda: None)
    monkeypatch.setattr(choice, "openvino_precisions", list)
    assert {engine.backend for engine in list_engines()} == {"torch"}
    with pytest.raises(InputError, match=r"pip install 'crosscope\[openvino\]'"):
        list_engines("openvino")


@openvino
def test_a_precision_that_the_processor_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "openvino_precisions", lambda: ["float32"])
    assert Engine(1, "bfloat16", "openvino") not in list_engines()
    with pytest.raises(InputError, match="bfloat16"):
        list_engines("openvino", precision="bfloat16")


def harm(monkeypatch: pytest.MonkeyPatch, *engines: Engine) -> None:
    """Let some engines compute something else, from the next preparation on."""

    def harmed(engine: Engine, network: Any) -> Callable[[np.ndarray], np.ndarray]:
        run = prepare(engine, network)
        return (lambda tile: run(tile) + np.float32(0.01)) if engine in engines else run

    monkeypatch.setattr(choice, "prepare", harmed)
    monkeypatch.setattr(choice, "ready", harmed)


@pytest.mark.usefixtures("timed")
def test_a_wrong_engine_is_left_aside_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = {"backend": "torch", "threads": 1}
    harm(monkeypatch, COARSE)
    engine, told = settle(make_model(), **fixed)
    assert engine == FINE
    assert told[0].startswith(f"{COARSE} is left aside: on the model's test tile")
    assert told[1].startswith(f"{FINE}: ")
    assert settle(make_model(), **fixed)[1][0].endswith("measured before")


def test_a_remembered_engine_that_has_become_wrong_is_replaced(
    timed: list[list[Engine]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = {"backend": "torch", "threads": 1}
    assert settle(make_model(), **fixed)[0] == COARSE
    harm(monkeypatch, COARSE)
    engine, told = settle(make_model(), **fixed)
    assert engine == FINE
    assert "left aside" in told[0]
    assert COARSE not in timed[1]


def test_what_was_asked_for_falls_back_where_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    harm(monkeypatch, Engine(2, "bfloat16"))
    engine, told = settle(make_model(), backend="torch", threads=2, precision="bfloat16")
    assert engine == Engine(2, "float32")
    assert len(told) == 2


def test_without_a_right_engine_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    harm(monkeypatch, FINE, COARSE)
    with pytest.raises(ModelError, match="no engine"):
        settle(make_model(), backend="torch", threads=1)


@pytest.mark.usefixtures("timed")
def test_an_engine_that_fails_is_said_and_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(engine: Engine, network: Any) -> Callable[[np.ndarray], np.ndarray]:
        if engine == COARSE:
            raise RuntimeError("not on this machine\nat line 3")
        return prepare(engine, network)

    monkeypatch.setattr(choice, "prepare", fail)
    engine, told = settle(make_model(), backend="torch", threads=1)
    assert engine == FINE
    assert told[0] == f"{COARSE} is left aside: not on this machine"


def test_an_engine_is_checked_once_for_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def note(*_: Any, precision: str) -> None:
        checked.append(precision)

    monkeypatch.setattr(choice, "find_error", note)
    model = make_model()
    for precision in ("float32", "float32", "bfloat16"):
        settle(model, backend="torch", threads=1, precision=precision)
    assert checked == ["float32", "bfloat16"]
