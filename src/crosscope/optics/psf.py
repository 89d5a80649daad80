"""Optics -> optical transfer function: how much of each spatial frequency an image keeps.

Scalar, in focus, rotationally symmetric.  An OTF and its point spread function h are a pair of
Hankel transforms,

    OTF(k) = 2 pi int h(r) J0(2 pi k r) r dr,        h(r) = 2 pi int OTF(k) J0(2 pi k r) k dk,

with OTF(0) = 1, so that h integrates to 1: light is spread, not lost.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.integrate import simpson
from scipy.optimize import brentq
from scipy.special import j0, j1, struve

_RADIUS_NM = np.arange(0.0, 6001.0, 2.0)
_FREQUENCIES = 1025

# A far-red label.  Scalar theory with the full aperture of a 1.4 NA objective gives 228 nm; the
# 290 nm that Wang et al. 2019 measured (doi 10.1038/s41592-018-0239-0, Fig. 4) include what an
# underfilled pupil and aberrations add: all of that this effective aperture carries.
_EXCITATION_NM = 633.0
_EMISSION_NM = 670.0
_DEPLETION_NM = 775.0
_EFFECTIVE_NA = 1.101
_PINHOLE_AIRY_UNITS = 1.0
_STED_FWHM_NM = 110.0
_STED_LIMIT_PER_NM = 1 / 50  # where the OTF has fallen below 1e-5; a STED has no hard cut-off


@dataclass(frozen=True, eq=False)
class Otf:
    """A rotationally symmetric optical transfer function, as a fine table.

    Attributes
    ----------
    frequency_per_nm : (k,) float
        Rising from 0 to the cut-off.
    value : (k,) float
        1 at frequency 0; 0 is understood beyond the cut-off.
    """

    frequency_per_nm: Float[np.ndarray, "k"]
    value: Float[np.ndarray, "k"]

    @property
    def cutoff_per_nm(self) -> float:
        """The frequency from which on nothing passes."""
        return float(self.frequency_per_nm[-1])

    def at(self, frequency_per_nm: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return the transfer at any frequencies (cycles per nm)."""
        return np.interp(frequency_per_nm, self.frequency_per_nm, self.value, right=0.0)


def point_spread(otf: Otf, radius_nm: Float[np.ndarray, "r"]) -> Float[np.ndarray, "r"]:
    """Return the point spread function at distances from its centre, in 1/nm^2."""
    k = otf.frequency_per_nm
    bessel = j0(2 * np.pi * radius_nm[:, None] * k)  # r k
    return 2 * np.pi * simpson(bessel * otf.value * k, x=k, axis=1)


def fwhm_nm(otf: Otf) -> float:
    """Return the full width at half maximum of the point spread function, without any pixel."""
    radius = np.linspace(0, 3 / otf.cutoff_per_nm, 1000)
    return _full_width(radius, point_spread(otf, radius))


def widefield_otf(*, na: float, emission_nm: float) -> Otf:
    """Return the OTF of a wide-field microscope, exactly: a width of 0.51 emission / NA.

    With v = k emission / (2 NA):  OTF = (2 / pi) (arccos v - v sqrt(1 - v^2)), 0 from v = 1 on; its
    point spread is Airy's (2 J1(x) / x)^2.  Hopkins 1955, doi 10.1098/rspa.1955.0158, in focus.
    """
    v = np.linspace(0, 1, _FREQUENCIES)
    value = 2 / np.pi * (np.arccos(v) - v * np.sqrt(1 - v**2))
    return Otf(v * 2 * na / emission_nm, value)


@cache
def confocal_otf() -> Otf:
    """Return the OTF of the confocal microscope: a width of 290 nm.

    h = excitation x (emission convolved with the pinhole), both Airy patterns, the pinhole a disc
    of one Airy unit, back-projected into the sample.  Zhang, Zerubia, Olivo-Marin 2007,
    doi 10.1364/AO.46.001819.  Scalar theory with an effective aperture (see its value above).
    """
    cutoff = 2 * _EFFECTIVE_NA * (1 / _EXCITATION_NM + 1 / _EMISSION_NM)
    return _hankel(_confocal_profile(), cutoff)


