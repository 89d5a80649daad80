"""Each command does its work, says it in the names that others read, and spares what exists."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crosscope as cs
from crosscope.model.training import descend
from crosscope.terminal import quickstart
from crosscope.terminal.commands import app

FAST = ("--steps", "20", "--base", "4", "--threads", "1", "--precision", "float32", "--no-claims")
QUICK = ("--engine", "torch", "--threads", "1", "--precision", "float32")
METHODS = {"input", "output", "target", "bicubic", "lucy_richardson", "nnls", "twin"}
COMMANDS = [command.name or "" for command in app.registered_commands]

Crosscope = Callable[..., Any]


@pytest.fixture(scope="module")
def report(crosscope: Crosscope, walk: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "report"
    truth = walk.raw / "truth"
    outcome = crosscope("evaluate", walk.model, walk.pairs, out, "--truth", truth, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads((out / "report.json").read_text()) == outcome.json
    return out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_that_uses_the_command(crosscope: Crosscope, name: str) -> None:
    outcome = crosscope(name, "--help")
    assert outcome.code == 0
    assert f"Example: crosscope {name}" in outcome.out


def test_simulate_says_where_everything_is(walk: Any) -> None:
    said = walk.results["simulate"]
    assert set(said) == {"pairs", "source", "target", "truth"}
    assert said["pairs"] == 3
    for folder in ("source", "target", "truth"):
        assert len(list(Path(said[folder]).glob("*.tif"))) == 3


def test_register_prints_what_pairs_json_holds(walk: Any) -> None:
    said = walk.results["register"]
    assert json.loads((walk.pairs / "pairs.json").read_text()) == said
    names = {"name", "accepted", "reason", "residual_px", "residual_nm", "shift_px"}
    names |= {"rotation_deg", "scale", "correlation_before", "correlation_after"}
    names |= {"source_sha256", "target_sha256"}
    assert len(said["pairs"]) == 3
    for pair in said["pairs"]:
        assert names <= set(pair)
        assert pair["accepted"]
        assert pair["correlation_after"] > pair["correlation_before"]


def test_registered_shifts_are_those_that_were_simulated(walk: Any) -> None:
    for pair in walk.results["register"]["pairs"]:
        warp = json.loads((walk.raw / "truth" / f"{pair['name']}.json").read_text())["warp"]
        true_px = np.array(warp["shift_yx_nm"]) / 30
        assert pair["shift_px"] == pytest.approx(true_px, abs=0.5)


def test_train_says_what_it_reached_and_leaves_a_log(walk: Any) -> None:
    said = walk.results["train"]
    names = {"model", "steps", "seconds", "best_step", "validation", "shares"}
    names |= {"kept", "rollbacks", "alarms", "discriminator", "processes", "waiting_share"}
    assert set(said) == names
    assert set(said["discriminator"]) == {"accuracy", "loss", "lowest_loss"}
    assert said["alarms"] == []
    assert said["processes"] == 1
    assert 0 <= said["waiting_share"] <= 1
    assert said["steps"] == 20
    assert set(said["shares"]) == {"adversarial", "mse", "ssim"}
    assert sum(said["shares"].values()) == pytest.approx(1)
    assert Path(said["model"]).exists()
    lines = (walk.run / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 20
    assert list((walk.run / "checkpoints").iterdir())


def test_evaluate_measures_every_method_against_the_truth(report: Path) -> None:
    said = json.loads((report / "report.json").read_text())
    summary = said["summary"]
    assert summary["reference"] == "truth"
    names = {
        "fwhm_nm": {"median", "sd", "low", "high", "n"},
        "psnr_db": {"median", "low", "high", "n"},
        "ssim": {"median", "low", "high", "n"},
        "spots": {"f1", "missed", "invented"},
    }
    for figure, parts in names.items():
        assert set(summary[figure]) == METHODS
        assert all(parts <= set(numbers) for numbers in summary[figure].values())
    assert set(summary["resolved_nm"]) == METHODS
    assert [field["name"] for field in said["fields"]] == ["0000", "0001", "0002"]
    assert {field["seen"] for field in said["fields"]} == {"training", "validation"}
    assert summary["fwhm_nm"]["target"]["median"] < summary["fwhm_nm"]["input"]["median"]
    assert (report / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "<canvas" in (report / "report.html").read_text()


def test_evaluate_without_truth_holds_all_against_the_target(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    outcome = crosscope("evaluate", walk.model, walk.pairs, tmp_path / "report", "--json")
    summary = outcome.json["summary"]
    assert summary["reference"] == "target"
    assert summary["ssim"]["target"]["median"] == pytest.approx(1)
    assert summary["psnr_db"]["target"]["median"] is None
    assert "reference" in summary["psnr_db"]["target"]["reason"]


def test_evaluate_prints_a_table_whose_figures_are_whole(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    outcome = crosscope("evaluate", walk.model, walk.pairs, tmp_path / "report")
    assert "Lucy-Richardson" in outcome.out
    assert "invented" in outcome.out
    assert "…" not in outcome.out


def test_measure_writes_a_figure_a_table_and_a_plot(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    csv, plot = tmp_path / "a.csv", tmp_path / "a.png"
    asked = ("--csv", csv, "--plot", plot, "--json")
    said = crosscope("measure", "spectrum", walk.image, *asked).json
    assert {"measure", "value", "unit", "low", "high", "n"} <= set(said)
    assert (said["measure"], said["unit"]) == ("spectrum", "nm")
    assert csv.read_text().startswith("frequency_per_nm,power")
    assert plot.exists()
    again = crosscope("measure", "psf", walk.image, "--csv", csv)
    assert again.code == 2
    assert "a.csv" in again.err
    plain = crosscope("measure", "frc", walk.image)
    assert plain.code == 0
    assert plain.out.startswith("frc: ")
    assert crosscope("measure", "squirrel", walk.image).code == 2


def test_a_learning_curve_goes_into_the_model_and_its_report(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = ["--steps", "4", "--base", "4", "--threads", "1", "--precision", "float32"]
    asked.append("--no-claims")
    said = crosscope("train", walk.pairs, run, *asked, "--learning-curve", "--json").json
    assert [point["pairs"] for point in said["learning_curve"]] == [1, 2]
    assert all(point["psnr_db"] > 0 for point in said["learning_curve"])
    report = crosscope("evaluate", run / "model.zip", walk.pairs, tmp_path / "report", "--json")
    assert report.json["learning_curve"] == said["learning_curve"]
    assert report.json["learning_curve_reason"] is None


@pytest.mark.parametrize("kind", ["image", "folder", "pairs", "model"])
def test_info_tells_what_is_understood(crosscope: Crosscope, walk: Any, kind: str) -> None:
    paths = {"image": walk.image, "folder": walk.raw / "source", "pairs": walk.pairs}
    path = paths.get(kind, walk.model)
    said = crosscope("info", path, "--json").json
    names = {"kind", "axes", "shape", "dtype", "pixel_size_nm", "channels", "assumed"}
    assert names <= set(said)
    assert (said["kind"], said["pixel_size_nm"]) == (kind, [30.0, 30.0])
    plain = crosscope("info", path)
    assert plain.code == 0
    assert f"kind: {kind}" in plain.out


def test_existing_output_is_kept_without_overwrite(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    def never(name: str, *arguments: str | Path) -> None:
        out = tmp_path / name
        out.mkdir()
        (out / "mine").write_text("mine")
        outcome = crosscope(name, *(out if part == "OUT" else part for part in arguments))
        assert outcome.code == 2
        assert outcome.err.strip() == (
            f"crosscope: {out}: exists already. Choose another name or pass --overwrite."
        )
        assert [(file.name, file.read_text()) for file in out.iterdir()] == [("mine", "mine")]

    never("simulate", "confocal-sted", "OUT", "--pairs", "1", "--size-px", "64")
    never("register", walk.raw / "source", walk.raw / "target", "OUT")
    never("train", walk.pairs, "OUT", *FAST)
    never("evaluate", walk.model, walk.pairs, "OUT")
    never("predict", walk.model, walk.raw / "source", "OUT")
    never("quickstart", "OUT")


def test_overwrite_replaces_a_folder_as_a_whole(crosscope: Crosscope, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    out.mkdir()
    (out / "old").touch()
    options = ("--pairs", "1", "--size-px", "64", "--overwrite")
    assert crosscope("simulate", "confocal-sted", out, *options).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["source", "target", "truth"]


def test_resume_goes_on_to_the_same_weights(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(walk.run, run)
    last = max((run / "checkpoints").iterdir())
    assert len(list((run / "checkpoints").iterdir())) == 2
    last.unlink()  # as if killed before the last checkpoint
    (run / "model.zip").unlink()
    outcome = crosscope("train", walk.pairs, run, *FAST, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    assert "Going on from step 19" in outcome.err
    whole, resumed = cs.Model.load(walk.model), cs.Model.load(run / "model.zip")
    for name, weight in whole.generator.state_dict().items():
        assert bool((weight == resumed.generator.state_dict()[name]).all()), name


def test_resume_of_a_finished_run_gives_its_model_again(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(walk.run, run)
    outcome = crosscope("train", walk.pairs, run, *FAST, "--resume", "--json")
    assert outcome.json["steps"] == 20
    assert outcome.json["best_step"] == walk.results["train"]["best_step"]


def test_resume_with_another_plan_is_refused(crosscope: Crosscope, walk: Any) -> None:
    before = walk.model.read_bytes()
    outcome = crosscope("train", walk.pairs, walk.run, *FAST, "--seed", "5", "--resume")
    assert outcome.code == 2
    assert "another seed" in outcome.err
    assert walk.model.read_bytes() == before


def test_set_chooses_a_field_of_the_plan_and_resume_asks_for_it_again(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    chosen = {"warm_share": 0.5, "batch": 2, "decay": False, "training_fields": 1}
    options = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    outcome = crosscope("train", walk.pairs, run, *FAST, *options)
    assert outcome.code == 0, outcome.err
    model = cs.Model.load(run / "model.zip")
    assert {name: model.plan[name] for name in chosen} == chosen
    assert {line["phase"] for line in model.log} == {"warm", "discriminator", "adversarial"}
    assert "The discriminator only guessed" in outcome.err
    assert "discriminator: accuracy 0." in crosscope("info", run / "model.zip").out
    (run / "model.zip").unlink()
    max((run / "checkpoints").iterdir()).unlink()
    other = crosscope("train", walk.pairs, run, *FAST, *options[2:], "--resume")
    assert other.code == 2
    assert "another warm_share" in other.err
    assert crosscope("train", walk.pairs, run, *FAST, *options, "--resume").code == 0
    resumed = cs.Model.load(run / "model.zip").generator.state_dict()
    for name, weight in model.generator.state_dict().items():
        assert bool((weight == resumed[name]).all()), name


def test_init_starts_from_a_model(crosscope: Crosscope, walk: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = crosscope("train", walk.pairs, run, *FAST, "--init", walk.model, "--json")
    assert outcome.code == 0, outcome.err
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    scratch = json.loads((walk.run / "log.jsonl").read_text().splitlines()[0])
    assert first["losses"]["mse"] != scratch["losses"]["mse"]


@pytest.mark.parametrize(
    ("name", "made"), [("confocal-sted-beads", None), ("widefield-20x-dapi", "650 to 325 nm")]
)
def test_init_takes_the_name_of_a_model_and_tells_of_other_pixels(
    crosscope: Crosscope, walk: Any, tmp_path: Path, name: str, made: str | None
) -> None:
    options = ("--steps", "1", "--threads", "1", "--precision", "float32", "--no-claims")
    outcome = crosscope("train", walk.pairs, tmp_path / "run", *options, "--init", name)
    assert outcome.code == 0, outcome.err
    told = [line for line in outcome.err.splitlines() if "does not fit" in line]
    assert len(told) == bool(made)
    assert all(f"made for pixels of {made}" in line for line in told)


def test_init_of_another_width_is_refused(crosscope: Crosscope, walk: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = crosscope(
        "train", walk.pairs, run, "--base", "8", "--steps", "1", "--init", walk.model
    )
    assert outcome.code == 2
    assert "base 4" in outcome.err
    assert not run.exists()


def test_the_paper_preset_trains_the_papers_network(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    options = ["--preset", "paper", "--base", "2", "--steps", "1"]
    options += ["--threads", "1", "--precision", "float32", "--no-claims"]
    run = tmp_path / "run"
    assert crosscope("train", walk.pairs, run, *options).code == 0
    assert cs.Model.load(run / "model.zip").network == "paper"


def test_quickstart_walks_the_whole_path(
    crosscope: Crosscope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TRAINING_PAIRS": 2, "TEST_PAIRS": 1, "SIZE_PX": 112}.items():
        monkeypatch.setattr(quickstart, name, value)
    plan = functools.partial(cs.TrainingPlan, base=4, threads=1, precision="float32")
    monkeypatch.setattr(cs, "TrainingPlan", plan)
    monkeypatch.setattr("crosscope.quality.claim.MOST_FIELDS", 2)
    out = tmp_path / "quickstart"
    outcome = crosscope("quickstart", out, "--minutes", "0.01", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["summary"]["reference"] == "truth"
    assert {field["seen"] for field in outcome.json["fields"]} == {None}
    assert "claim" in cs.Model.load(out / "run" / "model.zip").certificate
    assert (out / "report" / "picture.png").exists()
    assert (out / "predicted" / "0000.tif").exists()


def test_interrupting_says_so_and_leaves_no_half_result(
    crosscope: Crosscope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crosscope.optics.systems.write_image", interrupt)
    outcome = crosscope("simulate", "confocal-sted", tmp_path / "raw", "--pairs", "1")
    assert (outcome.code, outcome.err.strip()) == (130, "Stopped.")
    assert not list(tmp_path.iterdir())


def test_interrupted_training_can_be_resumed(
    crosscope: Crosscope, walk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("crosscope.model.training.descend", _stop_after(5))
        assert crosscope("train", walk.pairs, run, *FAST).code == 130
    assert not (run / "model.zip").exists()
    outcome = crosscope("train", walk.pairs, run, *FAST, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    weights = cs.Model.load(run / "model.zip").generator.state_dict()
    for name, weight in cs.Model.load(walk.model).generator.state_dict().items():
        assert bool((weight == weights[name]).all()), name


def test_members_learn_beside_the_model_and_raise_the_map(
    crosscope: Crosscope, walk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, two = tmp_path / "run", (*FAST, "--members", "2")
    with monkeypatch.context() as patch:
        patch.setattr("crosscope.model.training.descend", _stop_after(30))  # in the member
        assert crosscope("train", walk.pairs, run, *two).code == 130
    assert cs.Model.load(run / "model.zip").members == ()
    outcome = crosscope("train", walk.pairs, run, *two, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    model = cs.Model.load(run / "model.zip")
    (member,) = model.members
    assert len(model.certificate["members"]) == 1
    assert (run / "member-1" / "log.jsonl").exists()
    assert crosscope("info", run / "model.zip", "--json").json["members"] == 1
    for name, weight in cs.Model.load(walk.model).generator.state_dict().items():
        assert bool((weight == model.generator.state_dict()[name]).all()), name

    with torch.no_grad():
        for weight in member.parameters():
            weight.mul_(1.5)
    model.save(tmp_path / "other.zip")
    maps = []
    for name, path in (("a", run / "model.zip"), ("b", tmp_path / "other.zip")):
        out = tmp_path / f"{name}.tif"
        asked = ("predict", path, walk.image, out, "--check", "full", "--force", *QUICK)
        outcome = crosscope(*asked)
        assert outcome.code == 0, outcome.err
        maps.append(cs.read_image(tmp_path / f"{name}.trust.tif").pixels.astype(int))
    assert maps[1].max() > maps[0].max() + 20


def _stop_after(steps: int) -> Callable[..., None]:
    left = iter(range(steps))

    def descend_or_stop(*given: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        descend(*given)

    return descend_or_stop
