import time

import pytest
import torch

from crosscope.model.engine import Engine, choose_engine, find_device, time_engines
from crosscope.model.generator import FastGenerator, PaperGenerator

X = torch.rand(1, 1, 16, 16)


def test_what_is_given_is_kept() -> None:
    network = FastGenerator(2)
    engine = choose_engine(network, X, threads=3, precision="bfloat16")
    assert engine == Engine(3, "bfloat16")
    assert choose_engine(network, X, threads=1).threads == 1
    assert choose_engine(network, X, precision="float32").precision == "float32"


def test_timing_leaves_no_trace() -> None:
    network = FastGenerator(2).eval()
    before = torch.get_num_threads()
    engine = choose_engine(network, X, threads=1)
    assert engine.precision in ("float32", "bfloat16")
    assert torch.get_num_threads() == before
    assert not network.training
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", [FastGenerator(2), PaperGenerator(2)])
def test_results_are_float32(network: FastGenerator | PaperGenerator, precision: str) -> None:
    assert Engine(1, precision).run(network, X).dtype == torch.float32


def test_bfloat16_is_used_where_asked_for() -> None:
    network = PaperGenerator(2)
    fine, coarse = (Engine(1, p).run(network, X) for p in ("float32", "bfloat16"))
    assert not torch.equal(fine, coarse)
    assert fine.detach() == pytest.approx(coarse.detach(), abs=0.1)


def test_what_is_hopeless_on_a_small_part_is_not_tried_on_the_whole() -> None:
    seen: dict[str, list[int]] = {"float32": [], "bfloat16": []}

    def slow(x: torch.Tensor) -> None:
        seen["bfloat16"].append(x.shape[-1])
        time.sleep(0.05)

    works = {
        Engine(1, "float32"): lambda x: seen["float32"].append(x.shape[-1]),
        Engine(1, "bfloat16"): slow,
    }
    seconds = time_engines(works, torch.zeros(1, 1, 96, 96))
    assert list(seconds) == [Engine(1, "float32")]
    assert set(seen["float32"]) == {64, 96}
    assert set(seen["bfloat16"]) == {64}


def test_threads_are_restored_even_after_an_error() -> None:
    before = torch.get_num_threads()
    seen = []

    def fail() -> None:
        with Engine(before + 1, "float32").in_use():
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_the_device_is_one_that_is_there() -> None:
    assert torch.zeros(1, device=find_device()).item() == 0
