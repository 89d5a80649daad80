import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crosscope.data.noise import Noise
from crosscope.data.sampling import Scaling
from crosscope.model.model import Model
from crosscope.model.reach import Reach
from crosscope.optics.psf import confocal_otf, sted_otf
from crosscope.quality.claim import SHARES, Claim, measure_claim, upper_bound
from crosscope.quality.forward import FREQUENCIES, Forward
from crosscope.quality.quantities import Quantities, measure_quantities

# a microscope that blurs nothing: what comes out of a network that changes nothing is what was seen
CLEAR = Forward(
    transfer=(1.0,) * FREQUENCIES,
    gain=2.0,
    zero=50.0,
    background=100.0,
    mismatch=0.0,
    target_fwhm_px=4.0,
    zoom=1.0,
    noise=Noise(gain=1.0, read_noise=2.0, zero=100.0),
)


class Applied(nn.Module):
    """A network that does what a function says."""

    stride = 8

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def model_of(function: Callable[[Tensor], Tensor]) -> Model:
    return Model(
        network="fast",
        base=32,
        generator=Applied(function),
        twin=None,
        source_scaling=Scaling(100.0, 800.0),
        target_scaling=Scaling(50.0, 400.0),
        source_pixel_size_nm=(25.0, 25.0),
        target_pixel_size_nm=(25.0, 25.0),
        reach=Reach(96, 64, 40),
    )


def invent(x: Tensor) -> Tensor:
    """Put three spots at the same places of every field."""
    y, u = torch.meshgrid(torch.arange(x.shape[-2]), torch.arange(x.shape[-1]), indexing="ij")
    spots = sum(torch.exp(-((y - at) ** 2 + (u - 33) ** 2) / 5.8) for at in (50, 250, 450))
    return x + 0.5 * spots


IDENTITY = model_of(lambda x: x)


@pytest.fixture(scope="module")
def clear() -> Claim:
    return measure_claim(IDENTITY, CLEAR, trials=100, empty_fields=2)


def test_a_perfect_network_is_claimed_what_spots_can_tell_apart(clear: Claim) -> None:
    width_nm = 25.0 * CLEAR.target_fwhm_px
    assert clear.resolution_nm is not None
    # spots are two from 0.93 widths on: the next separation is claimed
    assert 0.93 * width_nm <= clear.resolution_nm <= 1.2 * width_nm
    assert clear.p_merged[0] == 1.0
    assert clear.p_merged[-1] == clear.p_split == clear.p_missed == 0.0
    assert clear.false_objects_per_field == clear.most_false_objects == 0
    assert (clear.peak_grey, clear.photons) == (400.0, 400.0)
    assert clear.n == 100


def test_a_perfect_network_has_no_bias(clear: Claim) -> None:
    assert clear.position_bias_nm == pytest.approx((0.0, 0.0), abs=1.0)
    assert clear.position_error_nm is not None
    assert clear.position_error_nm < 4.0
    assert clear.intensity_bias == pytest.approx(0.0, abs=0.01)
    assert clear.pair_intensity_bias == pytest.approx(0.0, abs=0.01)
    assert clear.separation_bias_nm[0] is None
    # the side lobes of the spot finder's band-pass push neighbours apart, by 0.2 px at most
    assert clear.separation_bias_nm[-1] == pytest.approx(0.0, abs=6.0)


def test_a_shift_and_a_loss_of_light_are_measured() -> None:
    shifting = model_of(lambda x: 0.9 * torch.roll(x, 1, dims=-1))

    claim = measure_claim(shifting, CLEAR, trials=60, empty_fields=1)

    assert claim.position_bias_nm == pytest.approx((0.0, 25.0), abs=1.0)
    assert claim.intensity_bias == pytest.approx(-0.1, abs=0.01)


def test_a_network_that_splits_points_is_claimed_nothing() -> None:
    splitting = model_of(lambda x: torch.roll(x, 3, dims=-1) + torch.roll(x, -3, dims=-1))

    claim = measure_claim(splitting, CLEAR, trials=60, empty_fields=1)

    assert claim.resolution_nm is None
    assert claim.reason is not None
    assert claim.p_split > 0.9 or "no spots" in claim.reason


def test_a_weak_ghost_beside_each_point_is_a_split() -> None:
    ghost = model_of(lambda x: x + 0.4 * torch.roll(x, 5, dims=-2))

    claim = measure_claim(ghost, CLEAR, trials=60, empty_fields=1)

    assert claim.p_split > 0.95
    assert claim.reason is not None
    assert "single points come out as two" in claim.reason


def test_a_network_that_shows_nothing_makes_no_spots() -> None:
    claim = measure_claim(model_of(lambda x: 0 * x), CLEAR, trials=60, empty_fields=1)

    assert claim.resolution_nm is None
    assert claim.reason == "this model makes no spots of points"
    assert claim.p_missed == 1.0
    assert claim.position_bias_nm is None
    assert claim.intensity_bias is None
    assert "No resolution can be claimed" in claim.sentence
    assert Claim.from_json(json.loads(json.dumps(claim.to_json(), allow_nan=False))) == claim


