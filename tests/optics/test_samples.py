"""Samples: what they are said to be, in nm."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from crosscope.optics.samples import Emitters, actin, beads, filaments, nuclei, pits
from crosscope.optics.systems import SAMPLES


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize(("extent_nm", "finest_nm"), [(20_000.0, 110.0), (90_000.0, 350.0)])
def test_a_sample_is_determined_by_its_stream(
    sample: object, extent_nm: float, finest_nm: float
) -> None:
    def make(seed: int) -> Emitters:
        assert callable(sample)
        made = sample(np.random.default_rng(seed), extent_nm=extent_nm, finest_nm=finest_nm)
        assert isinstance(made, Emitters)
        return made

    one, same, other = make(1), make(1), make(2)
    np.testing.assert_array_equal(one.yx_nm, same.yx_nm)
    np.testing.assert_array_equal(one.weight, same.weight)
    assert one.yx_nm.shape != other.yx_nm.shape or (one.yx_nm != other.yx_nm).any()
    assert len(one.yx_nm) == len(one.weight) > 0
    assert np.isfinite(one.yx_nm).all()
    assert (one.weight >= 0).all()


def test_a_sted_field_holds_about_two_hundred_beads_a_third_of_them_in_pairs() -> None:
    fields = [
        beads(np.random.default_rng(seed), extent_nm=15_360.0, finest_nm=110.0)
        for seed in range(30)
    ]
    assert 170 < np.mean([len(field.objects_yx_nm) for field in fields]) < 230
    made = beads(np.random.default_rng(0), extent_nm=300_000.0, finest_nm=110.0)
    assert np.log(made.weight).std() == pytest.approx(0.3, rel=0.02)
    nearest = KDTree(made.objects_yx_nm).query(made.objects_yx_nm, k=2)[0][:, 1]
    # of a random scatter of that density this share would have a neighbour within 400 nm
    density = len(made.objects_yx_nm) / 300_000.0**2
    by_chance = 1 - np.exp(-density * np.pi * 400**2)
    assert np.mean(nearest < 400) == pytest.approx(1 - (1 - by_chance) * (1 - 1 / 3), abs=0.03)


def test_pits_are_80_to_160_nm_across_and_their_labels_lie_on_them() -> None:
    made = pits(np.random.default_rng(0), extent_nm=30_000.0, finest_nm=89.0)
    distance, pit = KDTree(made.objects_yx_nm).query(made.yx_nm)
    assert distance.max() <= 80
    widest = np.array([distance[pit == i].max() for i in np.unique(pit)])
    assert 50 < np.median(widest) < 70


def test_microtubules_are_thin_long_and_unbroken() -> None:
    made = filaments(np.random.default_rng(3), extent_nm=20_000.0, finest_nm=110.0)
    nearest = KDTree(made.yx_nm).query(made.yx_nm, k=9)[0]
    assert np.percentile(nearest[:, 8], 95) < 150
    assert len(made.objects_yx_nm) == 0


def test_actin_runs_along_one_direction_in_a_small_field() -> None:
    made = actin(np.random.default_rng(3), extent_nm=15_000.0, finest_nm=110.0)
    thick = made.yx_nm[made.weight == 1]
    assert len(thick) > 1000
    pairs = KDTree(thick).query_pairs(200, output_type="ndarray")
    step = thick[pairs[:, 0]] - thick[pairs[:, 1]]
    turned = np.exp(2j * np.arctan2(step[:, 0], step[:, 1]))
    assert abs(turned.mean()) > 0.3


def test_nuclei_are_8_to_14_um_and_dozens_fill_a_wide_field() -> None:
    made = nuclei(np.random.default_rng(1), extent_nm=166_400.0, finest_nm=316.0)
    covered = np.unique(np.floor(made.yx_nm / 1000).astype(int), axis=0)  # 1 um squares
    assert 24 < len(covered) / (np.pi / 4 * 11 * 9.5) < 120
    lone = nuclei(np.random.default_rng(5), extent_nm=30_000.0, finest_nm=110.0)
    assert np.percentile(lone.weight, 5) < 0.3 * np.percentile(lone.weight, 95)
