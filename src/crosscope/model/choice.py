"""Model + shape of its tiles -> the engine that runs it: measured once, remembered, and checked.

At the first use on a machine all engines that there are are timed by turns; later the memory is
asked. Whatever is chosen, by whomever, must give on the model's test tile what the network gives;
what does not is left aside, and the next best taken.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from crosscope.data.cores import count_cores
from crosscope.data.errors import InputError, ModelError
from crosscope.model.engine import (
    Engine,
    describe_device,
    find_device,
    list_threads,
    list_torch_engines,
    time_engines,
)
from crosscope.model.memory import Remembered, recall, remember
from crosscope.model.model import Model
from crosscope.model.runners import load_openvino, openvino_precisions, prepare, ready
from crosscope.model.trial import Run, find_error

BACKENDS = ("torch", "openvino")
LARGEST_PX = 256  # side of what is timed: larger ones take as long for a pixel
SMALLEST_PX = 32
_RIGHT: WeakKeyDictionary[nn.Module, set[Engine]] = WeakKeyDictionary()
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Option:
    """An engine, why it is next, and what it took if that was measured just now."""

    engine: Engine
    why: str = ""
    s_per_mp: float | None = None


def settle_engine(
    model: Model,
    shape_px: tuple[int, int],
    *,
    backend: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    say: Say = lambda sentence: None,
) -> Engine:
    """Choose the fastest engine for a model on images of such a shape; what is given is kept.

    Parameters
    ----------
    model : Model
    shape_px : (y, x)
        Of the images; only its class counts, powers of two up to 256 px.
    backend : str, optional
        "torch" or "openvino".
    threads, precision : int, str, optional
        Threads of the processor, "float32" or "bfloat16".
    say : callable
        Told which engine and why, and which was wrong or could not be used.

    Returns
    -------
    Engine
        It has what was given, unless that is wrong on the model's test tile.

    Raises
    ------
    InputError
        OpenVINO is asked for and not installed, or cannot compute in that precision here.
    ModelError
        No engine computes this model rightly.
    """
    candidates = list_engines(backend, threads, precision)
    sides = [_size_class(n) for n in shape_px]
    asked = {
        "network": model.network,
        "base": model.base,
        "tile_px": sides,
        **describe_device(),
        "cores": count_cores(),
        "torch": version("torch"),
        "openvino": version("openvino") if load_openvino() else None,
        "fixed": {"backend": backend, "threads": threads, "precision": precision},
    }
    tile = np.tile(model.tile, (2, 2))[: sides[0], : sides[1]]
    tried: set[Engine] = set()

    def in_turn() -> Iterator[_Option]:
        if len(candidates) == 1:
            yield _Option(candidates[0])  # nothing was chosen
        else:
            known = recall(asked)
            if known and known.engine in candidates:
                yield _Option(known.engine, _told(known.s_per_mp, "measured before"))
            left = [engine for engine in candidates if engine not in tried]
            for engine, seconds in _measure(left, model, tile, say).items():
                s_per_mp = 1e6 * seconds / tile.size
                yield _Option(engine, _told(s_per_mp, "measured"), s_per_mp)
        yield _Option(Engine(threads or count_cores(), "float32"), "what is left")

    for option in in_turn():
        if option.engine in tried:
            continue
        tried.add(option.engine)
        wrong = _check(option.engine, model)
        if wrong is None:
            if option.why:
                say(f"{option.engine}: {option.why}")
            if option.s_per_mp is not None:
                remember(asked, Remembered(option.engine, option.s_per_mp))
            return option.engine
        say(f"{option.engine} is left aside: {wrong}")
    raise ModelError(
        f"{model.network} model",
        "no engine of this machine computes it rightly",
        "Install PyTorch again, and report this",
    )


def list_engines(
    backend: str | None = None, threads: int | None = None, precision: str | None = None
) -> list[Engine]:
    """Return the engines of this machine that have what is given.

    OpenVINO runs on the processor: where there is a card it must be asked for.

    Raises InputError where it is asked for and there is none.
    """
    device = find_device()
    if backend == "torch" or (backend is None and device.type != "cpu"):
        return list_torch_engines(device, threads, precision)
    able = [p for p in openvino_precisions() if precision in (None, p)]
    processor = torch.device("cpu")
    compiled = [Engine(t, p, "openvino") for t in list_threads(processor, threads) for p in able]
    if backend is None:
        return compiled + list_torch_engines(device, threads, precision)
    if not load_openvino():
        remedy = "Install it by pip install 'crosscope[openvino]', or choose the engine torch"
        raise InputError("openvino", "is not installed, or does not start", remedy)
    if not compiled:
        reason = f"does not compute in {precision} on this processor"
        raise InputError("openvino", reason, "Choose float32, or the engine torch")
    return compiled


def _size_class(side_px: int) -> int:
    return min(LARGEST_PX, max(SMALLEST_PX, 1 << (side_px - 1).bit_length()))


def _told(s_per_mp: float, how: str) -> str:
    return f"{s_per_mp:.2g} s a megapixel, {how}"


def _measure(
    engines: list[Engine], model: Model, tile: np.ndarray, say: Say
) -> dict[Engine, float]:
    """Return the seconds that each takes for the tile, fastest first; what fails is said."""
    runs: dict[Engine, Run] = {}
    for engine in engines:
        try:
            runs[engine] = prepare(engine, model.generator)
        except (ImportError, RuntimeError) as error:
            say(f"{engine} is left aside: {_first_line(error)}")

    if not runs:
        return {}

    def work(run: Run) -> Callable[[Tensor], object]:
        return lambda x: run(x[0].numpy())

    x = torch.from_numpy(tile)[None, None]
    seconds = time_engines({engine: work(run) for engine, run in runs.items()}, x)
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def _check(engine: Engine, model: Model) -> str | None:
    """Say what is wrong with an engine on the model's tile, once for each network."""
    right = _RIGHT.setdefault(model.generator, set())
    if engine in right:
        return None
    try:
        with engine.in_use():
            run = ready(engine, model.generator)
            wrong = find_error(run, model.generator, model.tile, precision=engine.precision)
    except (ImportError, RuntimeError) as error:
        return _first_line(error)
    if wrong is None:
        right.add(engine)
    return wrong


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
