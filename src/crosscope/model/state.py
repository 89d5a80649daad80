"""All that changes while a model is trained, and its way to a file and back.

A checkpoint is one safetensors file: the tensors of both networks, of the moving average, of both
optimisers and of the generators kept so far; the numbers stand in its header. It is written under
a temporary name and then renamed, and the one before it is kept.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Adam

from crosscope.data.errors import ModelError
from crosscope.data.files import writing
from crosscope.model.plan import TrainingPlan


@dataclass
class Progress:
    """The numbers of a run.

    Attributes
    ----------
    step, seconds, waited_s : int, float, float
        Done so far, and how long of that the loop waited for batches.
    phase : str
        "warm" (regression), "discriminator" (it learns alone) or "adversarial".
    mse_weight, ssim_weight, spectrum_weight, adversarial_weight : float
        Of the terms of the generator's objective in this phase.
    target_noise : dict
        `data.noise.Noise` of the scaled target, measured when the warm start ends.
    spectra : list of lists of float
        Running mean of `losses.compare_spectra`: a ring of one batch's spectrum is a few numbers.
    best : dict
        Of each phase the validation of what is kept, and its step.
    discriminator_steps, discriminator_loss : int, float
        How many steps it has learned, and its loss at the moment where that was lowest; one that
        guesses has 2 log 2.
    rollbacks : int
        How often the adversarial phase went wrong and was taken up again where it was sound.
    """

    step: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    phase: str = "warm"
    mse_weight: float = 1.0
    ssim_weight: float = 0.0
    spectrum_weight: float = 0.0
    adversarial_weight: float = 0.0
    target_noise: dict[str, float] = field(default_factory=dict)
    spectra: list[list[float]] = field(default_factory=list)
    best: dict[str, dict[str, int | float]] = field(default_factory=dict)
    discriminator_steps: int = 0
    discriminator_loss: float = 2 * math.log(2)
    rollbacks: int = 0

    def done(self, plan: TrainingPlan) -> float:
        """Return the part of the budget that is spent, 0 to 1."""
        if plan.steps is not None:
            return self.step / plan.steps
        assert plan.minutes is not None
        return min(1.0, self.seconds / (60 * plan.minutes))


@dataclass(frozen=True, eq=False)
class State:
    """Networks, optimisers and numbers: all that a checkpoint holds.

    `sound` remembers the tensors of the last sound moment. No checkpoint needs it: one is written
    where the state is sound, or has just gone back.
    """

    generator: nn.Module
    average: nn.Module
    discriminator: nn.Module
    optimiser: Adam
    discriminator_optimiser: Adam
    progress: Progress
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    sound: dict[str, Tensor] = field(default_factory=dict)

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "average": self.average,
            "discriminator": self.discriminator,
        }

    def _optimisers(self) -> dict[str, Adam]:
        return {
            "optimiser": self.optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor under a name that tells where it belongs."""
        named: dict[str, Tensor] = {}
        for name, network in self._networks().items():
            named |= {f"{name}/{key}": tensor for key, tensor in network.state_dict().items()}
        for name, weights in self.kept.items():
            named |= {f"kept.{name}/{key}": tensor for key, tensor in weights.items()}
        for name, optimiser in self._optimisers().items():
            for index, moments in optimiser.state_dict()["state"].items():
                named |= {f"{name}/{index}/{key}": moment for key, moment in moments.items()}
        return named

    def restore(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Take over what a checkpoint holds."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, key = name.split("/", 1)
            groups.setdefault(group, {})[key] = tensor
        for name, network in self._networks().items():
            network.load_state_dict(groups[name])
        for name, optimiser in self._optimisers().items():
            weights = [weight for group in optimiser.param_groups for weight in group["params"]]
            moments: dict[int, dict[str, Tensor]] = {}
            for key, tensor in groups.get(name, {}).items():
                index, moment = key.split("/")
                laid_out = _laid_out_like(weights[int(index)], tensor)
                moments.setdefault(int(index), {})[moment] = laid_out
            whole = optimiser.state_dict()
            optimiser.load_state_dict(whole | {"state": moments})
        self.kept.clear()
        self.kept.update(
            {name[5:]: weights for name, weights in groups.items() if name.startswith("kept.")}
        )
        vars(self.progress).update(vars(progress))
        self.mark_sound()

    def mark_sound(self) -> None:
        """Remember the networks and optimisers as they are now."""
        self.sound.clear()
        self.sound.update({name: w.detach().clone() for name, w in self.tensors().items()})

    def go_back(self) -> None:
        """Return to what was marked as sound; the numbers, the step among them, go on."""
        self.restore(self.sound, self.progress)


def _laid_out_like(weight: Tensor, moment: Tensor) -> Tensor:
    """Return a moment in its weight's memory format: else Adam takes twice as long."""
    same = moment.shape == weight.shape  # all but the count of steps
    return torch.empty_like(weight, requires_grad=False).copy_(moment) if same else moment


def save_checkpoint(state: State, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the state as FOLDER/step-N.safetensors, keep the one before, delete older ones."""
    path = folder / f"step-{state.progress.step:09d}.safetensors"
    header = {"progress": vars(state.progress), "about": about}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    with writing(path, overwrite=True) as part:
        metadata = {"crosscope": json.dumps(header, allow_nan=False)}
        safetensors.torch.save_file(tensors, part, metadata=metadata)
    for old in [*_checkpoints(folder)[:-2], *folder.glob(".step-*")]:  # a killed run's remains
        old.unlink()


def clear_checkpoints(folder: Path) -> None:
    """Delete what an earlier run left there."""
    for old in [*_checkpoints(folder), *folder.glob(".step-*")]:
        old.unlink()


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What was read back: tensors, numbers, and what the run said about itself."""

    path: Path
    tensors: Mapping[str, Tensor]
    progress: Progress
    about: Mapping[str, Any]


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the newest checkpoint that is whole.

    Raises ModelError where there is none.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["crosscope"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
                return Checkpoint(path, tensors, Progress(**header["progress"]), header["about"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue
    raise ModelError(folder, "has no checkpoint that can be read", "Train without --resume")


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"))
