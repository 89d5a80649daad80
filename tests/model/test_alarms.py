import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from crosscope.model.alarms import (
    GUESSING,
    PATIENCE,
    PATTERN,
    PSNR_LOST_DB,
    SHARPNESS,
    find_alarms,
    measure_artefacts,
    only_guesses,
)
from crosscope.model.batches import Data
from crosscope.model.discriminator import Discriminator
from crosscope.model.generator import FastGenerator, PaperGenerator
from crosscope.model.plan import TrainingPlan
from crosscope.model.state import State
from crosscope.model.training import judge, start, train_step, validate

PLAN = TrainingPlan(base=4, discriminator_base=2, threads=1, precision="float32")


def spots(count: int = 24, side: int = 64) -> torch.Tensor:
    """Return Gaussian spots, 1 high, of 4.7 px FWHM: b 1 y x."""
    random = np.random.default_rng(0)
    y, x = np.indices((side, side))
    places = random.uniform(0, side, (count, 8, 2))
    distances = [[(y - py) ** 2 + (x - px) ** 2 for py, px in patch] for patch in places]
    images = [sum(np.exp(-square / 8) for square in patch) for patch in distances]
    return torch.tensor(np.stack(images), dtype=torch.float32)[:, None]


# the fast network begins as the identity: it gives the noise-free target
SOURCE = spots()
TARGET = SOURCE + 0.1 * torch.randn(SOURCE.shape, generator=torch.Generator().manual_seed(0))
HELD_OUT = Data(SOURCE, TARGET)


def adversarial_state() -> State:
    state = start(PLAN, None, torch.device("cpu"))
    state.progress.best["warm"] = {"step": 0, **validate(state, PLAN, HELD_OUT)}
    state.progress.phase = "adversarial"
    state.progress.target_noise = {"gain": 0.0, "read_noise": 0.05, "zero": 0.0}
    return state


def rings(state: State, average: nn.Module | None = None) -> list[str]:
    """Return the names of the alarms that the state's average, or another network, rings."""
    if average:
        state.average.forward = average.forward
    validation = validate(state, PLAN, HELD_OUT)
    losses = {"discriminator_accuracy": 0.7, "discriminator": 1.2}
    return [alarm.name for alarm in judge(state, validation, losses)]


def a_checkerboard(generator: nn.Module) -> None:
    """Add a grid of 2 px: one of the four pixels that the last layer shuffles is brighter."""
    assert isinstance(generator, FastGenerator)
    assert generator.last.bias is not None
    generator.last.bias[0] = 0.1


def sharper(generator: nn.Module) -> None:
    """Add 3 times what differs from the mean of 2 x 2 pixels."""
    assert isinstance(generator, FastGenerator)
    for layer in (generator.first, generator.grow1, generator.last):
        layer.weight.zero_()
        assert layer.bias is not None
        layer.bias.zero_()
    generator.first.weight[:, :, 1, 1] = torch.eye(4)
    generator.last.weight[:, :, 1, 1] = 3 * (torch.eye(4) - 0.25)


def softer(generator: nn.Module) -> None:
    assert isinstance(generator, FastGenerator)
    sharper(generator)
    generator.last.weight *= -0.1


# --- images ---------------------------------------------------------------------------------------


def test_a_sound_generator_rings_none() -> None:
    state = adversarial_state()
    assert rings(state) == []
    with torch.no_grad():
        softer(state.average)
    assert rings(state) == []


@pytest.mark.parametrize(
    ("force", "name"), [(a_checkerboard, "checkerboard"), (sharper, "over-sharpening")]
)
def test_weights_that_spoil_the_image_ring_their_alarm(
    force: Callable[[nn.Module], None], name: str
) -> None:
    state = adversarial_state()
    with torch.no_grad():
        force(state.average)
    assert name in rings(state)


def test_a_generator_that_gives_the_same_for_all_has_collapsed() -> None:
    constant = PaperGenerator(4)
    with torch.no_grad():
        constant.last.weight.zero_()
    assert set(rings(adversarial_state(), constant)) == {"collapse"}


def test_before_the_adversarial_phase_there_is_no_alarm() -> None:
    state = adversarial_state()
    state.progress.phase = "warm"
    with torch.no_grad():
        a_checkerboard(state.average)
    assert rings(state) == []


