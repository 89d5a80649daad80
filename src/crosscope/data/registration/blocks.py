"""Two images and a transform -> how far each block is still off, and how firmly it holds that.

In each block the displaced source is regressed on the target and its two derivatives,

    source(T(p)) = g (target(p) - e . grad target(p)),        T' = T after (p + e)

so that every block has a gain of its own: objects may differ in brightness.  The noise of the two
images is independent, so that at e = 0 it draws to nowhere.

Lucas, B., Kanade, T. IJCAI 674-679 (1981).
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from crosscope.data.grids import Grey
from crosscope.data.transforms import Transform

FARTHEST_PX = 2.0
"""In one round."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """What n blocks say, in target px.

    Attributes
    ----------
    centre_yx_px : (n, 2) float
        In the target.
    seen_yx_px : (n, 2) float
        Where in the source their content is.
    information : (n, 2, 2) float
        Inverse covariance of `seen_yx_px` by noise, 1 / px^2; 0 where there is no structure.
    cell : (n,) int
        Which cell a block lies in: blocks of one cell are held out together.
    fold : (n,) int
        0 to 3, by the cell: neighbours are in different folds.
    diagonal : (n,) int
        0 or 1: which diagonal pair of the four quarters of its cell a block belongs to.
    """

    centre_yx_px: Float[np.ndarray, "n 2"]
    seen_yx_px: Float[np.ndarray, "n 2"]
    information: Float[np.ndarray, "n 2 2"]
    cell: Int[np.ndarray, " n"]
    fold: Int[np.ndarray, " n"]
    diagonal: Int[np.ndarray, " n"]

    def select(self, chosen: Bool[np.ndarray, " n"]) -> "Blocks":
        """Return the chosen blocks."""
        return Blocks(*(getattr(self, field.name)[chosen] for field in fields(self)))


def measure_blocks(
    source_spline: Grey,
    target: Grey,
    positions: Float[np.ndarray, "2 y x"],
    inside: Bool[np.ndarray, "y x"],
    transform: Transform,
    *,
    thinning: int,
    block_px: int,
    cell_px: int,
) -> Blocks:
    """Measure all blocks of the target.

    Parameters
    ----------
    source_spline : (y, x) float
        Spline coefficients of the filtered source.
    target : (y, x) float
        The filtered target.
    positions : (2, y, x) float
        Where in the source each target pixel is by `transform`, px of these images.
    inside : (y, x) bool
        Pixels that count.
    transform : Transform
        In px of the images before thinning.
    thinning : int
        How many of those a pixel of these images is wide.
    block_px, cell_px : int
        Sides of a block and of a cell, the unit that is held out, in pixels of these images; a cell
        is an even number of blocks wide.
    """
    moved = ndimage.map_coordinates(
        source_spline, positions, order=3, mode="nearest", prefilter=False
    )
    regressors = np.stack([target, *np.gradient(target)])
    normal, right, power, count = _sums(moved, regressors, inside, block_px)
    overall = right[..., 0].sum() / max(normal[..., 0, 0].sum(), 1e-300)
    solution = np.linalg.solve(normal, right[..., None])[..., 0]
    # where the images are hardly alike, steps stay small
    gain = np.maximum(solution[..., 0], max(0.15 * overall, 1e-12))
    step = np.clip(-solution[..., 1:] / gain[..., None], -FARTHEST_PX, FARTHEST_PX)
    left = np.maximum(power - (solution * right).sum(axis=-1), 0.0)
    usual = left.sum() / max(count.sum(), 1e-300)
    variance = (left + 100 * usual) / (count + 100)  # a block's own, steadied by 100 px of all
    information = np.linalg.inv(np.linalg.inv(normal)[..., 1:, 1:])
    information *= (gain**2 / np.maximum(variance, 1e-300))[..., None, None]
    information[count < 1] = 0.0

    rows, columns = count.shape
    y, x = np.indices((rows, columns))
    centre = np.stack(
        [
            np.minimum((i + 0.5) * block_px, (i * block_px + n) / 2) - 0.5
            for i, n in ((y, target.shape[0]), (x, target.shape[1]))
        ],
        axis=-1,
    )
    centre = (centre.reshape(-1, 2) + 0.5) * thinning - 0.5
    quarter_y, quarter_x = (i * block_px // (cell_px // 2) for i in (y, x))
    cell_y, cell_x = quarter_y // 2, quarter_x // 2
    return Blocks(
        centre,
        transform.to_source(centre + thinning * step.reshape(-1, 2)),
        information.reshape(-1, 2, 2) / thinning**2,
        (cell_y * (int(cell_x.max()) + 1) + cell_x).ravel(),
        (cell_y % 2 + 2 * (cell_x % 2)).ravel(),
        ((quarter_y + quarter_x) % 2).ravel(),
    )


def count_per_block(mask: Bool[np.ndarray, "y x"], block_px: int) -> Float[np.ndarray, " n"]:
    """Return how many pixels of each block a mask has, in the order of `Blocks`."""
    return _per_block(mask.astype(np.float64), block_px).ravel()


def _sums(
    moved: Grey,
    regressors: Float[np.ndarray, "3 y x"],
    inside: Bool[np.ndarray, "y x"],
    block_px: int,
) -> tuple[
    Float[np.ndarray, "i j 3 3"],
    Float[np.ndarray, "i j 3"],
    Float[np.ndarray, "i j"],
    Float[np.ndarray, "i j"],
]:
    """Return, block by block, the normal matrix, the right side, the power and the pixels."""
    kept = inside * regressors
    normal = np.stack(
        [np.stack([_per_block(a * b, block_px) for b in kept], axis=-1) for a in kept], axis=-1
    )
    right = np.stack([_per_block(moved * a, block_px) for a in kept], axis=-1)
    # blocks without structure stay put
    normal += 1e-6 * max(float(normal[..., 0, 0].mean()), 1e-9) * np.eye(3)
    power = _per_block(inside * moved**2, block_px)
    return normal, right, power, _per_block(inside.astype(np.float64), block_px)


def _per_block(values: Grey, block_px: int) -> Float[np.ndarray, "i j"]:
    rows, columns = (-(-n // block_px) for n in values.shape)
    lacking = [(0, r * block_px - n) for r, n in zip((rows, columns), values.shape, strict=True)]
    whole = np.pad(values, lacking)
    return whole.reshape(rows, block_px, columns, block_px).sum(axis=(1, 3))
