import numpy as np
import pytest
from numpy.testing import assert_allclose

from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.metrics.profile import (
    Profile,
    Segment,
    close_pair_segments,
    line_profile,
    peak_distance,
)
from crosscope.metrics.spots import Spots, find_spots

FWHM_PX = 110 / 30


def render(
    yx_px: np.ndarray, brightness: np.ndarray | float = 1.0, fwhm_px: float = FWHM_PX
) -> np.ndarray:
    pixel = np.arange(60)[:, None]
    y, x = (np.exp(-(((pixel - at) * FWHM_PER_SIGMA / fwhm_px) ** 2) / 2) for at in yx_px.T)
    image: np.ndarray = (y * brightness) @ x.T
    return image


def segment_between(start: np.ndarray, end: np.ndarray) -> Segment:
    return Segment((float(start[0]), float(start[1])), (float(end[0]), float(end[1])))


def random_pair(separation_px: float, random: np.random.Generator) -> np.ndarray:
    angle, middle = random.uniform(0, 2 * np.pi), 30 + random.uniform(-0.5, 0.5, 2)
    half = np.array([np.sin(angle), np.cos(angle)]) * separation_px / 2
    return np.stack([middle - half, middle + half])


def profile_of(image: np.ndarray, pair: np.ndarray, width_px: float = FWHM_PX) -> Profile:
    segment = segment_between(*pair)
    return line_profile(image, segment, width_px=width_px, margin_px=1.5 * FWHM_PX)


@pytest.mark.parametrize("separation", [1.3, 1.5, 2.0, 2.5])
def test_the_distance_of_a_noisy_pair_is_known_to_3_percent(separation: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(25):
        pair = random_pair(separation * FWHM_PX, random)
        clean = render(pair, np.array([500, random.uniform(300, 500)])) + 5
        found = peak_distance(profile_of(random.poisson(clean).astype(np.float64), pair))
        assert found.reason is None
        assert found.distance_px == pytest.approx(separation * FWHM_PX, rel=0.03)


def test_a_clean_pair_is_measured_in_any_grey_values() -> None:
    pair = random_pair(1.2 * FWHM_PX, np.random.default_rng(1))
    for gain, offset in [(1.0, 0.0), (1e4, -300.0), (1e-6, 1e-5)]:
        found = peak_distance(profile_of(gain * render(pair) + offset, pair))
        assert found.distance_px == pytest.approx(1.2 * FWHM_PX, rel=2e-3)
        assert found.dip == pytest.approx(0.277, abs=0.02)  # of two Gaussians at 1.2 FWHM


@pytest.mark.parametrize("photons", [50, 500])
def test_a_single_bead_has_no_distance_and_says_why(photons: float) -> None:
    random = np.random.default_rng(2)
    reasons = set()
    for _ in range(25):
        pair = random_pair(1.3 * FWHM_PX, random)
        image = random.poisson(photons * render(pair.mean(axis=0)[None]) + 5).astype(np.float64)
        found = peak_distance(profile_of(image, pair))
        assert found.distance_px is None
        assert found.dip is None
        assert found.reason
        reasons.add(found.reason)
    assert "there is one peak only" in reasons


def test_a_pair_below_its_resolution_is_not_told_apart() -> None:
    pair = random_pair(5.0, np.random.default_rng(3))
    assert peak_distance(profile_of(render(pair), pair)).distance_px is not None
    broad = peak_distance(profile_of(render(pair, fwhm_px=9.0), pair))
    assert broad.reason == "there is one peak only"
    shallow = random_pair(1.1 * FWHM_PX, np.random.default_rng(3))
    asked = peak_distance(profile_of(render(shallow), shallow), least_dip=0.26)
    assert asked.distance_px is None


def test_a_second_peak_has_to_be_high_enough() -> None:
    pair = random_pair(2.0 * FWHM_PX, np.random.default_rng(4))
    profile = profile_of(render(pair, np.array([1.0, 0.15])), pair)
    assert peak_distance(
        profile
    ).reason == "the second peak has 0.15 of the first one's height, " + ("0.2 is asked for")
    assert peak_distance(profile, least_height=0.1).distance_px == pytest.approx(
        2.0 * FWHM_PX, rel=0.01
    )


def test_what_is_no_profile_has_a_reason() -> None:
    position_px = np.arange(40) / 4
    reasons = {
        "too short": Profile(position_px[:5], position_px[:5]),
        "flat": Profile(position_px, np.full(40, 3.0)),
        "no numbers": Profile(position_px, np.full(40, np.nan)),
        "no peak": Profile(position_px, position_px),
    }
    for part, profile in reasons.items():
        found = peak_distance(profile)
        assert found.distance_px is None
        assert found.reason is not None
        assert part in found.reason


def test_a_profile_runs_from_the_start_beyond_the_end() -> None:
    y, x = np.mgrid[:40, :50].astype(np.float64)
    segment = Segment((10.0, 12.0), (16.0, 20.0))  # 10 px along (0.6, 0.8)
    profile = line_profile(3 * y - 2 * x, segment, width_px=4.0, margin_px=2.5)
    assert_allclose(profile.position_px, np.arange(-10, 51) / 4)
    assert_allclose(profile.value, 6 + 0.2 * profile.position_px, atol=1e-3)


def test_a_width_averages_across() -> None:
    spot = np.array([[30.2, 29.7]])
    segment = Segment((30.2, 29.7), (30.2, 34.7))
    thin = line_profile(render(spot), segment, width_px=0.0, margin_px=1.0)
    wide = line_profile(render(spot), segment, width_px=FWHM_PX, margin_px=1.0)
    assert thin.value.max() == pytest.approx(1, rel=0.01)
    assert_allclose(wide.value / thin.value, 0.81, rtol=0.02)  # a Gaussian's mean over its FWHM


def test_a_profile_ends_where_the_image_does() -> None:
    image = np.ones((60, 60))
    near = line_profile(image, Segment((3.0, 30.0), (8.0, 30.0)), width_px=2.0, margin_px=6.0)
    assert (near.position_px[0], near.position_px[-1]) == (-3, 11)
    beside = line_profile(image, Segment((0.5, 30.0), (0.5, 35.0)), width_px=2.0, margin_px=6.0)
    assert beside.value.size == 0
    assert peak_distance(beside).reason == "the profile is too short for a fit"


def test_close_pairs_are_chosen_by_rule_the_closest_first() -> None:
    at = np.array([[12.0, 12], [12, 20], [12, 45], [17, 45], [45, 12], [45, 26], [44, 45]])
    spots = find_spots(render(at), fwhm_px=FWHM_PX, threshold=0.1)
    chosen = close_pair_segments(spots, fwhm_px=FWHM_PX, threshold=0.5)
    assert_allclose([segment.length_px for segment in chosen], [5, 8], atol=0.3)
    third = np.concatenate([at, [[12, 52]]])  # beside the closest
    spots = find_spots(render(third), fwhm_px=FWHM_PX, threshold=0.1)
    assert len(close_pair_segments(spots, fwhm_px=FWHM_PX, threshold=0.5)) == 1
    none = Spots(np.zeros((0, 2)), np.zeros(0))
    assert close_pair_segments(none, fwhm_px=FWHM_PX, threshold=0.5) == []
