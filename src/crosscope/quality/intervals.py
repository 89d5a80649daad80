"""Model + pairs -> widths, calibrated by field of view; `prediction.bounds` uses them.

    low = output - lambda w_low          high = output + lambda w_high

The widths are learnt by small heads on the frozen generator (`model.heads`), for the 5 % and 95 %
quantiles. One factor lambda is then chosen on fields that nobody has learnt from: the smallest for
which it is certain, up to a chance of delta, that in a new field of the same kind no more than
alpha of the pixels are outside, on average over fields. Covered is the target's pixel as it would
be taken, noise included: a truth without noise is never at hand to calibrate on. That truth is
inside more often than promised where the noise dominates, and nothing is promised of it.

A field counts once, however many pixels it has: those share its focus and its sample. The loss of a
field is the share L of its pixels outside, 0 to 1, which only falls as lambda grows. If the mean of
L were above alpha,

    K = prod_i (1 + (alpha - L_i) / (1 - alpha))

would be a wealth made by fair bets at best, above 1 / delta with a chance below delta (Markov). So
K >= 1 / delta certifies a lambda. Even fields without a pixel outside make no more than
K = (1 - alpha)^-n of n: at alpha = delta = 0.1 nothing can be certified with fewer than 22. With
100 fields that differ little L may be 0.079; Hoeffding's and Bentkus's bounds, which know nothing
of how little, would ask for about 0.04.

Risk-controlling prediction sets: Bates et al., arXiv 2101.02703 (2021); of images: Angelopoulos et
al., arXiv 2202.05265 (2022). Bets: Waudby-Smith and Ramdas, arXiv 2010.09686 (2020).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Num
from torch import Tensor, nn

from crosscope.data.errors import PairError
from crosscope.data.registered import RegisteredPair
from crosscope.model.engine import Engine
from crosscope.model.heads import Bound, Heads, build_heads, pinball
from crosscope.model.model import Model
from crosscope.prediction.bounds import Calibration, least_fields
from crosscope.prediction.images import SAME_PIXEL
from crosscope.prediction.tiling import sharpen

QUANTILES = 0.05, 0.95
ALPHA = DELTA = 0.1
ENGINE = Engine(1, "float32")
LAMBDAS = np.geomspace(0.1, 100, 695)  # by 1 %
CROP_PX = 384
MOST_CROPS = 48
CELLS = 400_000  # kept to learn from, of all crops: about 60 MB
BATCH = 4096
STEPS = 1500
RATE = 2e-3
_LEARNING = 0.7  # part of the time


# --- learning -------------------------------------------------------------------------------------


def train_heads(
    model: Model,
    pairs: Sequence[RegisteredPair],
    *,
    seed: int = 0,
    steps: int = STEPS,
    watch: Callable[[float], None] = lambda done: None,
) -> Heads:
    """Learn the widths on the pairs that a model was trained with; the model stays as it is.

    Parameters
    ----------
    model : Model
    pairs : sequence of RegisteredPair
        At least one, of at least one stride of the network.
    seed : int
        The same pairs and seed give the same heads.
    steps : int
    watch : callable
        Told the part done, 0 to 1.

    Returns
    -------
    Heads
        To be kept by `replace(model, heads=heads)`.

    Raises
    ------
    PairError
        There is no pair, or one is smaller than the network can take.

    Notes
    -----
    On fields that the generator has learnt by heart its errors are too small, and so are the
    widths: calibration makes up for that on average, not pixel by pixel.
    """
    if not pairs:
        raise PairError("intervals", "there are no pairs to learn them on", "Give the training's")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]), ENGINE.in_use():
        torch.manual_seed(seed)
        heads = build_heads(model.network, model.base)
        seen, output, target = _gather(model, heads, pairs, rng)
        heads.middle.copy_(seen.mean(dim=(0, 2, 3)))
        heads.spread.copy_(seen.std(dim=(0, 2, 3)).clamp(min=1e-3))
        optimiser = torch.optim.Adam(heads.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for step in range(steps):
            drawn = torch.from_numpy(rng.integers(len(seen), size=BATCH))
            widths, middle, truth = heads(seen[drawn]), output[drawn], target[drawn]
            low, high = middle - widths[:, :1], middle + widths[:, 1:]
            loss = pinball(truth, low, QUANTILES[0]) + pinball(truth, high, QUANTILES[1])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            watch((step + 1) / steps)
    return heads.eval()


def _gather(
    model: Model, heads: Heads, pairs: Sequence[RegisteredPair], rng: np.random.Generator
) -> tuple[Float[Tensor, "n d 1 1"], Float[Tensor, "n 1 c c"], Float[Tensor, "n 1 c c"]]:
    """Draw crops, then cells: what the heads see there, the output's pixels, and the target's."""
    generator: Any = model.generator
    stride, cell = int(generator.stride), heads.cell_px
    parts: list[list[Tensor]] = [[], [], []]
    pixels = sum(pair.source.pixels.size for pair in pairs)
    crops = min(MOST_CROPS, max(len(pairs), pixels // CROP_PX**2))
    for n in range(crops):
        pair = pairs[n % len(pairs)]
        sides = [min(CROP_PX, side // stride * stride) for side in pair.source.pixels.shape]
        if not all(sides):
            raise PairError(pair.name, f"is smaller than {stride} px", "Take a larger field")
        at = tuple(
            slice(start, start + side)
            for side, start in (
                (side, int(rng.integers(length - side + 1)))
                for side, length in zip(sides, pair.source.pixels.shape, strict=True)
            )
        )
        x = torch.from_numpy(model.source_scaling.apply(pair.source.pixels[at]))[None, None]
        y = torch.from_numpy(model.target_scaling.apply(pair.target.pixels[at]))[None, None]
        with torch.no_grad():
            features = generator.features(x)
            output = generator.finish(x, features)
            seen = heads.gather(features, output)
        count = seen.shape[2] * seen.shape[3]
        chosen = torch.from_numpy(rng.choice(count, min(count, CELLS // crops), replace=False))
        for part, whole in zip(parts, (seen, output, y), strict=True):
            side = cell if whole.shape[1] == 1 else 1
            part.append(_cells(whole, side)[chosen])
    gathered, outputs, targets = (torch.cat(part) for part in parts)
    return gathered, outputs, targets


def _cells(image: Float[Tensor, "1 d y x"], side: int) -> Float[Tensor, "n d c c"]:
    """Cut an image into squares."""
    _, channels, y, x = image.shape
    cut = image.reshape(channels, y // side, side, x // side, side).permute(1, 3, 0, 2, 4)
    return cut.reshape(-1, channels, side, side)


# --- calibration ----------------------------------------------------------------------------------


def calibrate(
    model: Model,
    heads: Heads,
    pairs: Sequence[RegisteredPair],
    *,
    alpha: float = ALPHA,
    delta: float = DELTA,
    watch: Callable[[float], None] = lambda done: None,
) -> Calibration:
    """Choose by how much the widths must be multiplied, on fields that nobody has learnt from.

    Parameters
    ----------
    model : Model
    heads : Heads
        Of this model.
    pairs : sequence of RegisteredPair
        Pairs of one raw file, by its hash, count as one field.
    alpha, delta : 0 to 1
        The share that may be outside, and the chance that it is more nevertheless.
    watch : callable
        Told the part done, 0 to 1.

    Returns
    -------
    Calibration
        Without a factor, and with the reason, where there are too few fields (22 at the usual
        alpha and delta) or no factor up to 100 suffices.

    Raises
    ------
    PairError
        As `group_fields`.

    Notes
    -----
    It holds for fields drawn as these were, from the same sample, microscope and exposure. Fields
    that are parts of one scan, or of one day, are less than they count for.
    """
    fields = group_fields(model, pairs)
    too_few = _tell_too_few(len(fields), alpha, delta)
    if too_few:
        return Calibration(None, alpha, delta, len(fields), too_few)
    losses = []
    for n, group in enumerate(fields):
        scores = [measure_scores(model, heads, pair).ravel() for pair in group]
        losses.append(count_outside(np.concatenate(scores)))
        watch((n + 1) / len(fields))
    factor = choose_lambda(np.stack(losses), alpha=alpha, delta=delta)
    if factor is None:
        reason = f"no interval up to {LAMBDAS[-1]:g} times the learnt one can be certified"
        return Calibration(None, alpha, delta, len(fields), reason)
    return Calibration(factor, alpha, delta, len(fields))


def group_fields(
    model: Model, kept_aside: Sequence[RegisteredPair], learnt: Sequence[RegisteredPair] = ()
) -> list[list[RegisteredPair]]:
    """Return the pairs of each field: those of one raw file, by its hash, belong together.

    Raises
    ------
    PairError
        The model was trained on one of the fields or chosen by it, its heads have `learnt` from
        it, or its pixels are of another size than the model's.
    """
    known = {seen.source_sha256 for seen in model.fields} | {pair.source_sha256 for pair in learnt}
    made = (*model.source_pixel_size_nm, *model.target_pixel_size_nm)
    fields: dict[str | int, list[RegisteredPair]] = {}
    for n, pair in enumerate(kept_aside):
        if pair.source_sha256 and pair.source_sha256 in known:
            remedy = "Calibrate on fields that were kept aside"
            raise PairError(pair.name, "the model has learnt from it or was chosen by it", remedy)
        have = (*(pair.source_pixel_size_nm or ()), *(pair.target.pixel_size_nm or ()))
        if len(have) == len(made) and not np.allclose(have, made, rtol=SAME_PIXEL):
            reason = f"has source and target pixels of {have} nm, the model was made for {made}"
            raise PairError(pair.name, reason, "Calibrate on pairs of the model's instruments")
        fields.setdefault(pair.source_sha256 or n, []).append(pair)
    return list(fields.values())


def _tell_too_few(fields: int, alpha: float, delta: float) -> str | None:
    least = least_fields(alpha, delta)
    if fields >= least:
        return None
    return (
        f"{fields} calibration fields are too few: even if no pixel of theirs were outside, "
        f"that at most {alpha:.0%} of a new one's are is certain to {1 - delta:.0%} with {least} "
        "or more only"
    )


def measure_scores(model: Model, heads: Heads, pair: RegisteredPair) -> Float32[np.ndarray, "y x"]:
    """Return for each pixel how many widths the target is from the output."""
    output, low, high = (
        predict_moved(model, heads, pair.source.pixels, times).astype(np.float64)
        for times in (0.0, -1.0, 1.0)
    )
    off = pair.target.pixels - output
    return (off / np.where(off < 0, low - output, high - output)).astype(np.float32)


def predict_moved(
    model: Model,
    heads: nn.Module,
    source: Num[np.ndarray, "y x"],
    times: float,
    *,
    engine: Engine = ENGINE,
) -> Float32[np.ndarray, "y x"]:
    """Return the output on the target's grid, moved by so many widths: below 0 down, else up."""
    network = Bound(model.generator, heads, times)  # type: ignore[arg-type]
    bound: Float32[np.ndarray, "y x"] = sharpen(
        model, source[None], engine=engine, network=network
    )[0]
    return bound


