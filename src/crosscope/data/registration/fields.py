"""Where blocks are seen -> a smooth transform, as free as the held-out blocks allow.

Translation, rigid, affine and elastic fits to the same blocks.  The elastic one is a B-spline
whose stiffness weighs its bending energy.  All are fitted to three quarters of the cells and judged
on the fourth, in turn; the simplest whose error there is within two standard errors of the best is
taken, so that empty regions and noise bend nothing.

Bending energy: Bookstein, F. IEEE Trans. PAMI 11, 567-585 (1989), doi 10.1109/34.24792.  Standard
error rule: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning (2009), 7.10.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.sparse.linalg import splu

from crosscope.data.registration.blocks import Blocks
from crosscope.data.transforms import (
    Bend,
    Matrix,
    Points,
    Transform,
    apply,
    compose,
    invert,
    knots_for,
    spline_weights,
)

KNOTS_PX = 64.0
"""Spacing of the finest bend, as the finest blocks of Wang et al. 2019."""
STIFFNESSES = tuple(10.0 ** np.arange(-1.0, 4.1, 0.5))
LEAST_CELLS = 12
"""That hold structure, for a bend."""
TYPICAL = 8.0
"""Squared deviations, in noises, beyond which a block tells less and less."""
ALIKE = 1.0
"""Standard errors within which two kinds are as good as each other."""
OUTLYING = 8.0
"""Squared deviations at which a block's weight has fallen to a half."""
MEDIAN_SQUARE = 1.386
"""Of a chi-square of two degrees of freedom."""

Name = Literal["translation", "rigid", "affine", "elastic"]


@dataclass(frozen=True)
class Kind:
    """How free a transform is; the stiffness is the elastic one's."""

    name: Name
    stiffness: float = 0.0


TRANSLATION, RIGID, AFFINE = Kind("translation"), Kind("rigid"), Kind("affine")


@dataclass(frozen=True, eq=False)
class Fit:
    """A transform, and how firm it is.

    Attributes
    ----------
    transform : Transform
    kind : Kind
    solve : callable
        Applies the inverse of the normal matrix to columns of its parameters.
    """

    transform: Transform
    kind: Kind
    solve: Callable[[Float[np.ndarray, "p k"]], Float[np.ndarray, "p k"]]


def fit(
    blocks: Blocks,
    kind: Kind,
    shape: tuple[int, ...],
    *,
    knots_px: float = KNOTS_PX,
) -> Fit:
    """Fit a transform of one kind to blocks by least squares.

    Parameters
    ----------
    blocks : Blocks
    shape : (y, x)
        Of the target, px: the field of a bend.
    """
    if kind.name == "elastic":
        system = _spline_system(blocks, shape, knots_px)
        return _solve(system, kind)
    return _fit_matrix(blocks, kind, shape)


def hold_out(
    blocks: Blocks,
    kinds: Sequence[Kind],
    shape: tuple[int, ...],
    *,
    knots_px: float = KNOTS_PX,
) -> Float[np.ndarray, "kinds cells"]:
    """Return how unlikely, as minus a log-likelihood, each cell is by fits to the other folds."""
    errors = np.zeros((len(kinds), int(blocks.cell.max()) + 1))
    for fold in range(4):
        others = blocks.select(blocks.fold != fold)
        elastic = any(kind.name == "elastic" for kind in kinds)
        system = _spline_system(others, shape, knots_px) if elastic else None
        for kind, error in zip(kinds, errors, strict=True):
            fitted = (
                _fit_matrix(others, kind, shape)
                if system is None or kind.name != "elastic"
                else _solve(system, kind)
            )
            square = deviations(blocks, fitted.transform)
            held_out = blocks.fold == fold
            unlikely = TYPICAL / 2 * np.log1p(square / TYPICAL)
            error += np.bincount(blocks.cell, held_out * unlikely, error.size)
    return errors