@pytest.mark.parametrize("period_px", [2, 4, 8])
@pytest.mark.parametrize("axis", [2, 3])
def test_a_pattern_is_measured_whatever_the_sample(period_px: int, axis: int) -> None:
    shape = [1, 1, 1, 1]
    shape[axis] = 64
    wave = torch.cos(2 * math.pi / period_px * torch.arange(64.0)).view(shape)
    rms = float(wave.square().mean().sqrt())
    measured = measure_artefacts(SOURCE + 0.05 * wave, TARGET)["pattern"]
    assert measured == pytest.approx(0.05 * rms, rel=0.05)
    assert measure_artefacts(SOURCE, TARGET)["pattern"] < PATTERN / 5
    assert measure_artefacts(SOURCE + 0.05 * wave, TARGET + 0.05 * wave)["pattern"] < PATTERN / 5


def test_sharpness_is_1_for_the_target_and_the_square_of_a_gain() -> None:
    assert measure_artefacts(TARGET, TARGET)["sharpness"] == pytest.approx(1)
    assert measure_artefacts(SOURCE, TARGET)["sharpness"] < 1.05
    assert measure_artefacts(2 * TARGET, TARGET)["sharpness"] == pytest.approx(4, rel=0.01)


# --- the discriminator ----------------------------------------------------------------------------

TWIN = {"psnr_db": 25.0, "spread": 0.04, "pattern": 0.002, "sharpness": 1.0}


def alarms(
    *, lost_db: float = 0.0, accuracy: float = 0.7, path: float = PATIENCE, loss: float = 1.0
) -> list[str]:
    validation = TWIN | {"psnr_db": TWIN["psnr_db"] - lost_db}
    losses = {"discriminator_accuracy": accuracy}
    found = find_alarms(validation, TWIN, losses, discriminator_path=path, discriminator_loss=loss)
    return [alarm.name for alarm in found]


def test_a_discriminator_that_wins_is_an_alarm_where_it_does_harm() -> None:
    assert alarms(accuracy=1.0) == []
    assert alarms(accuracy=0.95, lost_db=1.5) == []
    assert alarms(accuracy=1.0, lost_db=1.5) == ["discriminator wins"]


def test_a_discriminator_that_never_learned_is_an_alarm_one_that_was_beaten_is_none() -> None:
    never = 2 * math.log(2)
    assert alarms(accuracy=0.5, loss=never) == ["discriminator learns nothing"]
    assert alarms(accuracy=0.5, loss=never, path=0.99 * PATIENCE) == []
    assert alarms(accuracy=0.5, loss=GUESSING - 0.01) == []
    assert only_guesses(never)
    assert not only_guesses(GUESSING)


def test_an_alarm_tells_its_figure_its_limit_and_a_remedy() -> None:
    validation = TWIN | {"psnr_db": 20.0, "sharpness": 3.0}
    losses = {"discriminator_accuracy": 0.7}
    collapse, sharp = find_alarms(
        validation, TWIN, losses, discriminator_path=0.0, discriminator_loss=1.0
    )
    assert (collapse.figure, collapse.limit) == (5.0, PSNR_LOST_DB)
    assert (sharp.figure, sharp.limit) == (3.0, SHARPNESS)
    assert str(collapse) == "collapse: 5 dB of PSNR below the twin (limit 3)"
    for alarm in (collapse, sharp):
        assert "adversarial_rate" in alarm.remedy


class AlwaysYes(Discriminator):
    """Takes every image for a real one, with a logit of 1, learning as it may."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return 1 + 0 * super().forward(y)


def test_accuracy_and_losses_of_a_discriminator_that_says_yes_to_all() -> None:
    state = adversarial_state()
    state.discriminator.forward = AlwaysYes(2).forward
    for weight in state.discriminator.parameters():
        weight.grad = torch.zeros_like(weight)
    state.progress.mse_weight, state.progress.adversarial_weight = 2.0, 1.0
    state.optimiser.param_groups[0]["lr"] = 1e-9
    losses = train_step(state, PLAN, SOURCE[:4], TARGET[:4])
    assert losses["discriminator_accuracy"] == 0.5
    assert losses["adversarial"] == pytest.approx(math.log(1 + math.exp(-1)))
    assert losses["discriminator"] == pytest.approx(1 + 2 * math.log(1 + math.exp(-1)))
    assert losses["mse"] == pytest.approx(0.01, rel=0.05)