def count_outside(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """Return the share of scores above each of `LAMBDAS`."""
    inside = np.searchsorted(np.sort(scores), LAMBDAS, side="right")
    return 1 - inside / len(scores)


def choose_lambda(
    losses: Float[np.ndarray, "fields k"], *, alpha: float, delta: float
) -> float | None:
    """Return the smallest of `LAMBDAS` that is certified by fields' losses, None where none is."""
    with np.errstate(divide="ignore"):  # a field that is all outside loses everything
        gains = np.log(np.maximum(0, 1 + (alpha - losses) / (1 - alpha)))
    certified = np.flatnonzero(gains.sum(axis=0) >= -math.log(delta) * (1 - 1e-12))
    return float(LAMBDAS[certified[0]]) if len(certified) else None


def with_intervals(
    model: Model,
    pairs: Sequence[RegisteredPair],
    kept_aside: Sequence[RegisteredPair],
    *,
    seed: int = 0,
    steps: int = STEPS,
    watch: Callable[[float], None] = lambda done: None,
) -> Model:
    """Return the model with heads, learnt on `pairs`, and its calibration in the certificate.

    Where too few fields are kept aside nothing is learnt, and the certificate has the reason.

    Raises what `train_heads` and `group_fields` raise.
    """
    fields = len(group_fields(model, kept_aside, pairs))
    reason = _tell_too_few(fields, ALPHA, DELTA)
    if reason:
        heads, found = None, Calibration(None, ALPHA, DELTA, fields, reason)
    else:
        heads = train_heads(
            model, pairs, seed=seed, steps=steps, watch=lambda done: watch(_LEARNING * done)
        )
        found = calibrate(
            model,
            heads,
            kept_aside,
            watch=lambda done: watch(_LEARNING + (1 - _LEARNING) * done),
        )
    certificate = {**model.certificate, "intervals": found.to_json()}
    return replace(model, heads=heads, certificate=certificate)
