"""Registered pairs -> model: a regression warm start, then the adversarial phase.

1. warm: the generator lowers MSE - w log[(1 + SSIM)/2] alone, w falling to 0 in the second half:
   SSIM hastens the start, but a noisy target's is highest where the contrast is wrong. By MSE the
   best stays as the model's twin.
2. discriminator: it learns to tell the generator's images from the target's, the generator waits.
3. adversarial: both learn. The generator lowers
       -log D(G(x)) + lambda MSE - nu log[(1 + SSIM)/2] + mu S,
   lambda, nu and mu set once, when the phase begins, so that those terms have the asked shares.

D is shown G(x) with noise like the target's, measured against the twin when the warm start ends.
Else it tells clean images from noisy ones at once, learns nothing else, and teaches the generator
noise; so it learns what structures look like.

Kept is a moving average of the weights: of the warm start where the validation loss is the lowest,
of the adversarial phase the last sound one, for what an adversary adds costs some of that loss.
Where an adversarial moment rings an alarm, the run goes back to the last sound one, and on with
half the adversarial share and rates; the third time that phase ends. A batch is a function of the
seed and the step's number alone, so that a killed run goes on exactly from its checkpoint.

Several processes, and several batches for one step, give what one batch as large as all of theirs
together gives, but for rounding: gradients are averaged over them, and what is decided (weights of
terms, alarms, what is kept, when time is up) is decided by the first process or by means over all.
Wang et al., Nature Methods 16, 103 (2019), doi 10.1038/s41592-018-0239-0.
"""

import copy
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam

