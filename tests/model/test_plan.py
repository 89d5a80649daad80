from dataclasses import replace
from typing import Any

import pytest

from crosscope.data.errors import InputError
from crosscope.model.engine import Engine
from crosscope.model.plan import TrainingPlan, paper_plan


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"network": "vit"}, "network"),
        ({"minutes": 1.0, "steps": 1}, "minutes and steps"),
        ({"minutes": 0.0}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"steps": 0}, "steps"),
        ({"patch_px": 16}, "patch_px"),
        ({"patch_px": 40}, "patch_px"),
        ({"base": 0}, "base"),
        ({"discriminator_base": 0}, "discriminator_base"),
        ({"batch": 0}, "batch"),
        ({"accumulate": 0}, "accumulate"),
        ({"learning_rate": 0.0}, "rates"),
        ({"adversarial_rate": -1.0}, "rates"),
        ({"discriminator_rate": 0.0}, "rates"),
        ({"warm_share": 0.0}, "warm_share"),
        ({"warm_share": 1.1}, "warm_share"),
        ({"warm_ssim": -0.1}, "warm_ssim"),
        ({"mse_share": -0.1}, "mse_share"),
        ({"ssim_share": -0.1}, "ssim_share"),
        ({"spectrum_share": -0.1}, "spectrum_share"),
        ({"mse_share": 0.5, "ssim_share": 0.5}, "adversarial term"),
        ({"mse_share": 0.5, "ssim_share": 0.0, "spectrum_share": 0.5}, "adversarial term"),
        ({"background_share": 1.0}, "background_share"),
        ({"background_share": -0.1}, "background_share"),
        ({"validation_share": 0.0}, "validation_share"),
        ({"validation_share": 1.0}, "validation_share"),
        ({"ema": 1.0}, "ema"),
        ({"ema": -0.1}, "ema"),
        ({"member": -1}, "member"),
        ({"threads": 0}, "threads"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_each_rule_is_held(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        TrainingPlan(**changes)


def test_ten_minutes_where_no_budget_is_given() -> None:
    assert TrainingPlan().minutes == 10
    assert TrainingPlan(steps=3).minutes is None
    assert replace(TrainingPlan(), threads=1).minutes == 10


def test_the_engine_is_what_was_recorded() -> None:
    assert TrainingPlan(threads=2, precision="bfloat16").engine == Engine(2, "bfloat16")


def test_the_papers_plan_has_the_papers_values() -> None:
    plan = paper_plan()
    assert (plan.network, plan.base, plan.discriminator_base) == ("paper", 64, 64)
    assert (plan.patch_px, plan.batch) == (64, 12)
    assert (plan.learning_rate, plan.adversarial_rate, plan.discriminator_rate) == (
        1e-4,
        1e-4,
        1e-5,
    )
    assert (plan.mse_share, plan.ssim_share) == (0.05, 0.05)
    assert not plan.decay
    assert plan.minutes == 10


def test_the_papers_plan_can_be_changed() -> None:
    plan = paper_plan(steps=500, base=16, seed=3)
    assert (plan.steps, plan.minutes, plan.base, plan.seed) == (500, None, 16, 3)
    assert plan.discriminator_base == 16
    assert paper_plan(minutes=3.0).minutes == 3
    with pytest.raises(InputError, match="base"):
        paper_plan(base=0)
