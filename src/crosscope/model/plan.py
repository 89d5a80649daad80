"""All choices of a training run, in one value."""

from dataclasses import dataclass, replace
from typing import Any

from crosscope.data.errors import InputError
from crosscope.model.engine import Engine

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainingPlan:
    """How a model is trained; the defaults are the `fast` preset's.

    Where a default comes from: [P] the paper, as its slides and the same laboratory's later code
    tell it; [M] from short trials on simulated beads, one seed each.

    Attributes
    ----------
    network, base : str, int
        "fast" or "paper"; the channels after the first layer.
    minutes, steps : float or int, or None
        The budget: one of the two, ten minutes where neither is given. With `steps` the result
        doesn't depend on the machine's speed.
    patch_px, batch : int
        64 px and 12 [P]; 64 px and 4 in `fast`: more and smaller steps reached more [M].
    accumulate : int
        So many batches make one step, one in memory at a time: a larger batch where memory is
        small. Each of several processes takes as many; a step's whole batch is the product.
    learning_rate, adversarial_rate, discriminator_rate : float
        Of Adam: the generator in the warm start and in the adversarial phase, and the
        discriminator. 1e-4, 1e-4 and 1e-5 [P].
    decay : bool
        Whether the generator's rate falls along half a cosine in each phase [M].
    warm_share : float
        Part of the budget for the regression warm start; 1 means no adversarial phase.
    warm_ssim : float
        Weight of the SSIM term beside the MSE in the warm start; it falls to 0 at its end [M].
    mse_share, ssim_share : float
        Of L(G; D) when the adversarial phase begins; the rest is the adversary's. In the paper
        they are 1 to 10 % [P]. Much of the MSE keeps the output near the truth; much of the SSIM,
        45 % say, takes it away, for a noisy target's is highest where the contrast is wrong [M].
    spectrum_share : float
        As `mse_share`, of a term that holds the power of the output to the target's at every
        spatial frequency. None by default: power that the source doesn't tell costs PSNR. As this
        term falls the others are what is left of the objective, so that it may be most of it [M].
    discriminator_base : int
        Channels after the discriminator's first layer.
    background_share : float
        At most this part of the patches is near-empty: they teach that nothing stays nothing.
    haze : float
        The source's background is moved at random by up to this part of its scale, for fields
        whose out-of-focus light differs from place to place: the network learns to ignore it.
    validation_share : float
        Part of the fields (at least one), or of a single field's length.
    training_fields : int or None
        Learn from so many of the training fields only; less are a part of more (learning curves).
    ema : float
        Decay of the moving average of the weights, per step.
    seed : int
    member : int
        Which network of an ensemble: each begins elsewhere and draws other batches, of the same
        fields.
    threads, precision : int or None, "float32" or "bfloat16" or None
        None: the fastest by measurement at the start, then recorded here, so that resuming is
        exact.
    """

    network: str = "fast"
    base: int = 32
    minutes: float | None = None
    steps: int | None = None
    patch_px: int = 64
    batch: int = 4
    accumulate: int = 1
    learning_rate: float = 2e-3
    adversarial_rate: float = 1e-4
    discriminator_rate: float = 1e-4
    decay: bool = True
    warm_share: float = 0.9
    warm_ssim: float = 0.05
    mse_share: float = 0.85
    ssim_share: float = 0.05
    spectrum_share: float = 0.0
    discriminator_base: int = 16
    background_share: float = 0.1
    haze: float = 0.0
    validation_share: float = 0.15
    training_fields: int | None = None
    ema: float = 0.997
    seed: int = 0
    member: int = 0
    threads: int | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            object.__setattr__(self, "minutes", 10.0)
        shares = (self.mse_share, self.ssim_share, self.spectrum_share)
        rules = {
            "network must be fast or paper": self.network in ("fast", "paper"),
            "minutes and steps exclude each other": self.minutes is None or self.steps is None,
            "minutes must be above 0": self.minutes is None or self.minutes > 0,
            "steps must be at least 1": self.steps is None or self.steps >= 1,
            "patch_px must be a multiple of 16 and at least 32": self.patch_px >= 32
            and self.patch_px % 16 == 0,
            "base, discriminator_base, batch and accumulate must be at least 1": min(
                self.base, self.discriminator_base, self.batch, self.accumulate
            )
            >= 1,
            "rates must be above 0": min(
                self.learning_rate, self.adversarial_rate, self.discriminator_rate
            )
            > 0,
            "warm_share must be above 0 and at most 1": 0 < self.warm_share <= 1,
            "warm_ssim must be at least 0": self.warm_ssim >= 0,
            "mse_share, ssim_share and spectrum_share must be at least 0": min(shares) >= 0,
            "mse_share, ssim_share and spectrum_share must leave room for the adversarial term": (
                sum(shares) < 1
            ),
            "background_share must be at least 0 and below 1": 0 <= self.background_share < 1,
            "haze must be at least 0": self.haze >= 0,
            "validation_share must be between 0 and 1": 0 < self.validation_share < 1,
            "training_fields must be at least 1": self.training_fields is None
            or self.training_fields >= 1,
            "ema must be at least 0 and below 1": 0 <= self.ema < 1,
            "member must be at least 0": self.member >= 0,
            "threads must be at least 1": self.threads is None or self.threads >= 1,
            "precision must be float32 or bfloat16": self.precision in (None, *PRECISIONS),
        }
        for rule, holds in rules.items():
            if not holds:
                raise InputError("training plan", rule, "Correct it and start again")

    @property
    def engine(self) -> Engine:
        """The engine that the run's start chose and recorded."""
        assert self.threads is not None, "choose an engine first"
        assert self.precision is not None, "choose an engine first"
        return Engine(self.threads, self.precision)


def paper_plan(**changes: Any) -> TrainingPlan:
    """Return the paper's plan: its generator and discriminator, patches, batches and rates.

    64 px patches in batches of 12, Adam at 1e-4 and 1e-5 held constant, MSE and SSIM at a twentieth
    of the objective each; 64 channels after the first layer of both networks, or as many as `base`
    says. The short regression start is ours: the twin comes from it.
    """
    base = changes.pop("base", 64)
    budget = {key: changes.pop(key) for key in ("minutes", "steps") if key in changes}
    paper = TrainingPlan(
        network="paper",
        base=base,
        batch=12,
        learning_rate=1e-4,
        discriminator_rate=1e-5,
        decay=False,
        warm_share=0.1,
        mse_share=0.05,
        ssim_share=0.05,
        discriminator_base=base,
        ema=0.999,
        **budget,
    )
    return replace(paper, **changes)
