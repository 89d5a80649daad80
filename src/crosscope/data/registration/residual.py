"""Blocks -> what the registration left, measured where it was not fitted.

Each cell is predicted by a fit to the other folds or to all, and measured twice, on its two
diagonals, whose noise n is independent.  A measured deviation is m = e - n, with e the error that
is sought, so that the mean of m_1 . m_2 is the mean square of e, without the noise; where the cell
itself had a say, by a leverage h, it took h (n_1 + n_2) / 2 of its own noise, so that

    <|e|^2> = <m_1 . m_2> + h <|n|^2>,    <|n|^2> = <|m_1 - m_2|^2> / 2,    m = (1 - h) m_held-out

The noise also says by how much the blocks' information is too sure of itself, and the normal matrix
how much noise a fit lets through at each place.  Other kinds of transform that are as likely lie
away from the fit: what exceeds the noise of that, too, is an error to be expected.  What is
measured beyond both in the mean is a misfit, counted where it is certain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from crosscope.data.registration.blocks import Blocks
from crosscope.data.registration.fields import KNOTS_PX, Fit, Kind, fit, hold_out, variance_px2

SIGNIFICANT = 2.33
"""Standard errors above 0 that chance reaches in 1 %."""
LEAST_WEIGHT = 1e-3
"""Of a kind that is asked what it would have fitted."""
PULL = 0.846
"""What blocks of Cauchy's weight pull at a fit, as a share of that weight, where noise is normal.