def choose(kinds: Sequence[Kind], errors: Float[np.ndarray, "kinds cells"]) -> Kind:
    """Return the first of the kinds, simple to free, that is as good as any on held-out cells."""
    total = errors.sum(axis=1)
    best = int(np.argmin(total))
    for i, kind in enumerate(kinds):
        worse = errors[i] - errors[best]
        if worse.sum() <= ALIKE * np.sqrt(worse.size) * worse.std():
            alike = [k for k in range(len(kinds)) if kinds[k].name == kind.name]
            return kinds[min(alike, key=lambda k: total[k])]  # the best stiffness
    return kinds[best]


def deviations(blocks: Blocks, transform: Transform) -> Float[np.ndarray, " n"]:
    """Return by how many noises, squared, each block is off a transform."""
    off = transform.to_source(blocks.centre_yx_px) - blocks.seen_yx_px
    return np.einsum("ni,nij,nj->n", off, blocks.information, off)


def temper(
    blocks: Blocks, kind: Kind, shape: tuple[int, ...], *, knots_px: float = KNOTS_PX
) -> Blocks:
    """Return the blocks with as much information as they turn out to have against a fit to all.

    Objects differ, and what is left in a block is not white: all are as much less certain as their
    median deviation says. What is farther off than that explains is an outlier, of Cauchy's weight.

    Holland, P., Welsch, R. Commun. Stat. Theory Methods 6, 813-827 (1977),
    doi 10.1080/03610927708827533.
    """
    firm, tempered = firm_blocks(blocks), blocks
    for _ in range(3):
        fitted = fit(tempered, kind, shape, knots_px=knots_px)
        square = deviations(blocks, fitted.transform)
        usual = max(float(np.median(square[firm])) / MEDIAN_SQUARE, 1e-6) if firm.any() else 1.0
        trust = 1 / (usual * (1 + square / (OUTLYING * usual)))
        tempered = replace(blocks, information=blocks.information * trust[:, None, None])
    return tempered


def firm_blocks(blocks: Blocks) -> Bool[np.ndarray, " n"]:
    """Return which blocks hold enough structure to count as such."""
    firmness = np.trace(blocks.information, axis1=1, axis2=2)
    share = firmness / max(float(firmness.max()), 1e-300)
    return share > 0.1 * (share**2).sum() / max(share.sum(), 1e-300)


def kinds_for(blocks: Blocks, *, rigid: bool) -> list[Kind]:
    """Return the kinds that may be tried, simple to free."""
    if rigid:
        return [TRANSLATION, RIGID]
    kinds = [TRANSLATION, RIGID, AFFINE]
    if np.unique(blocks.cell[firm_blocks(blocks)]).size >= LEAST_CELLS:
        kinds += [Kind("elastic", stiffness) for stiffness in STIFFNESSES[::-1]]
    return kinds


def variance_px2(
    fitted: Fit, points_yx_px: Points, shape: tuple[int, ...], *, knots_px: float = KNOTS_PX
) -> Float[np.ndarray, " n"]:
    """Return the variance (y plus x) that noise gives a fit at points, by its normal matrix."""
    bend = fitted.transform.bend
    if bend is None:
        basis = _basis(fitted.kind.name, points_yx_px, shape)  # n yx p
        spread = fitted.solve(basis.reshape(-1, basis.shape[2]).T).T.reshape(basis.shape)
        return (basis * spread).sum(axis=(1, 2))
    weights = spline_weights(points_yx_px, knots_px, bend.knots_px.shape[1:]).toarray()
    nothing = np.zeros_like(weights)
    variance = np.zeros(len(points_yx_px))
    for columns in (np.hstack([weights, nothing]), np.hstack([nothing, weights])):
        variance += (columns * fitted.solve(columns.T).T).sum(axis=1)
    return variance


# --- least squares --------------------------------------------------------------------------------


def _fit_matrix(blocks: Blocks, kind: Kind, shape: tuple[int, ...]) -> Fit:
    basis = _basis(kind.name, blocks.centre_yx_px, shape)
    weighted = np.einsum("nip,nij->njp", basis, blocks.information)
    normal = np.einsum("njp,njq->pq", weighted, basis)
    normal += 1e-9 * max(np.trace(normal), 1e-12) * np.eye(len(normal))
    matrix: Matrix = np.eye(2, 3)
    for _ in range(3 if kind.name == "rigid" else 1):  # a rotation is not linear
        off = apply(invert(matrix), blocks.seen_yx_px) - blocks.centre_yx_px
        step = np.linalg.solve(normal, np.einsum("njp,nj->p", weighted, off))
        matrix = compose(matrix, _increment(kind.name, step, shape))
    return Fit(Transform(matrix), kind, lambda columns: np.linalg.solve(normal, columns))


