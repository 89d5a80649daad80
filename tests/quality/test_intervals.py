"""Intervals hold for new fields; below 22 fields there are none, and the reason is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import crosscope as cs
from crosscope.data.errors import ModelError, PairError
from crosscope.data.registered import RegisteredPair
from crosscope.data.transforms import IDENTITY
from crosscope.model.model import SeenField
from crosscope.optics.misregistration import ALIGNED
from crosscope.prediction.bounds import least_fields, predict_interval
from crosscope.quality.intervals import (
    LAMBDAS,
    calibrate,
    choose_lambda,
    count_outside,
    measure_scores,
    train_heads,
    with_intervals,
)

PLAN = cs.PredictionPlan(engine="torch", threads=1, precision="float32")


def simulate(count: int, size_px: int, seed: int) -> list[RegisteredPair]:
    return [
        RegisteredPair(
            f"{seed}-{n}", made.source, made.target, IDENTITY, (0, 0), (30.0, 30.0), *[None] * 3
        )
        for n, made in enumerate(
            cs.simulate(
                "confocal-sted",
                sample="beads",
                pairs=count,
                size_px=size_px,
                seed=seed,
                misregistration=ALIGNED,
            )
        )
    ]


@pytest.fixture(scope="module")
def fields() -> list[RegisteredPair]:
    return simulate(30, 64, 5002)


@pytest.fixture(scope="module")
def calibrated(beads: cs.Model, fields: list[RegisteredPair]) -> cs.Model:
    return with_intervals(beads, simulate(2, 128, 5000), fields, seed=1, steps=60)


def test_intervals_cover_new_fields_and_enclose_the_output(
    calibrated: cs.Model, beads: cs.Model
) -> None:
    shares = []
    for pair in simulate(3, 64, 5004):
        found = predict_interval(calibrated, pair.source, plan=PLAN)
        output = cs.predict(beads, pair.source, plan=PLAN).pixels
        low, high = found.low.pixels, found.high.pixels
        assert low.dtype == high.dtype == np.float32
        assert bool(((low <= output) & (output <= high)).all())
        shares.append(np.mean((pair.target.pixels >= low) & (pair.target.pixels <= high)))
    assert np.mean(shares) >= 0.9


def test_tiles_make_no_difference(calibrated: cs.Model) -> None:
    (pair,) = simulate(1, 128, 5006)
    whole = predict_interval(calibrated, pair.source, plan=PLAN)
    tiled = predict_interval(calibrated, pair.source, plan=replace(PLAN, tile_px=64))
    range_ = calibrated.target_scaling.scale
    for name in ("low", "high"):
        difference = np.abs(getattr(whole, name).pixels - getattr(tiled, name).pixels)
        assert difference.max() <= 1e-4 * range_


def test_the_same_seed_gives_the_same_heads_and_the_model_stays(beads: cs.Model) -> None:
    before = {name: weight.clone() for name, weight in beads.generator.state_dict().items()}
    pairs = simulate(1, 64, 5008)
    state = torch.get_rng_state()
    a, b, c = (train_heads(beads, pairs, seed=seed, steps=3) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, b.state_dict()[key]) for key, v in a.state_dict().items())
    assert not torch.equal(a.first.weight, c.first.weight)
    after = beads.generator.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_half_precision_moves_no_bound_by_more_than_a_hundredth(
    calibrated: cs.Model, tmp_path: Path
) -> None:
    (pair,) = simulate(1, 64, 5010)
    replace(calibrated).save(tmp_path / "a.zip", half=True)
    back = cs.Model.load(tmp_path / "a.zip")
    first, second = (predict_interval(m, pair.source, plan=PLAN) for m in (calibrated, back))
    width = first.high.pixels - first.low.pixels
    assert np.all(np.abs(second.high.pixels - second.low.pixels - width) <= 0.01 * width + 1e-3)


def test_fewer_than_22_fields_give_none_and_say_why(
    calibrated: cs.Model, fields: list[RegisteredPair]
) -> None:
    assert least_fields(0.1, 0.1) == 22
    assert calibrated.heads is not None
    found = calibrate(calibrated, calibrated.heads, fields[:21])  # type: ignore[arg-type]
    assert (found.lambda_, found.fields) == (None, 21)
    assert "21 calibration fields are too few" in str(found.reason)
    certificate = {**calibrated.certificate, "intervals": found.to_json()}
    with pytest.raises(ModelError, match="too few"):
        predict_interval(replace(calibrated, certificate=certificate), fields[0].source, plan=PLAN)
    with pytest.raises(ModelError, match="has lost the heads"):
        predict_interval(replace(calibrated, heads=None), fields[0].source, plan=PLAN)
    bare = with_intervals(replace(calibrated, heads=None), simulate(1, 64, 5014), fields[:21])
    assert bare.heads is None
    assert bare.certificate["intervals"] == found.to_json()


def test_parts_of_one_file_are_one_field(
    calibrated: cs.Model, fields: list[RegisteredPair]
) -> None:
    parts = [replace(pair, source_sha256="ab") for pair in fields]
    found = calibrate(calibrated, calibrated.heads, parts)  # type: ignore[arg-type]
    assert (found.lambda_, found.fields) == (None, 1)


def test_fields_that_the_model_has_seen_are_refused(
    calibrated: cs.Model, fields: list[RegisteredPair]
) -> None:
    model = replace(calibrated, fields=(SeenField("a", "training", "ab", None),))
    with pytest.raises(PairError, match="has learnt from it"):
        calibrate(model, model.heads, [replace(fields[0], source_sha256="ab")])  # type: ignore[arg-type]


def test_fields_that_the_heads_have_learnt_from_are_refused(
    beads: cs.Model, fields: list[RegisteredPair]
) -> None:
    pairs = [replace(pair, source_sha256=str(n)) for n, pair in enumerate(fields)]
    with pytest.raises(PairError, match="has learnt from it"):
        with_intervals(beads, pairs[-1:], pairs)


def test_fields_of_other_pixels_are_refused(
    beads: cs.Model, calibrated: cs.Model, fields: list[RegisteredPair]
) -> None:
    other = replace(fields[0], source_pixel_size_nm=(60.0, 60.0))
    with pytest.raises(PairError, match=r"60\.0.* the model was made for"):
        calibrate(beads, calibrated.heads, [other])  # type: ignore[arg-type]


def test_the_certificate_of_a_perfect_method_needs_exactly_22_fields() -> None:
    nothing_outside = np.zeros((22, len(LAMBDAS)))
    assert choose_lambda(nothing_outside, alpha=0.1, delta=0.1) == LAMBDAS[0]
    assert choose_lambda(nothing_outside[:21], alpha=0.1, delta=0.1) is None
    assert choose_lambda(nothing_outside + 1, alpha=0.1, delta=0.1) is None


@pytest.mark.parametrize("count", [22, 40, 100])
def test_the_risk_is_above_alpha_in_no_more_draws_than_delta(
    count: int, rng: np.random.Generator
) -> None:
    """Fields that differ much: the mean share outside is 0.25 / lambda."""
    violations = 0
    for _ in range(200):
        losses = np.minimum(1, 2 * rng.beta(1, 7, (count, 1)) / LAMBDAS)
        factor = choose_lambda(losses, alpha=0.1, delta=0.1)
        violations += factor is not None and 0.25 / factor > 0.1
    assert violations <= 200 * 0.1 + 2 * (200 * 0.1 * 0.9) ** 0.5


def test_a_hundred_like_fields_are_covered_between_88_and_94_percent(
    rng: np.random.Generator,
) -> None:
    losses = np.stack([count_outside(np.abs(rng.normal(size=2000))) for _ in range(100)])
    factor = choose_lambda(losses, alpha=0.1, delta=0.1)
    assert factor is not None
    assert 0.88 <= np.mean(np.abs(rng.normal(size=100_000)) <= factor) <= 0.94


def test_scores_count_widths(calibrated: cs.Model) -> None:
    (pair,) = simulate(1, 64, 5012)
    found = measure_scores(calibrated, calibrated.heads, pair)  # type: ignore[arg-type]
    bounds = predict_interval(calibrated, pair.source, plan=PLAN)
    factor = calibrated.certificate["intervals"]["lambda_"]
    target = pair.target.pixels
    inside = (target >= bounds.low.pixels) & (target <= bounds.high.pixels)
    assert np.mean(inside == (found <= factor)) > 0.999
