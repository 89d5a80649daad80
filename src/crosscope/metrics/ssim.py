"""Image + reference -> a number: the structural similarity index, mean over the field.

    l = (2 m_x m_y + c1) / (m_x^2 + m_y^2 + c1),   c = (2 s_xy + c2) / (s_x^2 + s_y^2 + c2)
    SSIM = mean(l c),   MS-SSIM = mean(c_1)^w_1 ... mean(c_4)^w_4 mean(l_5 c_5)^w_5

m, s^2 and s_xy are mean, variance and covariance under an 11 x 11 Gaussian window of 1.5 px,
c1 = (0.01 L)^2, c2 = (0.03 L)^2, L the data range. l compares luminance, c contrast and structure;
scale j + 1 is scale j averaged over 2 x 2 px.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error
visibility to structural similarity", IEEE Transactions on Image Processing 13, 600 (2004),
doi 10.1109/TIP.2003.819861; Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multiscale structural
similarity for image quality assessment", 37th Asilomar Conference on Signals, Systems and
Computers, 1398 (2003), doi 10.1109/ACSSC.2003.1292216.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.ndimage import gaussian_filter

from crosscope.data.errors import ImageError

_RADIUS_PX = 5
# From the finest scale to the coarsest, as printed in the paper: their sum is 1.0001.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SMALLEST_PX = (2 * _RADIUS_PX + 1) * 2 ** (len(_SCALE_WEIGHTS) - 1)


def ssim(
    image: Float[np.ndarray, "y x"],
    reference: Float[np.ndarray, "y x"],
    *,
    data_range: float,
    inside: Bool[np.ndarray, "y x"] | None = None,
) -> float:
    """Return the mean structural similarity, 1 for identical images, seldom below 0.

    Parameters
    ----------
    image, reference : (y, x)
        In the same grey values: SSIM punishes a difference of scale.
    data_range : grey values
        L, never guessed from the images. A larger L forgives more.
    inside : (y, x) bool, optional
        Average only over these pixels: on the sample, or on the background. Their windows reach
        5 px beyond, so that the two parts still see a little of each other.

    Returns
    -------
    float
        Over the pixels whose window lies within the field, 5 px from the border; NaN where a
        window holds a NaN, or where `inside` holds no such pixel. In a sparse image the empty
        background rules it.

    Raises
    ------
    ImageError
        The field is smaller than the window.
    """
    if min(image.shape) <= 2 * _RADIUS_PX:
        size = f"{image.shape[0]} x {image.shape[1]} px"
        raise ImageError(size, "is smaller than the 11 x 11 px of SSIM's window", "Widen the field")
    return mean_similarity(similarity_map(image, reference, data_range=data_range), inside)


def similarity_map(
    image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"], *, data_range: float
) -> Float[np.ndarray, "_y _x"]:
    """Return the structural similarity pixel by pixel, 5 px from the border: see `ssim`."""
    luminance, contrast = _similarities(image, reference, data_range)
    return luminance * contrast


def mean_similarity(
    similarity: Float[np.ndarray, "_y _x"], inside: Bool[np.ndarray, "y x"] | None = None
) -> float:
    """Return a map's mean over the field or a part of it; NaN where that is empty: see `ssim`."""
    if inside is not None:
        similarity = similarity[_without_border(inside)]
    return float(similarity.mean()) if similarity.size else math.nan


def ms_ssim(
    image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"], *, data_range: float
) -> float | None:
    """Return the structural similarity over five scales, 0 to 1, 1 for identical images.

    Parameters
    ----------
    image, reference : (y, x)
        In the same grey values, at least 176 px each way.
    data_range : grey values
        L, never guessed from the images. A larger L forgives more.

    Returns
    -------
    float or None
        None for one reason only: the field is smaller than 176 px, so that the window of 11 px
        does not fit the coarsest of the five scales. The same measure over fewer scales would be
        another one, and not comparable. NaN where a pixel is.

    Notes
    -----
    The finest scale, where super-resolution shows, has 4 % of the weight: the weights were fitted
    to what people see in photographs. A scale on which c is on average negative makes the whole 0,
    as usual: a negative number has no such power. An odd last row or column is averaged with its
    own mirror image, as in the authors' program; other programs drop it or pad it with zeros.
    """
    if min(image.shape) < _SMALLEST_PX:
        return None
    product = 1.0
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            image, reference = _halved(image), _halved(reference)
        luminance, similarity = _similarities(image, reference, data_range)
        if scale == len(_SCALE_WEIGHTS) - 1:
            similarity = luminance * similarity
        product *= float(np.maximum(similarity.mean(), 0.0)) ** weight  # keeps a NaN
    return product


def _similarities(
    image: Float[np.ndarray, "y x"], reference: Float[np.ndarray, "y x"], data_range: float
) -> tuple[Float[np.ndarray, "y-10 x-10"], Float[np.ndarray, "y-10 x-10"]]:
    """Return the maps of luminance l and of contrast and structure c."""
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variance_x = _local_mean(x * x) - mean_x**2
    variance_y = _local_mean(y * y) - mean_y**2
    covariance = _local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return luminance, contrast


def _local_mean(values: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "_y _x"]:
    filtered: Float[np.ndarray, "y x"] = gaussian_filter(values, 1.5, radius=_RADIUS_PX)
    return _without_border(filtered)


def _without_border(values: Shaped[np.ndarray, "y x"]) -> Shaped[np.ndarray, "_y _x"]:
    return values[_RADIUS_PX:-_RADIUS_PX, _RADIUS_PX:-_RADIUS_PX]


def _halved(values: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "half_y half_x"]:
    """Average over 2 x 2 px, in double precision."""
    height, width = values.shape
    even = np.pad(values.astype(np.float64), ((0, height % 2), (0, width % 2)), mode="edge")
    halved: Float[np.ndarray, "half_y half_x"] = even.reshape(
        even.shape[0] // 2, 2, even.shape[1] // 2, 2
    ).mean(axis=(1, 3))
    return halved