Huber, P. Ann. Math. Stat. 35, 73-101 (1964), doi 10.1214/aoms/1177703732: the variance of a robust
fit is the mean square of the scores over the square of their mean slope.
"""


@dataclass(frozen=True, eq=False)
class Residual:
    """What is left, in target px.

    Attributes
    ----------
    rms_px, error_px : float
        Inside structures, and the standard error of that.
    cells_yx_px : (c, 2) float
        Where the structure of each cell with any is, in the target.
    expected_px : (c,) float
        RMS error to be expected there.
    measured_yx_px : (c, 2) float
        The held-out deviation there, noise included.
    """

    rms_px: float
    error_px: float
    cells_yx_px: Float[np.ndarray, "c 2"]
    expected_px: Float[np.ndarray, " c"]
    measured_yx_px: Float[np.ndarray, "c 2"]


def measure_residual(
    blocks: Blocks,
    fitted: Fit,
    structure: Float[np.ndarray, " n"],
    shape: tuple[int, ...],
    *,
    kinds: Sequence[Kind],
    knots_px: float = KNOTS_PX,
) -> Residual | None:
    """Measure what a fit leaves; None where too few cells hold structure.

    Parameters
    ----------
    blocks : Blocks
        Measured at the transform that the fit gives.
    fitted : Fit
    structure : (n,) float
        Pixels inside structures in each block.
    shape : (y, x)
        Of the target, px.
    kinds : sequence of Kind
        Those that might have been fitted.
    """
    held_out = np.zeros_like(blocks.centre_yx_px)
    for fold in range(4):
        part = blocks.fold == fold
        other = fit(blocks.select(~part), fitted.kind, shape, knots_px=knots_px)
        held_out[part] = other.transform.to_source(blocks.centre_yx_px[part])
    held_out -= blocks.seen_yx_px
    within = fitted.transform.to_source(blocks.centre_yx_px) - blocks.seen_yx_px

    cells = int(blocks.cell.max()) + 1
    half = 2 * blocks.cell + blocks.diagonal
    firmness = _sum(blocks.information, half, 2 * cells)
    certain = np.trace(firmness, axis1=1, axis2=2).reshape(cells, 2).min(axis=1)
    area = np.bincount(blocks.cell, structure, cells)
    used = (area > 0) & (certain > 0.02 * np.average(certain, weights=area + 1e-9))
    if used.sum() < 2:
        return None
    firmness += 1e-6 * np.trace(firmness, axis1=1, axis2=2).max() * np.eye(2)
    m, m_out = (
        np.linalg.solve(firmness, _sum(blocks.information @ off[..., None], half, 2 * cells))[
            ..., 0
        ].reshape(cells, 2, 2)[used]
        for off in (within, held_out)
    )  # cell diagonal yx
    share = area[used] / area[used].sum()
    noise = ((m[:, 0] - m[:, 1]) ** 2).sum(axis=1) / 2
    pull = (m.mean(axis=1) * m_out.mean(axis=1)).sum(axis=1)
    leverage = 1 - (share * pull).sum() / max(
        (share * (m_out.mean(axis=1) ** 2).sum(axis=1)).sum(), 1e-12
    )
    square = (m[:, 0] * m[:, 1]).sum(axis=1) + np.clip(leverage, 0, 1) * noise
    measured = float((share * square).sum())
    error = math.sqrt((share**2 * (square - measured) ** 2).sum())

    said = np.trace(np.linalg.inv(firmness), axis1=1, axis2=2).reshape(cells, 2)[used].mean(axis=1)
    overconfidence = float(np.average(noise / said, weights=1 / said)) / PULL**2
    places = _centroids(blocks, structure, cells)[used]
    expected = _expect(
        blocks, fitted, kinds, places, share, overconfidence, shape=shape, knots_px=knots_px
    )
    by_fit = float((share * expected).sum())
    misfit = measured - by_fit if measured - by_fit > SIGNIFICANT * error else 0.0
    rms = math.sqrt(by_fit + misfit)
    return Residual(
        rms,
        math.sqrt(rms**2 + error) - rms,
        places,
        np.sqrt(expected + misfit),
        -m_out.mean(axis=1),
    )


def _expect(
    blocks: Blocks,
    fitted: Fit,
    kinds: Sequence[Kind],
    places: Float[np.ndarray, "c 2"],
    share: Float[np.ndarray, " c"],
    overconfidence: float,
    *,
    shape: tuple[int, ...],
    knots_px: float,
) -> Float[np.ndarray, " c"]:
    """Return the square error to be expected at places: by noise, and by the choice of the kind."""

    def variance(fitted: Fit) -> Float[np.ndarray, " c"]:
        return overconfidence * variance_px2(fitted, places, shape, knots_px=knots_px)

    by_noise = variance(fitted)
    expected = by_noise.copy()
    for kind, weight in zip(kinds, _weigh(blocks, kinds, shape, knots_px), strict=True):
        if weight > LEAST_WEIGHT:
            other = fit(blocks, kind, shape, knots_px=knots_px)
            away = other.transform.to_source(places) - fitted.transform.to_source(places)
            square = (away**2).sum(axis=1)
            by_its_noise = (share * (variance(other) - by_noise)).sum()
            beyond = 1 - by_its_noise / max((share * square).sum(), 1e-12)
            expected += weight * np.clip(beyond, 0, 1) * square
    return expected


def _weigh(
    blocks: Blocks, kinds: Sequence[Kind], shape: tuple[int, ...], knots_px: float
) -> Float[np.ndarray, " kinds"]:
    """Return how likely each kind is by what held-out cells say; the sum is 1."""
    unlikely = hold_out(blocks, kinds, shape, knots_px=knots_px).sum(axis=1)
    likely = np.exp(unlikely.min() - unlikely)
    return np.asarray(likely / likely.sum())


def _sum(
    values: Float[np.ndarray, "n 2 k"], group: Int[np.ndarray, " n"], groups: int
) -> Float[np.ndarray, "g 2 k"]:
    total = np.zeros((groups, *values.shape[1:]))
    np.add.at(total, group, values)
    return total


def _centroids(
    blocks: Blocks, structure: Float[np.ndarray, " n"], cells: int
) -> Float[np.ndarray, "cells 2"]:
    mass = np.maximum(np.bincount(blocks.cell, structure, cells), 1e-12)
    return np.stack(
        [
            np.bincount(blocks.cell, structure * axis, cells) / mass
            for axis in blocks.centre_yx_px.T
        ],
        axis=1,
    )