def _basis(name: Name, points: Points, shape: tuple[int, ...]) -> Float[np.ndarray, "n 2 p"]:
    """Return the displacement (y, x) that each parameter makes at each point."""
    (y, x), zero = (points - _middle(shape)).T / max(shape), np.zeros(len(points))
    one = zero + 1
    columns = {
        "translation": [(one, zero), (zero, one)],
        "rigid": [(one, zero), (zero, one), (-x, y)],
        "affine": [(one, zero), (zero, one), (y, zero), (x, zero), (zero, y), (zero, x)],
    }[name]
    return np.array(columns).transpose(2, 1, 0)


def _increment(name: Name, parameters: Float[np.ndarray, " p"], shape: tuple[int, ...]) -> Matrix:
    """Return the small step that the parameters stand for, about the target's middle."""
    linear = np.eye(2)
    if name == "rigid":
        angle = parameters[2] / max(shape)
        linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    elif name == "affine":
        linear = linear + parameters[2:].reshape(2, 2) / max(shape)
    middle = _middle(shape)
    return np.column_stack([linear, middle - linear @ middle + parameters[:2]])


def _middle(shape: tuple[int, ...]) -> Float[np.ndarray, " 2"]:
    return (np.array(shape) - 1) / 2


@dataclass(frozen=True, eq=False)
class _SplineSystem:
    """The normal equations of a bend on top of a matrix, without the bending energy."""

    matrix: Matrix
    knots_px: float
    knots: tuple[int, int]
    normal: sparse.csc_array
    right: Float[np.ndarray, " p"]


def _spline_system(blocks: Blocks, shape: tuple[int, ...], knots_px: float) -> _SplineSystem:
    matrix = _fit_matrix(blocks, AFFINE, shape).transform.matrix
    off = apply(invert(matrix), blocks.seen_yx_px) - blocks.centre_yx_px
    knots = knots_for(shape[0], knots_px), knots_for(shape[1], knots_px)
    basis = spline_weights(blocks.centre_yx_px, knots_px, knots)
    turned = sparse.csr_array(basis.T)
    information = blocks.information
    yy, yx, xx = (
        turned @ basis.multiply(information[:, i, j, None]) for i, j in ((0, 0), (0, 1), (1, 1))
    )
    normal = sparse.csc_array(sparse.block_array([[yy, yx], [yx, xx]]))
    right = turned @ np.einsum("nij,nj->ni", information, off)
    return _SplineSystem(matrix, knots_px, knots, normal, right.T.ravel())


def _solve(system: _SplineSystem, kind: Kind) -> Fit:
    penalty, one = _bending(system.knots)
    least = 1e-9 * max(float(system.normal.diagonal().mean()), 1e-12)
    factors = splu(sparse.csc_array(system.normal + kind.stiffness * penalty + least * one))
    knots = factors.solve(system.right).reshape(2, *system.knots)
    bend = Bend(system.knots_px, knots.round(5))
    return Fit(Transform(system.matrix, bend), kind, factors.solve)


@cache
def _bending(knots: tuple[int, int]) -> tuple[sparse.csc_array, sparse.csc_array]:
    """Return the sum of squared second differences of the knots, yy + 2 yx + xx; and identity."""

    def difference(n: int, order: int) -> sparse.csr_array:
        return sparse.csr_array(np.diff(np.eye(n), order, axis=0))

    (i, j), one = knots, sparse.eye_array
    terms = [
        sparse.kron(difference(i, 2), one(j)),
        np.sqrt(2) * sparse.kron(difference(i, 1), difference(j, 1)),
        sparse.kron(one(i), difference(j, 2)),
    ]
    single = sum(term.T @ term for term in terms)
    both = sparse.csc_array(sparse.block_diag([single, single]))
    return both, sparse.csc_array(one(2 * i * j))
