import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from crosscope.deconvolution import FWHM_PER_SIGMA
from crosscope.metrics.spots import (
    SpotComparison,
    Spots,
    SpotScore,
    close_pairs,
    compare_spots,
    find_spots,
    isolated,
    match_spots,
    resolved_separation,
    score_spots,
)

FWHM_PX = 110 / 30
SIZE_PX = 300


def render(
    yx_px: np.ndarray, brightness: np.ndarray | float = 1.0, fwhm_px: float = FWHM_PX
) -> np.ndarray:
    pixel = np.arange(SIZE_PX)[:, None]
    y, x = (np.exp(-(((pixel - at) * FWHM_PER_SIGMA / fwhm_px) ** 2) / 2) for at in yx_px.T)
    image: np.ndarray = (y * brightness) @ x.T
    return image


def beads(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One bead per square micrometre at 30 nm pixels, a third in pairs 80 to 400 nm apart."""
    random = np.random.default_rng(seed)
    single = random.uniform(0, SIZE_PX, (54, 2))
    middle, angle = random.uniform(0, SIZE_PX, (14, 2)), random.uniform(0, 2 * np.pi, 14)
    half = np.stack([np.sin(angle), np.cos(angle)], 1) * random.uniform(80, 400, (14, 1)) / 60
    yx_px = np.concatenate([single, middle - half, middle + half])
    return yx_px, random.lognormal(0, 0.3, len(yx_px))


def test_isolated_spots_are_found_where_they_are_with_their_height() -> None:
    yx_px = 30.0 * np.mgrid[1:10, 1:10].reshape(2, -1).T
    yx_px = yx_px + np.random.default_rng(0).uniform(-0.5, 0.5, yx_px.shape)
    yx_px[0] = np.floor(yx_px[0]) + 0.5  # two, four equal maxima
    slope = 0.01 * np.arange(SIZE_PX)
    spots = find_spots(5 * render(yx_px) + slope + 100, fwhm_px=FWHM_PX, threshold=1.0)
    partner = match_spots(spots.yx_px, yx_px, radius_px=1.0)
    assert sorted(partner) == list(range(81))
    assert_allclose(spots.yx_px, yx_px[partner], atol=0.1)
    assert_allclose(spots.amplitude, 4.7, rtol=0.08)  # between pixels up to 13 % are lost


@pytest.mark.parametrize("separation", [0.95, 1.1, 1.5])
def test_a_resolved_pair_remains_two(separation: float) -> None:
    yx_px = np.array([[100.3, 100.2], [100.3, 100.2 + separation * FWHM_PX]])
    assert len(find_spots(render(yx_px), fwhm_px=FWHM_PX, threshold=0.1).amplitude) == 2


def test_there_are_no_spots_in_a_level_image() -> None:
    assert len(find_spots(np.full((50, 50), 9.0), fwhm_px=4.0, threshold=0.01).amplitude) == 0


def test_isolated_says_who_has_a_neighbour() -> None:
    yx_px = np.array([[0.0, 0.0], [0.0, 5.0], [0.0, 20.0]])
    assert isolated(yx_px, distance_px=6.0).tolist() == [False, False, True]
    assert isolated(yx_px[:0], distance_px=6.0).tolist() == []


def test_matching_is_one_to_one_nearest_first() -> None:
    found = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    real = np.array([[0.0, 0.8], [50.0, 50.0]])
    assert match_spots(found, real, radius_px=2.0).tolist() == [-1, 0, -1]
    assert match_spots(found, real[:0], radius_px=2.0).tolist() == [-1, -1, -1]
    assert match_spots(found[:0], real, radius_px=2.0).tolist() == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-100, 100))
def test_an_image_agrees_with_itself_at_any_scale(seed: int, gain: float, offset: float) -> None:
    truth = render(*beads(seed))
    score = score_spots([compare_spots(gain * truth + offset, truth, fwhm_px=FWHM_PX)])
    assert (score.f1, score.missed, score.invented) == (1, 0, 0)
    assert (score.split, score.merged) == (0, 0)
    assert score.n_found == score.n_reference > 40


def test_a_noisy_image_at_the_same_resolution_agrees() -> None:
    comparisons = []
    for seed in range(4):
        truth = render(*beads(seed))
        noisy = np.random.default_rng(seed).poisson(500 * truth + 5).astype(np.float32)
        comparisons.append(compare_spots(noisy, truth, fwhm_px=FWHM_PX))
    score = score_spots(comparisons)
    assert score.f1 is not None
    assert score.f1 > 0.98
    assert score.n_reference > 250
    assert score.split is not None
    assert score.merged is not None
    assert max(score.split, score.merged) < 0.005


def test_what_was_removed_is_missed_and_what_was_added_is_invented() -> None:
    yx_px = 30.0 * np.mgrid[1:10, 1:10].reshape(2, -1).T
    truth = render(yx_px)
    score = score_spots([compare_spots(render(yx_px[8:]), truth, fwhm_px=FWHM_PX)])
    assert score.missed == pytest.approx(8 / 81)
    assert score.invented == 0
    extra = np.concatenate([yx_px, yx_px[:9] + 15])
    score = score_spots([compare_spots(render(extra), truth, fwhm_px=FWHM_PX)])
    assert score.missed == 0
    assert score.invented == pytest.approx(0.1)
    recall, precision = 1, 0.9
    assert score.f1 == pytest.approx(2 * recall * precision / (recall + precision))


def test_a_spot_at_the_threshold_counts_the_same_on_either_side_of_it() -> None:
    yx_px = 30.0 * np.mgrid[1:10, 1:10].reshape(2, -1).T
    below, above = np.ones(81), np.ones(81)
    below[:10], above[:10] = 0.24, 0.26
    for first, second in [(below, above), (above, below)]:
        comparison = compare_spots(render(yx_px, first), render(yx_px, second), fwhm_px=FWHM_PX)
        score = score_spots([comparison])
        assert (score.missed, score.invented) == (0, 0)


def test_a_level_does_not_show_through() -> None:
    truth = render(*beads(0))
    clean = find_spots(truth, fwhm_px=FWHM_PX, threshold=0.1)
    spots = find_spots(truth + 1e4, fwhm_px=FWHM_PX, threshold=0.1)
    assert_allclose(spots.yx_px, clean.yx_px, atol=1e-6)
    assert_allclose(spots.amplitude, clean.amplitude, rtol=1e-6)


def test_two_bright_specks_do_not_hide_the_spots() -> None:
    yx_px, brightness = beads(1)
    truth = render(yx_px, brightness)
    specked = truth.copy()
    specked[[150, 200], [150, 200]] = 100
    clean = score_spots([compare_spots(truth, truth, fwhm_px=FWHM_PX)])
    score = score_spots([compare_spots(truth, specked, fwhm_px=FWHM_PX)])
    assert clean.n_found - 3 <= score.n_found <= clean.n_found


def test_what_is_undefined_is_none() -> None:
    truth, empty = render(*beads(0)), np.zeros((SIZE_PX, SIZE_PX))
    nothing_found = score_spots([compare_spots(empty, truth, fwhm_px=FWHM_PX)])
    n_reference = nothing_found.n_reference
    assert nothing_found == SpotScore(0.0, 1.0, None, 0, n_reference, 0.0, None)
    nothing_real = score_spots([compare_spots(truth, empty, fwhm_px=FWHM_PX)])
    assert nothing_real == SpotScore(None, None, None, 0, 0, None, None)
    assert score_spots([]) == SpotScore(None, None, None, 0, 0, None, None)


def split_in_two(yx_px: np.ndarray, which: slice, separation_px: float) -> np.ndarray:
    half = np.array([0.6, 0.8]) * separation_px / 2
    rest = np.delete(yx_px, which, axis=0)
    return np.concatenate([yx_px[which] - half, yx_px[which] + half, rest])


@pytest.mark.parametrize("apart_nm", [110, 130, 150])
def test_a_bead_found_as_two_is_split_and_two_found_as_one_are_merged(apart_nm: float) -> None:
    one = 30.0 * np.mgrid[1:10, 1:10].reshape(2, -1).T + 0.3
    two = split_in_two(one, slice(0, 8), apart_nm / 30)
    split = score_spots([compare_spots(render(two), render(one), fwhm_px=FWHM_PX)])
    assert split.split == pytest.approx(8 / 81)
    assert split.merged == 0
    merged = score_spots([compare_spots(render(one), render(two), fwhm_px=FWHM_PX)])
    assert merged.merged == pytest.approx(8 / 81)
    assert merged.split == 0


def test_a_dim_spot_beside_a_bright_one_merges_into_it() -> None:
    one = 30.0 * np.mgrid[1:10, 1:10].reshape(2, -1).T + 0.3
    two, brightness = split_in_two(one, slice(0, 8), 4.8), np.ones(89)
    brightness[:8] = 0.5
    blurred = render(two, brightness, fwhm_px=7.0)
    score = score_spots([compare_spots(blurred, render(two, brightness), fwhm_px=FWHM_PX)])
    assert score.merged == pytest.approx(8 / 81)
    assert score.split == 0


def test_neither_a_far_spot_nor_a_faint_one_nor_a_shifted_pair_is_split_or_merged() -> None:
    one = 30.0 * np.mgrid[1:10, 1:10].reshape(2, -1).T + 0.3
    far, two = split_in_two(one, slice(0, 8), 7.0), split_in_two(one, slice(0, 8), 5.0)
    faint, just = np.ones(89), np.ones(89)
    faint[:8], just[:8] = 0.15, 0.24
    images = [
        (render(far), render(one)),  # invented and missed, 1.9 FWHM apart
        (render(two, faint), render(one)),
        (render(two, just), render(two)),  # below the threshold, but not below half of it
        (render(two + 0.5), render(two)),
    ]
    for image, other in images:
        for first, second in [(image, other), (other, image)]:
            score = score_spots([compare_spots(first, second, fwhm_px=FWHM_PX)])
            assert (score.split, score.merged) == (0, 0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_split_and_merged_change_places_with_the_images(seed: int) -> None:
    truth, other = render(*beads(seed)), render(*beads(seed), fwhm_px=4.5)
    there = score_spots([compare_spots(other, truth, fwhm_px=FWHM_PX)])
    # the unit of brightness is set at the reference's spots: give both images the same ones
    back = score_spots([_exchanged(compare_spots(other, truth, fwhm_px=FWHM_PX))])
    assert (there.split, there.merged) == (back.merged, back.split)


def _exchanged(comparison: SpotComparison) -> SpotComparison:
    found, real = comparison.reference, comparison.found
    partner = match_spots(found.yx_px, real.yx_px, radius_px=comparison.fwhm_px / 2)
    return SpotComparison(found, real, partner, comparison.threshold, comparison.fwhm_px)


def test_close_pairs_are_alone_and_bright() -> None:
    yx_px = np.array([[30.0, 30], [30, 36], [90, 90], [90, 96], [98, 93], [150, 150], [150, 156]])
    spots = Spots(yx_px, np.array([1.0, 1, 1, 1, 0.2, 1, 0.4]))
    assert close_pairs(spots, threshold=0.3, alone_px=10.0).tolist() == [[0, 1], [5, 6]]
    assert close_pairs(spots, threshold=0.5, alone_px=10.0).tolist() == [[0, 1]]
    single = Spots(yx_px[:1], np.ones(1))
    assert close_pairs(single, threshold=0.3, alone_px=10.0).shape == (0, 2)


def pairs_apart(separation_px: float) -> np.ndarray:
    middle = 40.0 * np.mgrid[1:7, 1:7].reshape(2, -1).T
    half = np.array([0.0, separation_px / 2])
    return np.concatenate([middle - half, middle + half])


def test_pairs_are_resolved_from_where_the_blur_lets_them_be() -> None:
    comparisons = []
    for separation_px in np.arange(4.25, 14, 0.5):
        yx_px = pairs_apart(separation_px)
        comparisons.append(
            compare_spots(render(yx_px, fwhm_px=9.0), render(yx_px), fwhm_px=FWHM_PX)
        )
    result = resolved_separation(comparisons, alone_px=15.0, bin_px=0.5)
    # Two Gaussians merge at 2 sigma = 0.85 FWHM; a merged pair has one spot in the middle.
    assert result.reason is None
    assert result.separation_px == pytest.approx(0.85 * 9.0, abs=1.5)
    itself = [compare_spots(render(yx_px), render(yx_px), fwhm_px=FWHM_PX)]
    assert resolved_separation(itself, alone_px=15.0, bin_px=0.5).separation_px == pytest.approx(
        13.5
    )


def test_why_no_separation_can_be_given() -> None:
    yx_px = pairs_apart(5.0)
    merged = [compare_spots(render(yx_px, fwhm_px=12.0), render(yx_px), fwhm_px=FWHM_PX)]
    result = resolved_separation(merged, alone_px=15.0, bin_px=1.0)
    assert result.separation_px is None
    assert result.reason is not None
    assert "not resolved at" in result.reason
    for none in ([], merged[:0]):
        result = resolved_separation(none, alone_px=15.0, bin_px=1.0)
        assert result.reason == "no bin of separation holds 5 pairs"
        assert np.isnan(result.share).all()


def test_a_third_spot_nearby_makes_it_no_pair() -> None:
    yx_px = np.concatenate([pairs_apart(6.0), pairs_apart(0.0) + np.array([8.0, 0.0])])
    comparison = compare_spots(render(yx_px), render(yx_px), fwhm_px=FWHM_PX)
    result = resolved_separation([comparison], alone_px=12.0, bin_px=1.0)
    assert result.n_pairs.sum() == 0
    assert math.isnan(result.share[6])
