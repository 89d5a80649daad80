"""Learning curves: nested parts, the same validation, one budget each."""

import numpy as np
import pytest

from crosscope.data.errors import PairError
from crosscope.data.images import Image
from crosscope.data.registered import RegisteredPair, Transform
from crosscope.model.curve import measure_learning_curve
from crosscope.model.plan import TrainingPlan
from crosscope.model.training import train

PLAN = TrainingPlan(
    steps=2, batch=2, patch_px=32, base=4, discriminator_base=2, threads=1, precision="float32"
)


def make_pair(seed: int) -> RegisteredPair:
    pixels = np.random.default_rng(seed).poisson(20, (96, 96)).astype(np.float32)
    pixels[40:50, 40:60] += 200
    image = Image(pixels, "yx", (30.0, 30.0))
    transform = Transform(np.eye(2, 3))
    return RegisteredPair(
        f"p{seed}", image, image, transform, (0, 0), (30.0, 30.0), 0.1, 0.5, 0.6, f"sha {seed}"
    )


def test_a_learning_curve_is_taken_on_nested_parts_of_the_training_fields() -> None:
    pairs = [make_pair(seed) for seed in range(5)]
    told: list[float] = []
    model = train(pairs, PLAN)
    curved = measure_learning_curve(
        pairs, PLAN, model, watch=lambda moment: told.append(moment.done)
    )
    curve = curved.training["learning_curve"]
    assert [point["pairs"] for point in curve] == [1, 2, 4]
    assert curve[-1]["psnr_db"] == model.training["validation"]["psnr_db"]
    assert all(point["psnr_db"] > 0 for point in curve)
    assert all(point["loss"] > 0 for point in curve)
    assert told == sorted(told)
    assert told[-1] == 1


def test_one_training_field_has_no_parts() -> None:
    pairs = [make_pair(seed) for seed in range(2)]
    with pytest.raises(PairError, match="one training field"):
        measure_learning_curve(pairs, PLAN, train(pairs, PLAN))
