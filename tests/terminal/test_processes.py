"""Several processes train one model, as torchrun starts them; some are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import crosscope as cs

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
PLAN: dict[str, Any] = {"steps": 50, "base": 4, "threads": 1, "precision": "float32"}
OPTIONS = [word for name, value in PLAN.items() for word in (f"--{name}", str(value))] + [
    "--no-claims"
]
HOLDING = ("--set", "spectrum_share=0.05")


@contextmanager
def training(
    pairs: Path, run: Path, *options: str, by: Sequence[str] = TORCHRUN
) -> Iterator[subprocess.Popen[str]]:
    """Give a training that has been started; its processes end with the block, if not before."""
    command: list[str | Path]
    command = [sys.executable, *by, "-m", "crosscope", "train", pairs, run, *OPTIONS, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()  # torchrun hands it on
        process.communicate()


def finish(pairs: Path, run: Path, *options: str) -> str:
    with training(pairs, run, *options) as process:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert out.count("validation PSNR") == 1, out  # one of them speaks
    return err


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    while not list(run.glob("checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this system does not list a process's children")
    return [int(child) for child in path.read_text().split()]


def logged(model: cs.Model) -> list[dict[str, Any]]:
    return [{k: line[k] for k in ("step", "phase", "losses", "validation")} for line in model.log]


@pytest.fixture(scope="module")
def pairs(walk: Any) -> Path:
    return walk.pairs


@pytest.fixture(scope="module")
def whole(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> cs.Model:
    """Return the model of two processes that nothing interrupts."""
    run = tmp_path_factory.mktemp("processes") / "run"
    finish(pairs, run, *HOLDING)
    names = {path.name for path in run.iterdir()}
    assert names - {"tensorboard"} == {"model.zip", "log.jsonl", "checkpoints"}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    return cs.Model.load(run / "model.zip")


def test_two_processes_learn_as_one_does_from_twice_the_batch(pairs: Path, whole: cs.Model) -> None:
    one = cs.train(cs.read_registered(pairs), cs.TrainingPlan(batch=8, spectrum_share=0.05, **PLAN))
    assert (one.training["processes"], whole.training["processes"]) == (1, 2)
    assert len(whole.log) == len(one.log)
    for line, expected in zip(logged(whole), logged(one), strict=True):
        assert (line["step"], line["phase"]) == (expected["step"], expected["phase"])
        assert line["losses"] == pytest.approx(expected["losses"], rel=1e-4)
        assert line["validation"] == pytest.approx(expected["validation"], rel=1e-4, abs=1e-6)


def test_two_processes_train_members_together(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(pairs, run, "--members", "2", "--steps", "4")
    model = cs.Model.load(run / "model.zip")
    assert model.training["processes"] == 2
    assert len(model.members) == len(model.certificate["members"]) == 1
    assert (run / "member-1" / "log.jsonl").exists()


def test_when_one_is_killed_all_end_and_the_run_goes_on_exactly(
    pairs: Path, whole: cs.Model, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with training(pairs, run, *HOLDING) as process:
        wait_for_checkpoint(run, process)
        workers = children(process.pid)
        os.kill(workers[0], signal.SIGKILL)
        process.communicate()
        assert process.returncode != 0
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not (run / "model.zip").exists()
    assert "Going on from step" in finish(pairs, run, *HOLDING, "--resume")
    assert not list(run.glob(".*"))
    resumed = cs.Model.load(run / "model.zip")
    assert logged(resumed) == logged(whole)
    for name, weight in whole.generator.state_dict().items():
        assert bool((weight == resumed.generator.state_dict()[name]).all()), name


def test_another_number_of_processes_does_not_go_on(walk: Any) -> None:
    with training(walk.pairs, walk.run, "--steps", "20", "--resume") as process:
        out, err = process.communicate()
    assert process.returncode != 0
    assert "is of another number of processes: 1, now 2" in err
    assert out == ""


def test_a_training_that_is_told_to_end_tidies_up(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(pairs, run, by=()) as process:
        wait_for_checkpoint(run, process)
        assert (run / ".patches" / "source.npy").exists()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    assert not list(run.rglob(".*"))
    assert not (run / "model.zip").exists()