from crosscope.data.errors import InputError, ModelError, PairError
from crosscope.data.noise import Noise, measure_noise
from crosscope.data.registered import RegisteredPair
from crosscope.data.sampling import Split, measure_scaling, split_fields
from crosscope.model.alarms import Alarm, find_alarms, measure_artefacts, only_guesses
from crosscope.model.batches import Data, draw_ahead, draw_batch, draw_grain, load, loaded
from crosscope.model.discriminator import Discriminator
from crosscope.model.engine import choose_engine, find_device
from crosscope.model.generator import build_generator
from crosscope.model.journal import Journal
from crosscope.model.losses import (
    adversarial_loss,
    compare_spectra,
    discriminator_loss,
    mse_loss,
    spectrum_loss,
    ssim,
    ssim_loss,
)
from crosscope.model.model import Model, SeenField
from crosscope.model.plan import PRECISIONS, TrainingPlan
from crosscope.model.processes import ALONE, Processes, join_processes
from crosscope.model.reach import measure_reach
from crosscope.model.state import (
    Checkpoint,
    Progress,
    State,
    clear_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from crosscope.model.trial import cut_tile

DATA_RANGE = 1.0  # of the scaled target, whose typical structures are about 1 high
MOMENTS = 24  # validations and checkpoints in a run ...
MOMENT_STEPS = 1000  # ... and at least one in so many steps
LONGEST = 1.5  # of a gradient, in usual lengths: at 4 a network was still thrown back
MEMORY = 0.9  # of spectra, per step: by a longer one the spectrum swung back and forth
NO_MATTER = 1e-3  # a spectrum's loss below it counts as it: 3 % of the power
SMALLEST = 1e-12  # a loss below it counts as it
DISCRIMINATOR_SHARE = 0.1  # of the budget after the warm start that the discriminator has alone
VALIDATION_PATCHES = 96
_APART = 1_000_003  # from the first weights of one member to the next's: no other seed's
SET = "crosscope train --set NAME=VALUE"  # what sets the fields that a remedy names
ROLLBACKS = 3  # and the adversarial phase ends: a quarter of the share and rates did not help
SAME_PIXEL = 0.02  # relative difference of pixel sizes that is none, as in `prediction.images`


class TrainingError(InputError):
    """Training cannot go on; what was kept until then stays."""


@dataclass(frozen=True)
class Moment:
    """Where a run stands, for those who watch: the part done (0 to 1) and a few words."""

    done: float
    step: int
    text: str


def train(
    pairs: Sequence[RegisteredPair],
    plan: TrainingPlan | None = None,
    *,
    run: Path | None = None,
    init: Model | None = None,
    resume: bool = False,
    watch: Callable[[Moment], None] = lambda moment: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Model:
    """Learn to turn images of the source modality into images of the target modality.

    Parameters
    ----------
    pairs : sequence of RegisteredPair
        All of the same pixel sizes. Several are split into training and validation by field of
        view; a single one is cut in two, with a guard band of the network's reach between.
    plan : TrainingPlan
        Default: the `fast` preset for ten minutes.
    run : Path, optional
        Folder for log.jsonl, tensorboard and checkpoints; without it nothing is written. While
        training lasts the patches lie there too, in a hidden folder, and not in memory.
    init : Model, optional
        Start from this model's weights (transfer learning). One made for other pixel sizes is
        taken, too, and `say` is told so.
    resume : bool
        Go on from the newest checkpoint of `run`; the same plan and fields are needed.
    watch, say : callables
        Told at every step where the run stands; told what was chosen and why.

    Returns
    -------
    Model

    Notes
    -----
    Where torchrun started several processes, all call this with the same arguments, and each takes
    its part of every step; only the first writes, and calls `watch` and `say`.

    Raises
    ------
    PairError
        No pairs, too small, without signal, or of unequal pixel sizes.
    ModelError
        `init` is of another network; no checkpoint, or one of another plan, other fields or
        another number of processes.
    TrainingError
        The loss is no longer finite.
    InputError
        Another process of the training has ended.
    """
    plan = plan or TrainingPlan()
    processes = join_processes()
    if not processes.first:
        watch, say = (lambda moment: None), (lambda sentence: None)
    sizes_nm = _pixel_sizes_nm(pairs)
    if init:
        tell_other_pixels(init, sizes_nm, say)
    device = find_device()
    state = start(plan, init, device)
    checkpoint = None
    if run and not resume and processes.first:
        clear_checkpoints(run / "checkpoints")
    if resume:
        if run is None:
            raise InputError("training", "there is no folder to resume from", "Name its run")
        checkpoint = load_checkpoint(run / "checkpoints")
        plan = _same_plan(plan, checkpoint)

    guard_px = measure_reach(state.generator, np.zeros((64, 64), np.float32)).exact_px
    split = split_fields(
        pairs,
        validation_share=plan.validation_share,
        guard_px=guard_px,
        least_px=plan.patch_px,
        seed=plan.seed,
        training_fields=plan.training_fields,
    )
    say(split.how)
    fields = _seen_fields(split)
    scalings = (
        measure_scaling([pair.source.pixels for pair in split.training]),
        measure_scaling([pair.target.pixels for pair in split.training]),
    )
    earlier = [asdict(replace(seen, part="earlier")) for seen in init.fields] if init else []
    if checkpoint:
        earlier = checkpoint.about.get("earlier", earlier)
    about = {
        "plan": asdict(plan),
        "fields": [asdict(seen) for seen in fields],
        "earlier": earlier,
        "processes": processes.count,
    }
    if checkpoint:
        take_up(state, checkpoint, about, processes)
        say(f"Going on from step {state.progress.step}.")
    held_out = load(
        split.validation,
        plan,
        scalings,
        device,
        patch_px=plan.patch_px,
        most=VALIDATION_PATCHES,
    )
    held_out = Data(held_out.source.to(device), held_out.target.to(device))
    room_px = min(3 * plan.patch_px // 2, smallest_side(split.training))  # to crop at random
    room_px = max(plan.patch_px, room_px)
    with loaded(
        split.training, plan, scalings, device, patch_px=room_px, run=run, processes=processes
    ) as data:
        if data.doubtful:
            count = data.doubtful + len(data.source)
            say(f"{data.doubtful} of {count} patches are left out: not surely aligned there")
        if not checkpoint:
            plan = measure_engine(plan, state, data, processes)
            about |= {"plan": asdict(plan)}
        say(f"{device.type}, {plan.precision}, threads: {plan.threads}.")

        writes = run if processes.first else None
        journal = Journal(run, last_step=state.progress.step, say=say, writes=processes.first)
        moments = _moments(state, plan, data, processes, watch)
        with journal, plan.engine.in_use(), closing(moments):
            for moment in moments:
                line = moment | {"validation": validate(state, plan, held_out, processes)}
                alarms = judge(state, line["validation"], line["losses"])
                line |= {"alarms": [asdict(alarm) for alarm in alarms], "rolled_back": bool(alarms)}
                journal.write(line, _examples(state, plan, held_out) if writes else {})
                if alarms:
                    roll_back(state, alarms, say)
                else:
                    keep(state, line["validation"], state.progress.phase)
                    state.mark_sound()
                if writes:
                    save_checkpoint(state, writes / "checkpoints", about)

    best = choose_kept(state)
    if state.progress.rollbacks:
        which = "its twin, without the adversarial part" if best == "warm" else "the last sound one"
        times = f"{state.progress.rollbacks} of at most {ROLLBACKS} times"
        say(f"The adversarial training was rolled back {times}: the model is {which}.")
    if best == "adversarial":
        tell_guessing(state.progress, say)
    generator = copy.deepcopy(state.average)
    generator.load_state_dict(state.kept[best])
    twin = copy.deepcopy(state.average)
    twin.load_state_dict(state.kept["warm"])
    at_best = dict(state.progress.best[best])
    field = scalings[0].apply(split.validation[0].source.pixels)
    tiles = [cut_tile(scalings[0].apply(pair.source.pixels)) for pair in split.validation]
    return Model(
        network=plan.network,
        base=plan.base,
        generator=generator.cpu().eval(),
        twin=twin.cpu().eval() if best == "adversarial" else None,
        source_scaling=scalings[0],
        target_scaling=scalings[1],
        source_pixel_size_nm=sizes_nm[0],
        target_pixel_size_nm=sizes_nm[1],
        reach=measure_reach(generator, field),
        plan=asdict(plan),
        fields=(*(SeenField(**seen) for seen in earlier), *fields),
        training={
            "steps": state.progress.step,
            "seconds": state.progress.seconds,
            "best_step": int(at_best.pop("step")),
            "validation": at_best,
            "shares": journal.lines[-1]["shares"],
            "kept": best,
            "rollbacks": state.progress.rollbacks,
            "alarms": _alarms(journal.lines),
            "discriminator": _discriminator(state.progress, journal.lines[-1]["losses"]),
            "processes": processes.count,
            "waiting_share": _waiting_share(state.progress.waited_s, state.progress.seconds),
        },
        log=tuple(journal.lines),
        tile=max(tiles, key=lambda tile: float(tile.std())),
    )


def _moments(
    state: State,
    plan: TrainingPlan,
    data: Data,
    processes: Processes,
    watch: Callable[[Moment], None],
) -> Generator[dict[str, Any], None, None]:
    """Train; stop now and then, with the means of what was lost since the last time."""
    progress = state.progress
    done = progress.done(plan)
    sums: dict[str, float] = {}
    first = last = progress.step
    seconds, waited_s = progress.seconds, progress.waited_s
    entered = time.monotonic()
    began = entered - progress.seconds
    with closing(draw_ahead(data, plan, first, processes)) as batches:
        while done < 1 and progress.rollbacks < ROLLBACKS:
            enter_phase(state, plan, done, data, processes)
            set_rates(state, plan, done)
            asked = time.monotonic()
            source, target = next(batches)
            progress.waited_s += time.monotonic() - asked
            losses = train_step(state, plan, source, target, processes)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            progress.step += 1
            (progress.seconds,) = processes.agree([time.monotonic() - began])
            before, done = done, progress.done(plan)
            rate = (progress.step - first) / (time.monotonic() - entered)
            words = f"step {progress.step}, {rate:.1f} steps/s, {progress.phase}"
            watch(Moment(done, progress.step, words))
            if (
                math.floor(done * MOMENTS) > math.floor(before * MOMENTS)
                or progress.step % MOMENT_STEPS == 0
                or phase_at(plan, done) != progress.phase
                or done >= 1
            ):
                means = processes.mean([total / (progress.step - last) for total in sums.values()])
                named = dict(zip(sums, means, strict=True))
                _require_finite(named, progress)
                waited_s, seconds = progress.waited_s - waited_s, progress.seconds - seconds
                yield {
                    "step": progress.step,
                    "seconds": round(progress.seconds, 3),
                    "waiting_share": _waiting_share(waited_s, seconds),
                    "phase": progress.phase,
                    "losses": named,
                    "shares": _shares(progress, named),
                }
                sums, last = {}, progress.step
                seconds, waited_s = progress.seconds, progress.waited_s


def take_up(
    state: State, checkpoint: Checkpoint, about: Mapping[str, Any], processes: Processes
) -> None:
    """Go on from a checkpoint of the same fields and processes, or raise ModelError."""
    if checkpoint.about["fields"] != about["fields"]:
        raise ModelError(checkpoint.path, "was trained on other fields", "Choose another RUN")
    count = checkpoint.about.get("processes", 1)
    if count != processes.count:
        reason = f"is of another number of processes: {count}, now {processes.count}"
        raise ModelError(checkpoint.path, reason, "Start as many, or choose another RUN")
    if processes.agree([checkpoint.progress.step]) != [checkpoint.progress.step]:
        reason = "is not the one that the first process goes on from"
        raise ModelError(checkpoint.path, reason, "Put RUN on a disk that all processes see")
    if checkpoint.progress.phase != "warm" and not checkpoint.progress.target_noise:
        reason = "was made by another version of crosscope"
        raise ModelError(checkpoint.path, reason, "Choose another RUN")
    state.restore(checkpoint.tensors, checkpoint.progress)


def start(plan: TrainingPlan, init: Model | None, device: torch.device) -> State:
    """Build networks and optimisers, from the plan's seed or from a model's weights."""
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed + _APART * plan.member)
        generator = build_generator(plan.network, plan.base)
        discriminator = Discriminator(plan.discriminator_base)
    if init:
        if (init.network, init.base) != (plan.network, plan.base):
            raise ModelError(
                f"{init.network} model of base {init.base}",
                f"cannot start a {plan.network} network of base {plan.base}",
                "Choose the preset and the base of the model",
            )
        generator.load_state_dict(init.generator.state_dict())
    generator = generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    discriminator = discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return State(
        generator=generator,
        average=copy.deepcopy(generator).requires_grad_(False),
        discriminator=discriminator,
        # not fused: that did not resume to the same bits
        optimiser=Adam(generator.parameters(), betas=(0.9, 0.99), foreach=True),
        discriminator_optimiser=Adam(discriminator.parameters(), betas=(0.9, 0.99), foreach=True),
        progress=Progress(ssim_weight=plan.warm_ssim),
    )


def smallest_side(fields: Sequence[RegisteredPair]) -> int:
    """Return the shortest side of any of the fields, px."""
    return min(side for pair in fields for side in pair.target.pixels.shape)


def measure_engine(
    plan: TrainingPlan, state: State, data: Data, processes: Processes = ALONE
) -> TrainingPlan:
    """Return the plan with the threads and the precision that it left open.

    Several processes measure at the same time, for so they will work; the first one's choice holds.
    """
    engine = choose_engine(
        state.generator,
        draw_batch(data, plan, 0)[0][: plan.batch],
        threads=plan.threads,
        precision=plan.precision,
    )
    threads, precision = processes.agree([engine.threads, PRECISIONS.index(engine.precision)])
    return replace(plan, threads=int(threads), precision=PRECISIONS[int(precision)])


def train_step(
    state: State,
    plan: TrainingPlan,
    source: Float[Tensor, "b 1 y x"],
    target: Float[Tensor, "b 1 y x"],
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Take one step of whichever network learns in this phase; return the losses.

    With `plan.accumulate` above 1 the batch goes through in so many parts, for one of which at a
    time memory is needed: once for what the discriminator and the whole batch's SSIM need, which
    is without gradients, then for the generator's own.
    """
    progress, parts = state.progress, plan.accumulate
    learns = progress.phase != "discriminator"
    sources, targets = source.chunk(parts), target.chunk(parts)
    losses: dict[str, float] = {}

    def note(**terms: Tensor) -> None:
        for name, value in terms.items():
            losses[name] = losses.get(name, 0.0) + float(value.detach()) / parts

    with torch.set_grad_enabled(learns and parts == 1):
        outputs = [plan.engine.run(state.generator, part) for part in sources]

    if progress.phase != "warm":
        grains = draw_grain(plan, progress.step, source.device, processes).chunk(parts)
        state.discriminator_optimiser.zero_grad(set_to_none=True)
        for output, wanted, grain in zip(outputs, targets, grains, strict=True):
            fake = as_taken(output.detach(), grain, progress)
            both = torch.cat((wanted, fake))  # at once: its large weights are read once
            taken, made = plan.engine.run(state.discriminator, both).chunk(2)
            loss = discriminator_loss(taken, made)
            (loss / parts).backward()  # type: ignore[no-untyped-call]
            right = ((taken > 0).float().mean() + (made < 0).float().mean()) / 2
            note(discriminator=loss, discriminator_accuracy=right)
        descend(state.discriminator_optimiser, processes)
        progress.discriminator_steps += 1

    state.discriminator.requires_grad_(False)  # it only passes gradients on
    state.optimiser.zero_grad(set_to_none=True)
    compared = [_compare(output, wanted) for output, wanted in zip(outputs, targets, strict=True)]
    whole = torch.stack([similarity for _, similarity in compared]).detach().mean()
    processes.average([whole])
    holds = progress.phase == "adversarial" and plan.spectrum_share > 0
    if holds:
        spectra = remember_spectra(progress, mean_spectra(outputs, targets, processes))
    for n, (part, wanted) in enumerate(zip(sources, targets, strict=True)):
        output, (mse, own) = outputs[n], compared[n]
        if learns and parts > 1:
            output = plan.engine.run(state.generator, part)
            mse, own = _compare(output, wanted)
        # the logarithm is that of the whole batch's SSIM, the gradient flows to this part
        dissimilar = ssim_loss(own + (whole - own.detach()))
        objective = progress.mse_weight * mse + progress.ssim_weight * dissimilar
        note(mse=mse, ssim=dissimilar)
        if progress.phase == "adversarial":
            fake = as_taken(output, grains[n], progress)
            adversarial = adversarial_loss(plan.engine.run(state.discriminator, fake))
            objective = objective + progress.adversarial_weight * adversarial
            note(adversarial=adversarial)
        if holds:
            powers = compare_spectra(output, wanted)
            off = spectrum_loss(powers + (spectra - powers.detach()))
            objective = objective + progress.spectrum_weight * off
            note(spectrum=off)
        if learns:
            (objective / parts).backward()  # type: ignore[no-untyped-call]
    state.discriminator.requires_grad_(True)
    if learns:
        descend(state.optimiser, processes)
        decay = min(plan.ema, (1 + progress.step) / (10 + progress.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(state.average.parameters()), list(state.generator.parameters()), 1 - decay
            )
    return losses


def remember_spectra(progress: Progress, whole: Float[Tensor, "both r"]) -> Float[Tensor, "both r"]:
    """Return the running mean of the steps' spectra, this one's the last.

    Of one batch's spectrum a ring is a few numbers: what it is off by chance would be learnt.
    """
    if progress.spectra:
        whole = torch.tensor(progress.spectra).to(whole).lerp(whole, 1 - MEMORY)
    progress.spectra = whole.tolist()
    return whole


@torch.no_grad()
def mean_spectra(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], processes: Processes
) -> Float[Tensor, "both r"]:
    """Return the power of a step's whole batch, from all parts of all processes."""
    compared = [compare_spectra(*both) for both in zip(outputs, targets, strict=True)]
    whole = torch.stack(compared).mean(dim=0)
    processes.average([whole])
    return whole


def _compare(
    output: Float[Tensor, "b 1 y x"], target: Float[Tensor, "b 1 y x"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return MSE and SSIM."""
    return mse_loss(output, target), ssim(output, target, data_range=DATA_RANGE)


def as_taken(
    output: Float[Tensor, "b 1 y x"], grain: Float[Tensor, "b 1 y x"], progress: Progress
) -> Float[Tensor, "b 1 y x"]:
    """Return the output as the target's detector would have taken it, with noise.

    Skewed as that of photons is, even in the dark: by this, too, a discriminator could tell.
    """
    noise = Noise(**progress.target_noise)
    light = (output.detach() - noise.zero).clamp(min=0)
    deviation = (noise.gain * light + noise.read_noise**2).sqrt()
    skewness = noise.gain / deviation
    return output + deviation * (grain + skewness / 6 * (grain.square() - 1))


def descend(optimiser: Adam, processes: Processes = ALONE) -> None:
    """Take one step downhill, by the mean of all processes' gradients.

    A gradient longer than one and a half of the usual is shortened to that: else a single batch
    throws the network back by some dB now and then, for Adam's steps are only as short as the
    gradients before were alike. Where the objective changes, all are, until Adam has caught up.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    processes.average(gradients)
    length = nn.utils.get_total_norm(gradients)
    nn.utils.clip_grads_with_norm_(weights, LONGEST * usual_length(optimiser), length)
    optimiser.step()


def usual_length(optimiser: Adam) -> float:
    """Return the root mean square of the gradient's length over Adam's last steps; at first 1."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    # in their order, whatever a checkpoint's: a run that goes on has the same bits
    moments = [optimiser.state[weight] for weight in weights if weight in optimiser.state]
    squares = float(nn.utils.get_total_norm([m["exp_avg_sq"] for m in moments], norm_type=1.0))
    if not squares:
        return 1.0
    _, decay = optimiser.param_groups[0]["betas"]
    return math.sqrt(squares / (1 - decay ** float(moments[0]["step"])))


def phase_at(plan: TrainingPlan, done: float) -> str:
    """Name the phase of a run of which this part is done."""
    if done < plan.warm_share:
        return "warm"
    alone = plan.warm_share + DISCRIMINATOR_SHARE * (1 - plan.warm_share)
    return "discriminator" if done < alone else "adversarial"


def enter_phase(
    state: State, plan: TrainingPlan, done: float, data: Data, processes: Processes = ALONE
) -> None:
    """Begin the next phase when its time has come, and weigh the terms of its objective."""
    progress, phase = state.progress, phase_at(plan, done)
    if phase == progress.phase:
        return
    progress.phase = phase
    if "warm" in state.kept:
        state.average.load_state_dict(state.kept["warm"])
        state.generator.load_state_dict(state.kept["warm"])
    steps = range(progress.step, progress.step + 16)
    if not progress.target_noise:
        progress.target_noise = measure_target_noise(state, plan, data, steps, processes)
    if phase == "adversarial":
        found = [terms_of(state, plan, data, step, processes) for step in steps]
        terms, spectra = zip(*found, strict=True)
        mse, ssim_term, adversarial = np.mean(terms, axis=0)
        total = adversarial / (1 - plan.mse_share - plan.ssim_share - plan.spectrum_share)
        progress.adversarial_weight = 1.0
        progress.mse_weight = float(plan.mse_share * total / max(mse, SMALLEST))
        progress.ssim_weight = float(plan.ssim_share * total / max(ssim_term, SMALLEST))
        off = float(spectrum_loss(torch.stack(spectra).mean(dim=0)))
        progress.spectrum_weight = float(plan.spectrum_share * total / max(off, NO_MATTER))
        state.mark_sound()


@torch.no_grad()
def measure_target_noise(
    state: State, plan: TrainingPlan, data: Data, steps: Sequence[int], processes: Processes = ALONE
) -> dict[str, float]:
    """Measure the scaled target's noise on the batches of some steps, against the generator.

    It is right where the noise is white and the target's pixels are finer than its structures.
    Where structures reach the pixels' limit, as in wide-field images, what the generator misses
    counts as noise, and the discriminator is shown too much of it; of targets that were
    interpolated or deconvolved it is shown too little.

    Every process takes the whole batches: what is found doesn't depend on how many there are.
    """
    off, expected = [], []
    parts = plan.accumulate * processes.count
    for step in steps:
        source, target = draw_batch(data, replace(plan, accumulate=parts), step)
        for part, wanted in zip(source.chunk(parts), target.chunk(parts), strict=True):
            output = plan.engine.run(state.generator, part)
            off.append((wanted - output).reshape(-1, plan.patch_px).cpu().numpy())
            expected.append(output.reshape(-1, plan.patch_px).cpu().numpy())
    noise = measure_noise(np.concatenate(off), np.concatenate(expected))
    assert noise is not None, "a patch has pixels enough"
    names, values = zip(*asdict(noise).items(), strict=True)
    return dict(zip(names, processes.agree(values), strict=True))


@torch.no_grad()
def terms_of(
    state: State, plan: TrainingPlan, data: Data, step: int, processes: Processes = ALONE
) -> tuple[tuple[float, float, float], Float[Tensor, "both r"]]:
    """Return the MSE, SSIM and adversarial terms of one step's whole batch, and its spectra."""
    source, target = draw_batch(data, plan, step, processes)
    grain = draw_grain(plan, step, source.device, processes)
    sources, targets, grains = (whole.chunk(plan.accumulate) for whole in (source, target, grain))
    outputs = [plan.engine.run(state.generator, part) for part in sources]
    sums = np.zeros(3)
    for output, wanted, grain in zip(outputs, targets, grains, strict=True):
        fake = as_taken(output, grain, state.progress)
        verdict = adversarial_loss(plan.engine.run(state.discriminator, fake))
        mse, similarity = _compare(output, wanted)
        sums += [float(mse), float(similarity), float(verdict)]
    mean_mse, mean_ssim, adversarial = processes.mean((sums / plan.accumulate).tolist())
    terms = (mean_mse, float(ssim_loss(torch.tensor(mean_ssim))), adversarial)
    return terms, mean_spectra(outputs, targets, processes)


def set_rates(state: State, plan: TrainingPlan, done: float) -> None:
    """Set this step's learning rates: a short rise, then half a cosine down to a fiftieth.

    In the second half of the warm start the weight of SSIM falls along the same cosine, to 0.
    """
    warm = state.progress.phase == "warm"
    begin, end = (0.0, plan.warm_share) if warm else (plan.warm_share, 1.0)
    falling = 0.5 * (1 + math.cos(math.pi * (done - begin) / (end - begin)))
    if warm:
        state.progress.ssim_weight = plan.warm_ssim * min(1.0, 2 * falling)
    rate = plan.learning_rate if warm else plan.adversarial_rate
    if plan.decay:
        rate *= min(1.0, (state.progress.step + 1) / 50)
        rate *= 0.02 + 0.98 * falling
    slower = 0.5**state.progress.rollbacks
    for group in state.optimiser.param_groups:
        group["lr"] = rate * slower
    for group in state.discriminator_optimiser.param_groups:
        group["lr"] = plan.discriminator_rate * slower


@torch.no_grad()
def validate(
    state: State, plan: TrainingPlan, held_out: Data, processes: Processes = ALONE
) -> dict[str, float]:
    """Measure the moving average on the held-out patches; `loss` is the phase's, of MSE and SSIM.

    All processes do, at the same time, and take over what the first one found.
    """
    sums = np.zeros(2)
    outputs = []
    for first in range(0, len(held_out.source), plan.batch):
        source, target = (
            stack[first : first + plan.batch] for stack in (held_out.source, held_out.target)
        )
        outputs.append(plan.engine.run(state.average, source))
        sums += [len(source) * float(value) for value in _compare(outputs[-1], target)]
    mse, similarity = (sums / len(held_out.source)).tolist()
    loss = mse  # before, the weight of SSIM changes
    if state.progress.phase == "adversarial":
        ssim_term = float(ssim_loss(torch.tensor(similarity)))
        loss = state.progress.mse_weight * mse + state.progress.ssim_weight * ssim_term
    _require_finite({"validation loss": loss}, state.progress)
    psnr_db = 10 * math.log10(DATA_RANGE**2 / max(mse, SMALLEST))
    figures = {"loss": loss, "mse": mse, "ssim": similarity, "psnr_db": psnr_db}
    figures |= measure_artefacts(torch.cat(outputs), held_out.target)
    return dict(zip(figures, processes.agree(list(figures.values())), strict=True))


def judge(
    state: State, validation: Mapping[str, float], losses: Mapping[str, float]
) -> tuple[Alarm, ...]:
    """Return what is wrong with an adversarial training; before that phase nothing is."""
    progress = state.progress
    if "discriminator" in losses:
        progress.discriminator_loss = min(progress.discriminator_loss, losses["discriminator"])
    if progress.phase != "adversarial":
        return ()
    rate = state.discriminator_optimiser.param_groups[0]["lr"]
    return find_alarms(
        validation,
        progress.best["warm"],
        losses,
        discriminator_path=progress.discriminator_steps * rate,
        discriminator_loss=progress.discriminator_loss,
    )


def roll_back(state: State, alarms: Sequence[Alarm], say: Callable[[str], None]) -> None:
    """Go back to the last sound moment, and on with half the adversarial share and half the rates.

    The share, and the spectrum's, for they are what bends the images; the rates, for Adam's steps
    are no shorter where the objective is smaller.
    """
    progress = state.progress
    state.go_back()
    progress.rollbacks += 1
    progress.adversarial_weight /= 2
    progress.spectrum_weight /= 2
    progress.spectra = []  # of weights that are no more
    what = "; ".join(map(str, alarms))
    remedies = ". ".join(dict.fromkeys(alarm.remedy for alarm in alarms))
    if progress.rollbacks < ROLLBACKS:
        then = "Back to the last sound weights, with half the adversarial share and rates"
    else:
        then = "The adversarial training ends here"
    say(f"Step {progress.step}: {what}. {then}. {remedies} ({SET}).")


def tell_guessing(progress: Progress, say: Callable[[str], None]) -> None:
    """Say so where the discriminator never did better than a guess: it has taught nothing.

    Most trainings are too short for the alarm that waits for this.
    """
    if not only_guesses(progress.discriminator_loss):
        return
    say(
        f"The discriminator only guessed (its lowest loss is {progress.discriminator_loss:.3f}, a "
        f"guess has {2 * math.log(2):.3f}), so that the model is nearly its twin: for more of an "
        f"adversary lower warm_share, or raise discriminator_rate ({SET})."
    )


def tell_other_pixels(
    init: Model,
    sizes_nm: tuple[tuple[float, float], tuple[float, float]],
    say: Callable[[str], None],
) -> None:
    """Say so where the model to start from was made for other pixel sizes than the pairs'."""
    made_nm = (init.source_pixel_size_nm, init.target_pixel_size_nm)
    if np.abs(np.log(np.divide(sizes_nm, made_nm))).max() <= math.log1p(SAME_PIXEL):
        return
    made, have = (
        " to ".join(" x ".join(dict.fromkeys(f"{side:.4g}" for side in size)) for size in sizes)
        for sizes in (made_nm, sizes_nm)
    )
    say(
        f"The model to start from was made for pixels of {made} nm (source to target), these pairs "
        f"have {have} nm: what it has learnt of sizes does not fit."
    )


def keep(state: State, validation: Mapping[str, float], phase: str) -> None:
    """Keep a copy of the moving average: of the warm start the best, then the last sound one."""
    best, progress = state.progress.best, state.progress
    if phase == "discriminator":
        return
    if phase == "warm" and phase in best and validation["loss"] >= best[phase]["loss"]:
        return
    best[phase] = {"step": progress.step, **validation}
    state.kept[phase] = copy.deepcopy(state.average.state_dict())


def choose_kept(state: State) -> str:
    """Name the phase whose weights the model gets: the adversarial one, where it was sound.

    Where it had to be ended, only what came nearer to the target than the twin is of it.
    """
    if state.progress.rollbacks == ROLLBACKS:
        best = state.progress.best
        return max(state.kept, key=lambda phase: best[phase]["psnr_db"])
    return "adversarial" if "adversarial" in state.kept else "warm"


def _pixel_sizes_nm(
    pairs: Sequence[RegisteredPair],
) -> tuple[tuple[float, float], tuple[float, float]]:
    if not pairs:
        raise PairError("pairs", "there are none to train on", "Run crosscope register first")
    sizes = []
    for pair in pairs:
        sizes.append(pair.pixel_sizes_nm)
        if not np.allclose(sizes[-1], sizes[0], rtol=1e-3):
            reason = f"has pixels of {sizes[-1]} nm, {pairs[0].name} of {sizes[0]} nm"
            raise PairError(pair.name, reason, "Train on pairs of the same two instruments")
    return sizes[0]


def _seen_fields(split: Split) -> tuple[SeenField, ...]:
    return tuple(
        SeenField(pair.name, part, pair.source_sha256, pair.target_sha256)
        for part, pairs in (("training", split.training), ("validation", split.validation))
        for pair in pairs
    )


def _same_plan(asked: TrainingPlan, checkpoint: Checkpoint) -> TrainingPlan:
    """Return the stored plan; what was asked must agree, but for what was left to measurement."""
    remedy = "Resume with the same options, or choose another RUN"
    try:
        stored = TrainingPlan(**checkpoint.about["plan"])
    except TypeError as error:
        reason = "was made by another version of crosscope"
        raise ModelError(checkpoint.path, reason, remedy) from error
    measured = {"threads": asked.threads, "precision": asked.precision}
    left_open = {name: getattr(stored, name) for name, value in measured.items() if value is None}
    differ = [
        name
        for name, value in asdict(replace(asked, **left_open)).items()
        if value != getattr(stored, name)
    ]
    if differ:
        reason = f"was made with another {', '.join(differ)}"
        raise ModelError(checkpoint.path, reason, remedy)
    return stored


def _require_finite(numbers: Mapping[str, float], progress: Progress) -> None:
    if not all(math.isfinite(value) for value in numbers.values()):
        raise TrainingError(
            f"training, step {progress.step}",
            f"the loss is no longer finite in the {progress.phase} phase",
            "Train again at a lower rate, and check that no pair shows the same image twice",
        )


def _shares(progress: Progress, losses: Mapping[str, float]) -> dict[str, float]:
    """Return what part of the generator's objective each term makes."""
    terms = {
        "adversarial": progress.adversarial_weight * losses.get("adversarial", 0.0),
        "mse": progress.mse_weight * losses["mse"],
        "ssim": progress.ssim_weight * losses["ssim"],
    }
    if "spectrum" in losses:
        terms["spectrum"] = progress.spectrum_weight * losses["spectrum"]
    total = sum(terms.values()) or 1.0
    return {name: term / total for name, term in terms.items()}


def _alarms(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the alarms that rang, each with its step and its figure."""
    return [
        f"step {line['step']}, {Alarm(**alarm)}"
        for line in lines
        for alarm in line.get("alarms", ())
    ]


def _discriminator(progress: Progress, losses: Mapping[str, float]) -> dict[str, float] | None:
    """Return how well it told images apart at the end, or None where it never learned."""
    if "discriminator" not in losses:
        return None
    return {
        "accuracy": losses["discriminator_accuracy"],
        "loss": losses["discriminator"],
        "lowest_loss": progress.discriminator_loss,
    }


def _waiting_share(waited_s: float, seconds: float) -> float:
    """Return what part of the time the loop waited for batches."""
    return round(waited_s / seconds, 4) if seconds else 0.0


@torch.no_grad()
def _examples(
    state: State, plan: TrainingPlan, held_out: Data
) -> dict[str, Float[np.ndarray, "n y x"]]:
    source, target = held_out.source[:6], held_out.target[:6]
    stacks = {"source": source, "output": plan.engine.run(state.average, source), "target": target}
    return {name: stack[:, 0].float().cpu().numpy() for name, stack in stacks.items()}
