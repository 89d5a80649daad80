"""Raw target pixels -> raw source pixels: where a point of the one image lies in the other.

    source = matrix @ (target + bend(target), 1),    y before x, pixel centres at whole numbers

The bend is a tensor product of cubic B-splines, C2 everywhere:

    bend(p) = sum_ij knots_ij b(p_y / spacing - i + 1) b(p_x / spacing - j + 1)

Unser, M. IEEE Signal Process. Mag. 16(6), 22-38 (1999), doi 10.1109/79.799930.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

Matrix = Float[np.ndarray, "2 3"]
Points = Float[np.ndarray, "n 2"]


@dataclass(frozen=True, eq=False)
class Bend:
    """A smooth displacement of target pixels, linear beyond its knots' field by clamping.

    Attributes
    ----------
    spacing_px : float
        Between knots, along both axes.
    knots_px : (2, i, j) float
        Coefficients of the displacement along y and x, in target px. Knot (1, 1) stands at pixel
        (0, 0); a field of n px needs `knots_for(n, spacing_px)` along its axis.
    """

    spacing_px: float
    knots_px: Float[np.ndarray, "2 i j"]

    def at(self, points_yx_px: Points) -> Points:
        """Return the displacement (px) at points of the target (px)."""
        weights = spline_weights(points_yx_px, self.spacing_px, self.knots_px.shape[1:])
        return np.asarray(weights @ self.knots_px.reshape(2, -1).T)

    def on_grid(
        self, y_px: Float[np.ndarray, " y"], x_px: Float[np.ndarray, " x"]
    ) -> Float[np.ndarray, "2 y x"]:
        """Return the displacement (px) at all crossings of rows and columns (px)."""
        along_y = axis_weights(y_px, self.spacing_px, self.knots_px.shape[1])
        along_x = axis_weights(x_px, self.spacing_px, self.knots_px.shape[2])
        return np.stack([along_y @ (along_x @ knots.T).T for knots in self.knots_px])


@dataclass(frozen=True, eq=False)
class Transform:
    """Where a point of the raw target image lies in the raw source image.

    Attributes
    ----------
    matrix : (2, 3) float
        Translation, rotation, scale, shear; the pixel sizes' ratio is in it.
    bend : Bend or None
        None where the transform is affine.
    """

    matrix: Matrix
    bend: Bend | None = None

    def to_source(self, points_yx_px: Points) -> Points:
        """Map points of the raw target image (px) to the raw source image (px)."""
        if self.bend is not None:
            points_yx_px = points_yx_px + self.bend.at(points_yx_px)
        return np.asarray(points_yx_px @ self.matrix[:, :2].T + self.matrix[:, 2])

    def on_grid(
        self, y_px: Float[np.ndarray, " y"], x_px: Float[np.ndarray, " x"]
    ) -> Float[np.ndarray, "2 y x"]:
        """Return the source pixels (y, x) of all crossings of the target's rows and columns."""
        y, x = np.meshgrid(y_px, x_px, indexing="ij", sparse=True)
        if self.bend is not None:
            along_y, along_x = self.bend.on_grid(y_px, x_px)
            y, x = y + along_y, x + along_x
        return np.stack([row[0] * y + row[1] * x + row[2] for row in self.matrix])

    def to_json(self) -> dict[str, Any]:
        """Return the transform as what JSON can hold."""
        bend = self.bend
        knots = None if bend is None else [k.round(5).tolist() for k in bend.knots_px]
        return {
            "transform": self.matrix.tolist(),
            "bend": bend and {"spacing_px": bend.spacing_px, "knots_px": knots},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Transform":
        """Rebuild a transform; ValueError, KeyError or TypeError where it is none."""
        matrix = np.array(value["transform"], dtype=np.float64).reshape(2, 3)
        if not np.isfinite(matrix).all():
            raise ValueError("a transform that is not finite")
        bend = value.get("bend")
        if bend is None:
            return cls(matrix)
        knots = np.array(bend["knots_px"], dtype=np.float64)
        if not np.isfinite(knots).all():
            raise ValueError("a bend that is not finite")
        if knots.ndim != 3 or knots.shape[0] != 2 or not float(bend["spacing_px"]) > 0:
            raise ValueError(f"a bend with knots of shape {knots.shape}")
        return cls(matrix, Bend(float(bend["spacing_px"]), knots))


IDENTITY = Transform(np.eye(2, 3))


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Return the matrix that applies `inner` first."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.column_stack([linear, outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def invert(matrix: Matrix) -> Matrix:
    """Return the matrix that leads back."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def apply(matrix: Matrix, points_yx: Points) -> Points:
    """Map points by a matrix."""
    return np.asarray(points_yx @ matrix[:, :2].T + matrix[:, 2])


def knots_for(length_px: int, spacing_px: float) -> int:
    """Return how many knots an axis needs."""
    return int((length_px - 1) // spacing_px) + 4


def axis_weights(
    positions_px: Float[np.ndarray, " n"], spacing_px: float, knots: int
) -> sparse.csr_array:
    """Return the weights (n, knots) of the knots of one axis; beyond the ends the end's hold."""
    place = np.clip(positions_px / spacing_px, 0, knots - 3 - 1e-9)
    first = np.floor(place).astype(int)
    t = place - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 0 * t, t**3], axis=1) / 6
    weights[:, 2] = 1 - weights.sum(axis=1)
    rows = np.repeat(np.arange(len(place)), 4)
    columns = (first[:, None] + np.arange(4)).ravel()
    return sparse.csr_array((weights.ravel(), (rows, columns)), shape=(len(place), knots))


def spline_weights(
    points_yx_px: Points, spacing_px: float, knots: tuple[int, ...]
) -> sparse.csr_array:
    """Return the weights (n, i * j) of the knots at any points."""
    along_y = axis_weights(points_yx_px[:, 0], spacing_px, knots[0])
    along_x = axis_weights(points_yx_px[:, 1], spacing_px, knots[1])
    n = len(points_yx_px)
    columns = along_y.indices.reshape(n, 4, 1) * knots[1] + along_x.indices.reshape(n, 1, 4)
    values = along_y.data.reshape(n, 4, 1) * along_x.data.reshape(n, 1, 4)
    rows = np.repeat(np.arange(n), 16)
    shape = (n, knots[0] * knots[1])
    return sparse.csr_array((values.ravel(), (rows, columns.ravel())), shape=shape)
