"""One validation's figures -> what is wrong with the adversarial training, in words.

Every figure of an output is judged beside its target's or its twin's, the network as it was before
the discriminator had a say: what they show too is the sample's, or was there before.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from crosscope.model.losses import ring_power

CELL_PX = 8  # the period that strides of 2, 4 and 8 px share
RINGS = 8  # of spatial frequency, up to half a period per pixel; the first is not of detail

# Before outputs were shown with noise, short trainings on beads and on filaments with shares of MSE
# and SSIM of 5 % lost 0.8 dB at most, at 10 times the adversarial rate, too, kept 95 % of the
# spread, had patterns up to 0.011 and sharpness up to 1.3. With shares of 1 % 1.6 dB were lost, of
# 0.1 % 8 dB, with a discriminator of 20 times its rate 3 dB.
PSNR_LOST_DB = 3.0
"""What one of all likely images costs against their mean, so the most that looking real may cost:
Blau and Michaeli, CVPR (2018), doi 10.1109/CVPR.2018.00652."""
SPREAD_LEFT = 0.25  # of the twin's: half its contrast
PATTERN = 0.02  # beyond the twin's, of a typical structure: seen in a dark background
SHARPNESS = 2.0  # a perfect output has 1
FLOOR = PATTERN**2  # power of no account
WINNING = 0.99
PSNR_WON_DB = 1.0  # winning as such does no harm
GUESSING = 0.99 * 2 * math.log(2)  # L(D; G) of one that answers 1/2 is 2 log 2
PATIENCE = 0.5  # steps times rate: on pits a discriminator guessed for 1500 to 2500 steps of 1e-4


@dataclass(frozen=True)
class Alarm:
    """What is wrong.

    Attributes
    ----------
    name : str
        "collapse", "checkerboard", "over-sharpening", "discriminator wins" or "discriminator
        learns nothing".
    measure : str
        What the figure is, in words that follow it.
    figure, limit : float
        What was measured, and how far it may go.
    remedy : str
        What to do about it in the next training: a sentence that names fields of its plan.
    """

    name: str
    measure: str
    figure: float
    limit: float
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.figure:.3g} {self.measure} (limit {self.limit:.3g})"


def measure_artefacts(
    output: Float[Tensor, "n 1 y x"], target: Float[Tensor, "n 1 y x"]
) -> dict[str, float]:
    """Measure what a discriminator may do to a generator's images, on held-out patches.

    Parameters
    ----------
    output, target : n 1 y x
        Scaled: a typical structure is 1 high. Sides a multiple of 8 px.

    Returns
    -------
    dict
        "spread": variance of a pixel from patch to patch, 0 where the output no longer depends on
        its input. "pattern": rms of what is in the output, not in the target, and repeats every 8
        px, as the harmonics of 8, 4 and 2 px do: the checkerboard of strided layers (Odena et al.,
        Distill (2016), doi 10.23915/distill.00003). "sharpness": power of the output over that of
        the target, noise included, in the ring of periods below 16 px where it is largest.

    Notes
    -----
    Only patterns of one phase in all patches are seen; a few thousandths are chance.
    """
    n, _, y, x = output.shape
    cells = (output - target).view(n, y // CELL_PX, CELL_PX, x // CELL_PX, CELL_PX)
    of_output, of_target = (ring_power(images, rings=RINGS)[:RINGS] for images in (output, target))
    ratios = (of_output + FLOOR) / (of_target + FLOOR)
    return {
        "spread": float(output.var(dim=0, correction=0).mean()),
        "pattern": float(cells.mean(dim=(0, 1, 3)).std(correction=0)),
        "sharpness": float(ratios[1:].max()),
    }


def find_alarms(
    validation: Mapping[str, float],
    twin: Mapping[str, int | float],
    losses: Mapping[str, float],
    *,
    discriminator_path: float,
    discriminator_loss: float,
) -> tuple[Alarm, ...]:
    """Judge one moment of the adversarial phase.

    Parameters
    ----------
    validation, twin : mapping
        "psnr_db", and what `measure_artefacts` gives, of the generator and of its twin.
    losses : mapping
        "discriminator_accuracy": mean since the last moment, 0 to 1.
    discriminator_path, discriminator_loss : float
        How many steps it has learned, times its rate, and the lowest L(D; G) that it reached.
    """
    lost_db = twin["psnr_db"] - validation["psnr_db"]
    left = validation["spread"] / max(twin["spread"], FLOOR)
    pattern, sharpness = validation["pattern"], validation["sharpness"]
    most_pattern = twin["pattern"] + PATTERN
    most_sharpness = SHARPNESS * max(1.0, twin["sharpness"])
    accuracy = losses["discriminator_accuracy"]
    wins = accuracy > WINNING and lost_db > PSNR_WON_DB
    learns_nothing = discriminator_path >= PATIENCE and only_guesses(discriminator_loss)
    gentler = "Lower adversarial_rate, or raise mse_share"
    longer = "Raise mse_share, or warm_share: train longer before the adversary"
    slower = "Lower discriminator_rate, or raise warm_share: train longer before the adversary"
    faster = "Raise discriminator_rate or discriminator_base"
    judged = (
        (
            lost_db > PSNR_LOST_DB,
            Alarm("collapse", "dB of PSNR below the twin", lost_db, PSNR_LOST_DB, gentler),
        ),
        (
            twin["spread"] > FLOOR and left < SPREAD_LEFT,
            Alarm("collapse", "of the twin's variance is left", left, SPREAD_LEFT, gentler),
        ),
        (
            pattern > most_pattern,
            Alarm("checkerboard", "rms repeats every 8 px", pattern, most_pattern, longer),
        ),
        (
            sharpness > most_sharpness,
            Alarm(
                "over-sharpening", "times the target's power", sharpness, most_sharpness, gentler
            ),
        ),
        (
            wins,
            Alarm("discriminator wins", "of its answers are right", accuracy, WINNING, slower),
        ),
        (
            learns_nothing,
            Alarm(
                "discriminator learns nothing",
                "is its lowest loss",
                discriminator_loss,
                GUESSING,
                faster,
            ),
        ),
    )
    return tuple(alarm for rings, alarm in judged if rings)


def only_guesses(discriminator_loss: float) -> bool:
    """Tell whether a discriminator whose lowest L(D; G) this is does no better than a guess."""
    return discriminator_loss > GUESSING