def test_what_is_invented_is_counted() -> None:
    claim = measure_claim(model_of(invent), CLEAR, trials=60, empty_fields=3)

    assert claim.false_objects_per_field == claim.most_false_objects == 3


def test_the_same_seed_gives_the_same_claim(clear: Claim) -> None:
    assert measure_claim(IDENTITY, CLEAR, trials=100, empty_fields=2) == clear
    other = measure_claim(IDENTITY, CLEAR, trials=100, empty_fields=2, seed=1)
    assert other.position_bias_nm != clear.position_bias_nm


def test_few_trials_claim_nothing() -> None:
    claim = measure_claim(IDENTITY, CLEAR, trials=20, empty_fields=1)

    assert claim.p_merged[-1] == 0.0
    assert claim.resolution_nm is None


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    assert upper_bound(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound(0, 58) > 0.05 > upper_bound(0, 59)
    assert upper_bound(20, 20) == 1.0


def test_watching_ends_at_1() -> None:
    told: list[float] = []
    measure_claim(IDENTITY, CLEAR, trials=20, empty_fields=2, watch=told.append)

    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_claim_survives_json_and_says_itself(clear: Claim) -> None:
    assert Claim.from_json(json.loads(json.dumps(clear.to_json(), allow_nan=False))) == clear
    assert clear.sentence == (
        f"Two points are told apart from {clear.resolution_nm:.0f} nm on (split or merged in at "
        "most 5 % of 100 trials at 400 photons)."
    )
    no_photons = replace(clear, photons=None)
    assert "at 400 grey values above the background" in no_photons.sentence


@pytest.mark.parametrize(
    "damage",
    [
        {"resolution_nm": math.nan},
        {"resolution_nm": None},
        {"p_split": "0"},
        {"p_merged": [0.0]},
        {"p_merged": None},
        {"separations_nm": [math.inf] * len(SHARES)},
        {"position_bias_nm": [1.0]},
        {"reason": 3},
        {"n": 0},
    ],
)
def test_a_damaged_claim_is_refused(clear: Claim, damage: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Claim.from_json(clear.to_json() | damage)


def test_a_claim_with_a_part_missing_is_refused(clear: Claim) -> None:
    value = clear.to_json()
    del value["p_split"]
    with pytest.raises(KeyError):
        Claim.from_json(value)


def test_the_bead_model_tells_points_apart() -> None:
    model = Model.load("confocal-sted-beads")
    frequency = np.linspace(0, 0.5, FREQUENCIES) / 30.0
    sted = np.maximum(sted_otf().at(frequency), 1e-3)
    ratio = np.clip(confocal_otf().at(frequency) / sted, 0, 1)
    forward = Forward(
        transfer=tuple(np.minimum.accumulate(ratio).tolist()),
        gain=9.6,
        zero=12.0,
        background=12.0,
        mismatch=0.0,
        target_fwhm_px=3.75,
        zoom=1.0,
        noise=Noise(1.0, 1.4, 12.0),
    )

    claim = measure_claim(model, forward, trials=10, empty_fields=1)

    assert claim.p_merged[0] == 1.0
    assert max(claim.p_merged[5:]) == claim.p_split == 0.0
    assert claim.false_objects_per_field == 0
    assert claim.position_error_nm is not None
    assert claim.position_error_nm < 5


# --- quantities -----------------------------------------------------------------------------------


def test_light_follows_through_a_network_that_changes_nothing() -> None:
    found = measure_quantities(IDENTITY, CLEAR)

    assert found.slope == pytest.approx(1.0, abs=0.01)
    assert found.r2 is not None
    assert found.r2 > 0.99
    assert found.ratios == pytest.approx(found.exposures, rel=0.05)
    assert found.offset_change == pytest.approx(0.0, abs=1e-3)
    assert "follows the input's" in found.sentence


def test_a_network_that_squares_has_a_slope_of_2() -> None:
    found = measure_quantities(model_of(lambda x: 2 * x * x.abs()), CLEAR)

    assert found.slope == pytest.approx(2.0, abs=0.1)
    assert "does not follow" in found.sentence


def test_without_light_there_is_no_slope() -> None:
    found = measure_quantities(model_of(lambda x: 0 * x), CLEAR)

    nothing = (found.slope, found.r2, found.ratios, found.offset_change)
    assert nothing == (None, None, None, None)
    assert "no spots" in found.sentence
    assert Quantities.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


@pytest.mark.parametrize(
    "damage",
    [{"slope": math.nan}, {"slope": None}, {"ratios": [1.0]}, {"r2": "1"}, {"reason": "why"}],
)
def test_damaged_quantities_are_refused(damage: dict[str, Any]) -> None:
    whole = Quantities((0.5, 1.0), (0.5, 1.0), 1.0, 0.999, None, (500.0,), 1e-6, 100)
    assert Quantities.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    with pytest.raises((ValueError, TypeError)):
        Quantities.from_json(whole.to_json() | damage)


def test_of_points_too_wide_for_many_trials_nothing_is_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crosscope.quality.claim.MOST_FIELDS", 2)
    claim = measure_claim(IDENTITY, replace(CLEAR, target_fwhm_px=9.0), empty_fields=1)
    assert claim.n < 59
    assert claim.resolution_nm is None
    assert "too few" in str(claim.reason)
