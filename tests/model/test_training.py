import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam

from crosscope.data.errors import ModelError, PairError
from crosscope.data.images import Image
from crosscope.data.registered import RegisteredPair, Transform
from crosscope.data.sampling import STACKS
from crosscope.model import training
from crosscope.model.alarms import GUESSING
from crosscope.model.batches import Data
from crosscope.model.model import Model
from crosscope.model.plan import TrainingPlan
from crosscope.model.state import Progress, load_checkpoint
from crosscope.model.training import LONGEST, Moment, TrainingError, descend, train, usual_length
from crosscope.model.trial import cut_tile
from crosscope.prediction.images import SAME_PIXEL


def spots(
    seed: int, *, shape: tuple[int, int] = (96, 96), pixel_nm: float = 30.0
) -> RegisteredPair:
    """Return the same Gaussian spots, wide in the source and small in the target."""
    random = np.random.default_rng(seed)
    y, x = np.indices(shape)
    places = random.uniform((0, 0), shape, (shape[0] * shape[1] // 800, 2))
    squares = [(y - py) ** 2 + (x - px) ** 2 for py, px in places]

    def see(sigma_px: float, peak: float, level: float) -> Image:
        light = sum(np.exp(-square / (2 * sigma_px**2)) for square in squares)
        pixels = (level + random.poisson(peak * light + 4)).astype(np.float32)
        return Image(pixels, "yx", (pixel_nm, pixel_nm), name=f"field{seed}")

    return RegisteredPair(
        name=f"field{seed}",
        source=see(4.0, 200, 100),
        target=see(1.6, 500, 50),
        transform=Transform(np.eye(2, 3)),
        origin_yx_px=(0, 0),
        source_pixel_size_nm=(pixel_nm, pixel_nm),
        residual_px=0.02,
        correlation_before=0.5,
        correlation_after=0.9,
        source_sha256=f"s{seed}",
        target_sha256=f"t{seed}",
    )


PAIRS = [spots(seed) for seed in range(3)]
# warm: steps 1 to 8, the discriminator alone: 9 and 10, adversarial: 11 to 16
PLAN = TrainingPlan(
    steps=16,
    batch=2,
    patch_px=32,
    base=4,
    discriminator_base=2,
    warm_share=0.5,
    threads=1,
    precision="float32",
)


@pytest.fixture(autouse=True, scope="module")
def few_moments() -> Iterator[None]:
    """Validate and save after steps 4, 8, 10 (the discriminator's last), 12 and 16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "MOMENTS", 4)
        patch.setattr(training, "DISCRIMINATOR_SHARE", 0.25)
        patch.setattr(training, "VALIDATION_PATCHES", 8)
        yield


def lines(model: Model) -> list[dict[str, Any]]:
    """Return the log without what differs from run to run."""
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "waiting_share")}
        for line in model.log
    ]


def assert_same(a: nn.Module | None, b: nn.Module | None) -> None:
    assert a is not None
    assert b is not None
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


class KilledError(Exception):
    pass


def kill_at(step: int) -> Callable[[Moment], None]:
    def watch(moment: Moment) -> None:
        if moment.step == step:
            raise KilledError

    return watch


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir())


# --- what a run gives -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> Model:
    """Return the model of a run that nothing interrupts."""
    return train(PAIRS, PLAN)


def test_the_test_tile_is_from_a_validation_field(whole: Model) -> None:
    (held_out,) = (seen.name for seen in whole.fields if seen.part == "validation")
    (pair,) = (pair for pair in PAIRS if pair.name == held_out)
    assert np.array_equal(whole.tile, cut_tile(whole.source_scaling.apply(pair.source.pixels)))
    assert whole.tile.std() > 0.01


def test_a_model_tells_what_it_is_and_what_it_saw(whole: Model) -> None:
    assert (whole.network, whole.base) == ("fast", 4)
    assert whole.plan["steps"] == 16
    assert whole.source_pixel_size_nm == whole.target_pixel_size_nm == (30.0, 30.0)
    assert whole.source_scaling.offset == pytest.approx(104, abs=15)
    assert whole.target_scaling.offset == pytest.approx(54, abs=5)
    parts = {seen.name: seen.part for seen in whole.fields}
    assert sorted(parts.values()) == ["training", "training", "validation"]
    assert {seen.source_sha256 for seen in whole.fields} == {"s0", "s1", "s2"}
    assert whole.reach.exact_px == 96
    assert whole.training["steps"] == 16
    assert whole.training["best_step"] == 16
    assert not whole.generator.training


def test_it_has_a_twin_from_before_the_adversarial_phase(whole: Model) -> None:
    assert whole.twin is not None
    twin, generator = whole.twin.state_dict(), whole.generator.state_dict()
    assert any(not torch.equal(twin[name], generator[name]) for name in twin)


def test_the_log_has_the_three_phases(whole: Model) -> None:
    assert [line["step"] for line in whole.log] == [4, 8, 10, 12, 16]
    phases = [line["phase"] for line in whole.log]
    assert phases == ["warm", "warm", "discriminator", "adversarial", "adversarial"]
    for line in whole.log:
        assert sum(line["shares"].values()) == pytest.approx(1)
        assert ("discriminator" in line["losses"]) == (line["phase"] != "warm")
        assert ("adversarial" in line["losses"]) == (line["phase"] == "adversarial")
        assert line["validation"]["psnr_db"] == pytest.approx(
            -10 * math.log10(line["validation"]["mse"])
        )


def test_in_the_warm_start_ssim_only_leads_at_first() -> None:
    log = train(PAIRS, replace(PLAN, warm_share=1.0, steps=96, warm_ssim=1.0)).log
    shares = [line["shares"]["ssim"] for line in log]
    assert shares[0] > 0.5
    assert shares[-1] < 0.05
    assert all(line["validation"]["loss"] == line["validation"]["mse"] for line in log)


def test_the_generator_waits_while_the_discriminator_learns(whole: Model) -> None:
    best_warm = min(whole.log[:2], key=lambda line: line["validation"]["loss"])
    assert whole.log[2]["validation"] == best_warm["validation"]


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_the_terms_have_the_asked_shares_when_the_adversarial_phase_begins(share: float) -> None:
    # the batches are drawn anew, so that a mean over few of them scatters
    plan = replace(
        PLAN, steps=40, batch=8, mse_share=share, ssim_share=share, adversarial_rate=1e-9
    )
    shares = [line["shares"] for line in train(PAIRS, plan).log if line["phase"] == "adversarial"]
    for name in ("mse", "ssim"):
        assert np.mean([part[name] for part in shares]) == pytest.approx(share, rel=0.2)


HOLDING = replace(PLAN, mse_share=0.3, ssim_share=0.1, spectrum_share=0.4)


def test_so_has_the_term_of_the_spectrum() -> None:
    plan = replace(HOLDING, steps=40, batch=8, adversarial_rate=1e-9)
    lines = [line for line in train(PAIRS, plan).log if line["phase"] == "adversarial"]
    for name, share in (("mse", 0.3), ("spectrum", 0.4)):
        # the spectrum's is of the running mean: no batch's chance is in it
        assert np.mean([line["shares"][name] for line in lines]) == pytest.approx(share, rel=0.2)


def test_the_term_of_the_spectrum_brings_it_nearer_to_the_targets() -> None:
    plan = replace(HOLDING, batch=8)
    state = training.start(plan, None, torch.device("cpu"))
    state.progress.phase, state.progress.mse_weight = "adversarial", 0.0
    state.progress.spectrum_weight = 1.0
    state.progress.target_noise = {"gain": 0.0, "read_noise": 0.1, "zero": 0.0}
    for group in state.optimiser.param_groups:
        group["lr"] = 3e-3
    target = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    target = F.avg_pool2d(target, 3, stride=1, padding=1)
    source = F.avg_pool2d(target, 5, stride=1, padding=2)
    off = [training.train_step(state, plan, source, target)["spectrum"] for _ in range(60)]
    assert np.mean(off[-10:]) < 0.2 * off[0]


def test_a_run_with_the_term_of_the_spectrum_goes_on_exactly(tmp_path: Path) -> None:
    run = tmp_path / "run"
    straight = train(PAIRS, HOLDING, run=run)
    # as if it had been killed on the way there
    max((run / "checkpoints").glob("step-*")).unlink()
    resumed = train(PAIRS, HOLDING, run=run, resume=True)
    assert_same(resumed.generator, straight.generator)
    assert lines(resumed) == lines(straight)


def test_a_gradient_far_longer_than_the_usual_is_shortened() -> None:
    weights = nn.Parameter(torch.zeros(20))
    optimiser = Adam([weights], lr=0.1, betas=(0.9, 0.99))
    assert usual_length(optimiser) == 1
    generator, squares = torch.Generator().manual_seed(0), 0.0
    for step in range(1, 60):
        weights.grad = 1e-4 * torch.randn(20, generator=generator)
        before = weights.grad.clone()
        descend(optimiser)
        squares = 0.99 * squares + 0.01 * float(weights.grad.square().sum())
        usual = (squares / (1 - 0.99**step)) ** 0.5
        assert usual_length(optimiser) == pytest.approx(usual, rel=1e-4)
        assert float(weights.grad.norm()) > 0.8 * float(before.norm())
    weights.grad = torch.full((20,), 0.1)  # shorter than 1, a thousand times the usual
    descend(optimiser)
    assert float(weights.grad.norm()) == pytest.approx(LONGEST * usual, rel=1e-3)


def test_gradients_of_nothing_stop_no_later_ones() -> None:
    weights = nn.Parameter(torch.zeros(3))
    optimiser = Adam([weights], betas=(0.9, 0.99))
    for length in (0.0, 0.5):
        weights.grad = torch.full((3,), length)
        descend(optimiser)
        assert float(weights.grad[0]) == pytest.approx(length, rel=1e-4)


def test_without_an_adversarial_phase_there_is_no_twin() -> None:
    model = train(PAIRS, replace(PLAN, warm_share=1.0, steps=4))
    assert model.twin is None
    assert {line["phase"] for line in model.log} == {"warm"}
    assert model.training["shares"]["adversarial"] == 0


def test_training_brings_the_output_nearer_to_the_target() -> None:
    plan = replace(PLAN, warm_share=1.0, steps=80, ema=0.9, learning_rate=5e-3)
    model = train(PAIRS, plan)
    first, last = model.log[0]["validation"], model.log[-1]["validation"]
    assert last["loss"] < first["loss"]
    assert last["psnr_db"] > first["psnr_db"] + 1


def test_the_kept_weights_are_the_last_sound_ones(whole: Model) -> None:
    assert whole.training["best_step"] == 16
    assert whole.training["validation"] == whole.log[-1]["validation"]
    assert whole.log[-1]["phase"] == "adversarial"


@pytest.mark.parametrize(("phase", "kept"), [("warm", 1.0), ("adversarial", 2.0)])
def test_a_higher_loss_is_kept_of_the_adversarial_phase_only(phase: str, kept: float) -> None:
    state = training.start(PLAN, None, torch.device("cpu"))
    for value in (1.0, 2.0):
        for weights in state.average.parameters():
            weights.data.fill_(value)
        training.keep(state, {"loss": value}, phase)
    assert state.progress.best[phase]["loss"] == kept
    assert {float(weights.min()) for weights in state.kept[phase].values()} == {kept}


def test_the_discriminator_is_shown_outputs_with_noise_like_the_targets() -> None:
    state = training.start(PLAN, None, torch.device("cpu"))  # the identity
    rng = np.random.default_rng(4)
    light = torch.from_numpy(rng.random((64, 1, 48, 48), np.float32)).cumsum(-1) / 24
    variance = 0.02 * light + 0.03**2
    taken = light + variance.sqrt() * torch.from_numpy(rng.standard_normal(light.shape, np.float32))
    data = Data(light, taken)
    found = training.measure_target_noise(state, PLAN, data, range(16))
    assert found["gain"] == pytest.approx(0.02, rel=0.1)
    state.progress.target_noise = found
    grain = torch.from_numpy(rng.standard_normal(light.shape, np.float32))
    output = light.clone().requires_grad_()
    shown = training.as_taken(output, grain, state.progress)
    dark, bright = light < 0.3, light > 0.8
    for part in (dark, bright):
        spread = float((shown.detach() - light)[part].square().mean())
        assert spread == pytest.approx(float(variance[part].mean()), rel=0.15)
    cubes = float((shown.detach() - light)[dark].pow(3).mean())
    assert cubes == pytest.approx(0.02 * float(variance[dark].mean()), rel=0.25)  # as of photons
    shown.sum().backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert torch.equal(output.grad, torch.ones_like(output))  # the noise is not the network's


@pytest.mark.parametrize("parts", [1, 2])
def test_the_discriminator_never_sees_an_output_without_noise(
    parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, accumulate=parts)
    state = training.start(plan, None, torch.device("cpu"))
    state.progress.phase = "adversarial"
    state.progress.target_noise = {"gain": 0.0, "read_noise": 0.1, "zero": 0.0}
    flat = torch.full((plan.batch * parts, 1, plan.patch_px, plan.patch_px), 0.5)
    shown: list[torch.Tensor] = []
    judge = state.discriminator.forward

    def look(y: torch.Tensor) -> torch.Tensor:
        shown.append(y.detach())
        return judge(y)

    monkeypatch.setattr(state.discriminator, "forward", look)
    training.train_step(state, plan, flat, flat)
    training.terms_of(state, plan, Data(flat, flat), 0)
    assert len(shown) == 3 * parts
    real, fake = shown[0].chunk(2)
    assert torch.equal(real, flat[: plan.batch])
    for images in (fake, *shown[parts:]):
        assert float(images[-plan.batch :].std()) == pytest.approx(0.1, rel=0.1)


def test_the_seed_decides(whole: Model) -> None:
    again = train(PAIRS, PLAN)
    assert_same(whole.generator, again.generator)
    assert_same(whole.twin, again.twin)
    assert lines(whole) == lines(again)
    other = train(PAIRS, replace(PLAN, seed=1, steps=4))
    assert not torch.equal(next(whole.generator.parameters()), next(other.generator.parameters()))


def test_a_paper_network_is_trained_the_same_way() -> None:
    model = train(PAIRS, replace(PLAN, network="paper", steps=8, batch=1))
    assert model.reach.exact_px == 128
    assert model.twin is not None


def test_a_run_of_minutes_ends_and_goes_through_all_phases() -> None:
    plan = replace(PLAN, steps=None, minutes=0.02)
    done: list[float] = []
    model = train(PAIRS, plan, watch=lambda moment: done.append(moment.done))
    assert done == sorted(done)
    assert done[-1] == 1
    assert model.twin is not None


@pytest.mark.parametrize(("parts", "spectrum_share"), [(2, 0.05), (4, 0.0)])
def test_accumulated_batches_are_one_large_batch(parts: int, spectrum_share: float) -> None:
    plan = replace(PLAN, spectrum_share=spectrum_share)
    large = train(PAIRS, replace(plan, batch=4))
    small = train(PAIRS, replace(plan, batch=4 // parts, accumulate=parts))
    assert [line["step"] for line in small.log] == [line["step"] for line in large.log]
    for line, expected in zip(small.log, large.log, strict=True):
        assert line["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        assert line["validation"] == pytest.approx(expected["validation"], rel=1e-5, abs=1e-6)
    weights = zip(small.generator.parameters(), large.generator.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in weights)


# --- what goes wrong and is rolled back -----------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate after every step."""
    monkeypatch.setattr(training, "MOMENTS", 16)


ABSURD = replace(PLAN, adversarial_rate=3.0)


def test_a_sound_training_rings_no_alarm(whole: Model) -> None:
    assert all(line["alarms"] == [] and not line["rolled_back"] for line in whole.log)
    assert (whole.training["kept"], whole.training["rollbacks"]) == ("adversarial", 0)
    assert whole.training["alarms"] == []


def test_a_discriminator_that_only_guessed_is_told_at_the_end() -> None:
    said: list[str] = []
    model = train(PAIRS, PLAN, say=said.append)
    assert said[-1].startswith("The discriminator only guessed (its lowest loss is 1.38")
    assert "nearly its twin" in said[-1]
    assert "warm_share" in said[-1]
    assert "discriminator_rate" in said[-1]
    last, told = model.log[-1]["losses"], model.training["discriminator"]
    assert told["accuracy"] == last["discriminator_accuracy"]
    assert told["loss"] == last["discriminator"]
    lines = [line["losses"] for line in model.log if "discriminator" in line["losses"]]
    lowest = min(losses["discriminator"] for losses in lines)
    assert told["lowest_loss"] == min(lowest, 2 * math.log(2))


def test_nothing_is_told_of_a_discriminator_that_learned_or_never_began() -> None:
    said: list[str] = []
    for loss in (0.5, GUESSING):
        training.tell_guessing(Progress(discriminator_loss=loss), said.append)
    assert said == []
    model = train(PAIRS, replace(PLAN, warm_share=1.0, steps=4), say=said.append)
    assert model.training["discriminator"] is None
    assert not [sentence for sentence in said if "discriminator" in sentence]


@pytest.mark.usefixtures("often")
def test_an_absurd_rate_is_rolled_back_and_ends_with_the_twin() -> None:
    said: list[str] = []
    model = train(PAIRS, ABSURD, say=said.append)
    twin = train(PAIRS, replace(PLAN, adversarial_rate=1e-12)).twin
    assert_same(model.generator, twin)
    assert (model.training["kept"], model.training["rollbacks"]) == ("warm", 3)
    assert model.twin is None
    rolled_back = [line for line in model.log if line["rolled_back"]]
    assert len(rolled_back) == 3
    assert model.log[-1] == rolled_back[-1]
    assert model.log[-1]["step"] < 16
    for line in rolled_back:
        for alarm in line["alarms"]:
            assert sum(alarm["name"] in sentence for sentence in said) >= 1
            assert any(alarm["remedy"] in sentence for sentence in said)
            told = f"step {line['step']}, {alarm['name']}: "
            assert any(words.startswith(told) for words in model.training["alarms"])
    assert "--set NAME=VALUE" in next(sentence for sentence in said if "Back to" in sentence)
    assert "twin" in said[-1]
    warm = max(line["validation"]["psnr_db"] for line in model.log if line["phase"] == "warm")
    assert model.training["validation"]["psnr_db"] == pytest.approx(warm, abs=0.1)


@pytest.mark.usefixtures("often")
def test_after_a_roll_back_share_and_rates_are_halved_and_all_else_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = []
    roll_back = training.roll_back

    def look(state: Any, alarms: Any, say: Any) -> None:
        before = {name: tensor.clone() for name, tensor in state.sound.items()}
        weight = state.progress.adversarial_weight
        roll_back(state, alarms, say)
        after = state.tensors()
        assert after.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
        assert state.progress.adversarial_weight == weight / 2
        states.append(state)

    monkeypatch.setattr(training, "roll_back", look)
    train(PAIRS, ABSURD)
    assert len(states) == 3
    training.set_rates(states[0], replace(ABSURD, decay=False), 0.9)
    assert states[0].optimiser.param_groups[0]["lr"] == ABSURD.adversarial_rate / 8
    rate = states[0].discriminator_optimiser.param_groups[0]["lr"]
    assert rate == ABSURD.discriminator_rate / 8


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_run_killed_after_a_roll_back_goes_on_exactly(tmp_path: Path, after: int) -> None:
    run = tmp_path / "run"
    straight = train(PAIRS, ABSURD)
    step = [line["step"] for line in straight.log if line["rolled_back"]][after]
    try:
        train(PAIRS, ABSURD, run=run, watch=kill_at(step + 1))
    except KilledError:
        assert after < 2
    resumed = train(PAIRS, ABSURD, run=run, resume=True)
    assert_same(resumed.generator, straight.generator)
    assert lines(resumed) == lines(straight)
    assert resumed.training["rollbacks"] == 3


# --- where it starts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source_nm", "target_nm", "words"),
    [
        ((30.0, 30.0), (30.0, 30.0), None),
        ((30.5, 29.5), (30.3, 30.0), None),
        ((31.0, 30.0), (30.0, 30.0), "31 x 30 to 30 nm"),
        ((650.0, 650.0), (325.0, 325.0), "650 to 325 nm"),
    ],
)
def test_a_start_made_for_other_pixels_is_told(
    whole: Model,
    source_nm: tuple[float, float],
    target_nm: tuple[float, float],
    words: str | None,
) -> None:
    said: list[str] = []
    init = replace(whole, source_pixel_size_nm=source_nm, target_pixel_size_nm=target_nm)
    train(PAIRS, replace(PLAN, steps=1), init=init, say=said.append)
    told = [sentence for sentence in said if "does not fit" in sentence]
    assert bool(told) == bool(words)
    if words:
        assert f"made for pixels of {words} (source to target)" in told[0]
        assert "these pairs have 30 to 30 nm" in told[0]


def test_pixel_sizes_are_the_same_where_prediction_takes_them_as_the_same() -> None:
    assert training.SAME_PIXEL == SAME_PIXEL


# --- what it writes -------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_run_leaves_its_log_two_checkpoints_and_curves(run: Path, whole: Model) -> None:
    model = train(PAIRS, PLAN, run=run)
    assert_same(model.generator, whole.generator)
    written = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert written == list(model.log)
    names = [path.name for path in checkpoints(run)]
    assert names == ["step-000000012.safetensors", "step-000000016.safetensors"]
    pytest.importorskip("tensorboard")
    assert list((run / "tensorboard").iterdir())


@pytest.mark.parametrize("step", [6, 8, 9, 11, 14, 16])
def test_a_killed_run_goes_on_as_if_nothing_had_been(run: Path, whole: Model, step: int) -> None:
    with pytest.raises(KilledError):
        train(PAIRS, PLAN, run=run, watch=kill_at(step))
    resumed = train(PAIRS, PLAN, run=run, resume=True)
    assert_same(resumed.generator, whole.generator)
    assert_same(resumed.twin, whole.twin)
    assert lines(resumed) == lines(whole)
    written = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert written == list(resumed.log)


def test_while_a_run_learns_its_patches_lie_on_the_disk(run: Path, whole: Model) -> None:
    (run / "..patches.1.part").mkdir(parents=True)  # a killed run's remains
    seen = []

    def watch(_: Moment) -> None:
        seen.append([np.load(run / ".patches" / name, mmap_mode="r") for name in STACKS])

    model = train(PAIRS, PLAN, run=run, watch=watch)
    assert_same(model.generator, whole.generator)
    source, target = seen[-1]
    assert source.shape == target.shape
    assert len(source) > 2
    assert 0.5 < float(target.max()) < 5  # scaled
    assert not list(run.glob(".*"))


def test_no_patches_stay_where_training_fails(run: Path) -> None:
    with pytest.raises(KilledError):
        train(PAIRS, PLAN, run=run, watch=kill_at(1))
    assert not list(run.glob(".*"))


def test_the_share_of_waiting_is_measured(run: Path) -> None:
    with pytest.raises(KilledError):
        train(PAIRS, PLAN, run=run, watch=kill_at(11))
    model = train(PAIRS, PLAN, run=run, resume=True)
    shares = [line["waiting_share"] for line in model.log] + [model.training["waiting_share"]]
    assert all(0 <= share < 1 for share in shares)
    assert len(shares) == 6


def test_moments_are_laid_out_as_their_weights_are(run: Path) -> None:
    train(PAIRS, replace(PLAN, base=16, steps=2), run=run)
    state = training.start(replace(PLAN, base=16), None, torch.device("cpu"))
    checkpoint = load_checkpoint(run / "checkpoints")
    state.restore(checkpoint.tensors, checkpoint.progress)
    weight = state.generator.down1[0].a.weight  # type: ignore[union-attr, index]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert state.optimiser.state[weight][moment].stride() == weight.stride()


@pytest.mark.parametrize("harm", ["truncated", "emptied", "text"])
def test_a_corrupt_checkpoint_is_passed_over(run: Path, whole: Model, harm: str) -> None:
    with pytest.raises(KilledError):
        train(PAIRS, PLAN, run=run, watch=kill_at(14))
    newest = checkpoints(run)[-1]
    content = newest.read_bytes()
    newest.write_bytes({"truncated": content[:-9], "emptied": b"", "text": b"text"}[harm])
    resumed = train(PAIRS, PLAN, run=run, resume=True)
    assert_same(resumed.generator, whole.generator)
    assert lines(resumed) == lines(whole)


def test_a_line_that_a_kill_cut_off_is_dropped(run: Path, whole: Model) -> None:
    with pytest.raises(KilledError):
        train(PAIRS, PLAN, run=run, watch=kill_at(11))
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 12, "sec')
    assert lines(train(PAIRS, PLAN, run=run, resume=True)) == lines(whole)


def test_a_finished_run_gives_its_model_again(run: Path, whole: Model) -> None:
    train(PAIRS, PLAN, run=run)
    again = train(PAIRS, PLAN, run=run, resume=True)
    assert_same(again.generator, whole.generator)
    assert lines(again) == lines(whole)


def test_threads_and_precision_of_a_run_are_kept(run: Path) -> None:
    train(PAIRS, replace(PLAN, steps=4), run=run)
    left_open = replace(PLAN, steps=4, threads=None, precision=None)
    assert train(PAIRS, left_open, run=run, resume=True).plan["precision"] == "float32"


@pytest.mark.parametrize(
    "change", [{"batch": 3}, {"steps": 8}, {"seed": 1}, {"base": 2}, {"threads": 2}]
)
def test_another_plan_does_not_go_on(run: Path, change: dict[str, Any]) -> None:
    train(PAIRS, replace(PLAN, steps=4), run=run)
    before = checkpoints(run)
    with pytest.raises(ModelError, match=next(iter(change))):
        train(PAIRS, replace(PLAN, **{"steps": 4, **change}), run=run, resume=True)
    assert checkpoints(run) == before


def test_other_fields_do_not_go_on(run: Path) -> None:
    train(PAIRS, replace(PLAN, steps=4), run=run)
    with pytest.raises(ModelError, match="other fields"):
        train([*PAIRS, spots(3)], replace(PLAN, steps=4), run=run, resume=True)


def test_an_adversarial_checkpoint_that_knows_no_noise_is_of_another_version(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(PAIRS, PLAN, run=run)
    earlier = load_checkpoint(run / "checkpoints")
    earlier.progress.target_noise.clear()
    monkeypatch.setattr(training, "load_checkpoint", lambda _: earlier)
    with pytest.raises(ModelError, match="another version"):
        train(PAIRS, PLAN, run=run, resume=True)


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(run: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint"):
        train(PAIRS, PLAN, run=run, resume=True)


# --- what cannot be trained -----------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["learning_rate", "adversarial_rate"])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(run: Path, rate: str) -> None:
    rates: dict[str, Any] = {rate: 1e30}
    with pytest.raises(TrainingError, match="no longer finite"):
        train(PAIRS, replace(PLAN, decay=False, **rates), run=run)
    if (run / "checkpoints").exists():
        for path in checkpoints(run):
            assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(path).values())
    text = (run / "log.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_no_pairs_and_unequal_pixel_sizes_are_refused() -> None:
    with pytest.raises(PairError, match="none"):
        train([], PLAN)
    with pytest.raises(PairError, match=r"field9.*40"):
        train([*PAIRS, spots(9, pixel_nm=40.0)], PLAN)


def test_a_single_pair_is_cut_in_two_and_it_says_so() -> None:
    said: list[str] = []
    pair = spots(0, shape=(96, 300))
    model = train([pair], replace(PLAN, steps=2, validation_share=0.3), say=said.append)
    assert any("one field" in sentence and "96" in sentence for sentence in said)
    assert [seen.part for seen in model.fields] == ["training", "validation"]


def test_it_begins_with_a_models_weights() -> None:
    first = train(PAIRS, replace(PLAN, warm_share=1.0, steps=8))
    still = replace(PLAN, warm_share=1.0, steps=1, learning_rate=1e-12)
    second = train(PAIRS, still, init=first)
    for a, b in zip(first.generator.parameters(), second.generator.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-9)
    parts = {(seen.name, seen.part) for seen in second.fields}
    assert {(seen.name, "earlier") for seen in first.fields} <= parts


@pytest.mark.parametrize("change", [{"base": 2}, {"network": "paper"}])
def test_another_networks_weights_are_refused(whole: Model, change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="cannot start"):
        train(PAIRS, replace(PLAN, **change), init=whole)
