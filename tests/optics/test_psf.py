"""OTFs: normalised, of the right support, and the widths that the slides and the books give."""

import numpy as np
import pytest
from scipy.special import j1

from crosscope.optics.psf import (
    Otf,
    confocal_otf,
    fwhm_nm,
    point_spread,
    sim_otf,
    sted_otf,
    tirf_otf,
    widefield_otf,
)

ALL = {
    "confocal": confocal_otf(),
    "sted": sted_otf(),
    "tirf": tirf_otf(),
    "sim": sim_otf(),
    "dapi": widefield_otf(na=0.4, emission_nm=461.0),
}


@pytest.mark.parametrize("otf", ALL.values(), ids=ALL.keys())
def test_otf_is_one_at_zero_and_nothing_beyond_its_cut_off(otf: Otf) -> None:
    assert otf.at(np.zeros(1))[0] == pytest.approx(1, abs=1e-12)
    assert not otf.at(otf.cutoff_per_nm * np.array([1.0, 1.001, 5.0])).any()
    assert np.abs(otf.value[1:]).max() < 1


@pytest.mark.parametrize("otf", ALL.values(), ids=ALL.keys())
def test_point_spread_is_nowhere_negative(otf: Otf) -> None:
    spread = point_spread(otf, np.linspace(0, 12 / otf.cutoff_per_nm, 400))
    assert spread.min() > -1e-5 * spread[0]


@pytest.mark.parametrize("na", [0.4, 0.75, 1.49])
@pytest.mark.parametrize("emission_nm", [461.0, 519.0, 615.0])
def test_widefield_is_airys_pattern(na: float, emission_nm: float) -> None:
    otf = widefield_otf(na=na, emission_nm=emission_nm)
    assert fwhm_nm(otf) == pytest.approx(0.514 * emission_nm / na, rel=2e-3)
    assert otf.cutoff_per_nm == pytest.approx(2 * na / emission_nm)
    radius = np.linspace(1, 3 * emission_nm / na, 200)
    x = 2 * np.pi * na * radius / emission_nm
    airy = np.pi * (na / emission_nm) ** 2 * (2 * j1(x) / x) ** 2
    np.testing.assert_allclose(point_spread(otf, radius), airy, atol=2e-5 * airy[0])


def test_confocal_is_290_nm_and_sted_110_nm_wide() -> None:
    assert fwhm_nm(confocal_otf()) == pytest.approx(290, abs=1)
    assert fwhm_nm(sted_otf()) == pytest.approx(110, abs=0.2)


def test_confocal_reaches_to_the_sum_of_both_cut_offs() -> None:
    otf = confocal_otf()
    assert otf.cutoff_per_nm == pytest.approx(2 * 1.101 / 633 + 2 * 1.101 / 670)
    assert np.abs(otf.value[-20:]).max() < 1e-4


def test_sted_has_nothing_left_where_its_table_ends() -> None:
    assert np.abs(sted_otf().value[-100:]).max() < 2e-5


def test_sim_doubles_the_support_of_tirf_and_halves_its_width() -> None:
    assert fwhm_nm(tirf_otf()) == pytest.approx(0.514 * 515 / 1.49, rel=2e-3)
    assert sim_otf().cutoff_per_nm == pytest.approx(2 * tirf_otf().cutoff_per_nm)
    assert fwhm_nm(sim_otf()) == pytest.approx(fwhm_nm(tirf_otf()) / 2, rel=1e-6)
