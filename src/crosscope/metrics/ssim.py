"""Image + reference -> a number: the structural similarity index, mean over the field.

    SSIM = (2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_x^2 + s_y^2 + c2))

m, s^2 and s_xy are mean, variance and covariance under an 11 x 11 Gaussian window of 1.5 px,
c1 = (0.01 L)^2, c2 = (0.03 L)^2, L the data range.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error
visibility to structural similarity", IEEE Transactions on Image Processing 13, 600 (2004),
doi 10.1109/TIP.2003.819861.
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from crosscope.data.errors import ImageError

_RADIUS_PX = 5


def ssim(
    image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"], *, data_range: float
) -> float:
    """Return the mean structural similarity, 1 for identical images, seldom below 0.

    Parameters
    ----------
    image, reference : (y, x)
        In the same grey values: SSIM punishes a difference of scale.
    data_range : grey values
        L, never guessed from the images. A larger L forgives more.

    Returns
    -------
    float
        Over the pixels whose window lies within the field, 5 px from the border; NaN where a
        pixel is. In a sparse image the empty background rules it.

    Raises
    ------
    ImageError
        The field is smaller than the window.
    """
    if min(image.shape) <= 2 * _RADIUS_PX:
        size = f"{image.shape[0]} x {image.shape[1]} px"
        raise ImageError(size, "is smaller than the 11 x 11 px of SSIM's window", "Widen the field")
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variance_x = _local_mean(x * x) - mean_x**2
    variance_y = _local_mean(y * y) - mean_y**2
    covariance = _local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity[_RADIUS_PX:-_RADIUS_PX, _RADIUS_PX:-_RADIUS_PX].mean())


def _local_mean(values: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    filtered: Float[np.ndarray, "y x"] = gaussian_filter(values, 1.5, radius=_RADIUS_PX)
    return filtered
