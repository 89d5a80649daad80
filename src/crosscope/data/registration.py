"""Raw pair -> registered pair: both images on the target's grid, the same field in both."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from crosscope.data.images import Image


@dataclass(frozen=True, eq=False)
class Transform:
    """Where a point of the raw target image lies in the raw source image.

    source_yx_px = matrix @ (target_y_px, target_x_px, 1), pixel centres at whole numbers.
    """

    matrix: Float[np.ndarray, "2 3"]

    def to_source(self, points_yx_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map points of the raw target image (px) to the raw source image (px)."""
        return points_yx_px @ self.matrix[:, :2].T + self.matrix[:, 2]


@dataclass(frozen=True, eq=False)
class RegisteredPair:
    """Source and target on one grid, the target's.

    Attributes
    ----------
    name : str
    source, target : Image
        Axes "yx", equal shapes, equal pixel sizes: the target's. The source was resampled once;
        the target was only cropped.
    transform : Transform
        From raw target pixels to raw source pixels.
    origin_yx_px : (int, int)
        The raw target pixel that became pixel (0, 0) of both images.
    source_pixel_size_nm : (float, float)
        Of the raw source, y and x: what a model trained on this pair expects of new images.
    residual_px : float
        RMS, in target pixels, of what the registration left inside structures.
    correlation_before, correlation_after : float
        Pearson correlation of the two images over their common field, -1 to 1.
    source_sha256, target_sha256 : str or None
        Of the raw files.
    """

    name: str
    source: Image
    target: Image
    transform: Transform
    origin_yx_px: tuple[int, int]
    source_pixel_size_nm: tuple[float, float]
    residual_px: float
    correlation_before: float
    correlation_after: float
    source_sha256: str | None = None
    target_sha256: str | None = None

    def to_source(self, points_yx_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map points of the raw target image (px) to the raw source image (px, before any crop)."""
        return self.transform.to_source(points_yx_px)