@cache
def sted_otf() -> Otf:
    """Return the OTF of the STED microscope: a width of 110 nm.

    h = confocal x exp(-s doughnut), the doughnut being the focus of a vortex phase plate,
    |int_0^1 J1(x rho) rho d rho|^2 with x = 2 pi NA r / depletion, 1 at its crest; the saturation s
    is solved for the width.  Hell and Wichmann 1994, doi 10.1364/OL.19.000780; Harke et al. 2008,
    doi 10.1364/OE.16.004154.  A perfect zero in the middle; no re-excitation; pulsed depletion.
    """
    confocal, doughnut = _confocal_profile(), _doughnut_profile()

    def depleted(s: float) -> Float[np.ndarray, "r"]:
        return confocal * np.exp(-s * doughnut)

    def excess(s: float) -> float:
        return _full_width(_RADIUS_NM, depleted(s)) - _STED_FWHM_NM

    return _hankel(depleted(float(brentq(excess, 0.0, 200.0))), _STED_LIMIT_PER_NM)


def tirf_otf() -> Otf:
    """Return the OTF of TIRF at 1.49 NA: excited at 488 nm, seen at 515 nm, a width of 176 nm.

    The evanescent wave (doi 10.1083/jcb.89.1.141) takes away what is out of focus; in the plane the
    image is a wide-field one.
    """
    return widefield_otf(na=1.49, emission_nm=515.0)


def sim_otf() -> Otf:
    """Return the OTF of linear SIM: TIRF's, stretched to twice the cut-off, so half the width.

    Stripes at the detection's cut-off double the support; the reconstruction is apodised to the
    shape of a conventional OTF.  Gustafsson 2000, doi 10.1046/j.1365-2818.2000.00710.x.  An ideal
    reconstruction: no stripe artefacts.
    """
    tirf = tirf_otf()
    return Otf(2 * tirf.frequency_per_nm, tirf.value)


@cache
def _confocal_profile() -> Float[np.ndarray, "r"]:
    x = 2 * np.pi * _EFFECTIVE_NA * np.maximum(_RADIUS_NM, 1e-6) / _EXCITATION_NM
    excitation = (2 * j1(x) / x) ** 2
    emission = widefield_otf(na=_EFFECTIVE_NA, emission_nm=_EMISSION_NM)
    pinhole_radius_nm = _PINHOLE_AIRY_UNITS * 0.61 * _EMISSION_NM / _EFFECTIVE_NA
    y = 2 * np.pi * pinhole_radius_nm * np.maximum(emission.frequency_per_nm, 1e-12)
    detection = Otf(emission.frequency_per_nm, emission.value * 2 * j1(y) / y)
    return excitation * point_spread(detection, _RADIUS_NM)


def _doughnut_profile() -> Float[np.ndarray, "r"]:
    x = 2 * np.pi * _EFFECTIVE_NA * np.maximum(_RADIUS_NM, 1e-3) / _DEPLETION_NM
    # int_0^1 J1(x rho) rho d rho in Struve functions (Abramowitz and Stegun 11.1.7)
    amplitude = np.pi / (2 * x) * (j1(x) * struve(0, x) - j0(x) * struve(1, x))
    return amplitude**2 / np.max(amplitude**2)


def _hankel(profile: Float[np.ndarray, "r"], cutoff_per_nm: float) -> Otf:
    k = np.linspace(0, cutoff_per_nm, _FREQUENCIES)
    bessel = j0(2 * np.pi * k[:, None] * _RADIUS_NM)  # k r
    value = simpson(bessel * profile * _RADIUS_NM, x=_RADIUS_NM, axis=1)
    value[-1] = 0
    return Otf(k, value / value[0])


def _full_width(radius_nm: Float[np.ndarray, "r"], profile: Float[np.ndarray, "r"]) -> float:
    half = profile[0] / 2
    after = int(np.argmax(profile < half))
    return 2 * float(np.interp(half, profile[[after, after - 1]], radius_nm[[after, after - 1]]))
