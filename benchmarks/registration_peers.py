"""Raw pair -> where its source sees the target's points, as other libraries find it.

All get the same preparation, which counts more than the library: the source on the target's grid,
either image blurred until both are equally wide, a Gaussian of 1 px, the square root, background
removed, and whole pixels of shift from an unnormalised correlation.  Settings were chosen on the
seeds 901 and 902 at 512 and 1024 px, one set per kind of transform for all systems (the preparation
among 6, by elastix), but for the stiffness of bends, which each row is given:

SimpleITK 2.5.7, 13 elastic settings and 5 affine: correlation, regular steps scaled by physical
shift, linear interpolation; B-spline, a fifth of the pixels, 2 levels of 30 steps.  The
tolerance of the gradient must be lowered to 1e-8: at its 1e-4 an affine stops up to 0.16 px off.
LBFGSB took longer and came no nearer on `differ`; grids of 64 px overfit there (p95 1.9 px).

elastix of itk-elastix 0.25.4, 27 elastic settings and 5 affine: normalised correlation of 5000
to 20000 random points, cubic interpolation; B-spline in one resolution.  On `differ`
48 px gave p95 1.8, 96 px 0.8 and 128 px 0.55 px; a bending penalty of 1e5 with 48 px did as well as
160 px there, but didn't converge on every pair.

scikit-image 0.26.0, 9 settings of the flow, 3 of ORB: blocks of 128 px by
`phase_cross_correlation(normalization=None)`, RANSAC to 1 px, then `optical_flow_ilk`, radius half
of the stiffness (Gaussian weights), 5 warps.  normalization="phase" errs by 0.5 to 2 px at 50
photons; ORB with RANSAC leaves 0.4 px of a rigid turn and 1.3 px and more of bent fields.

Stiffness, at 1024 px: 96 px for filaments in wide field (SimpleITK 0.06 px, elastix 0.04,
scikit-image 0.07 to 0.08; among 48, 72, 96 and 128), 160 px for `differ` (0.42 to 0.58, 0.45, 0.53;
among 128, 160, 224 and 320; scikit-image comes to 0.49 with 224).
"""

import functools
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from crosscope.data.background import measure_background
from crosscope.data.grids import resample

Array = npt.NDArray[Any]
Kind = Literal["translation", "affine", "elastic"]
ToSource = Callable[[Array], Array]
"""Points (y, x) of the raw target, px -> points of the raw source, px; both (n, 2)."""


class Peer(Protocol):
    """A registration by another library; None, and a printed sentence, where it is missing."""

    def __call__(
        self,
        source: Array,
        target: Array,
        *,
        zoom: tuple[float, float],
        kind: Kind,
        stiffness_px: float,
    ) -> ToSource | None:
        """Register raw planes; `zoom` (y, x) is target pixels per source pixel.

        `stiffness_px` is the spacing of the knots of a spline, or the width of a flow's window.
        """
        ...


# --- preparation, the same for all ----------------------------------------------------------------

SMOOTHING_PX = 1.0
BACKGROUND = 10.0  # this and the blurs in pixels of the coarser grid
BLURS = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
BLOCK_PX = 128
BORDER_PX = 16  # left out where blocks are compared


@dataclass(frozen=True, eq=False)
class Prepared:
    """Features of both on the target's grid: source(x + start_px) shows nearly target(x)."""

    source: Array
    target: Array
    start_px: Array
    zoom: tuple[float, float]

    def to_source(self, displacement_px: Array) -> ToSource:
        """Return the map that displacements (2, y, x) on the target's grid describe."""

        def mapped(points_yx_px: Array) -> Array:
            moved = [
                ndimage.map_coordinates(part, points_yx_px.T, order=1, mode="nearest")
                for part in displacement_px
            ]
            return np.asarray((points_yx_px + np.stack(moved, 1) + 0.5) / self.zoom - 0.5)

        return mapped


def prepare(source: Array, target: Array, *, zoom: tuple[float, float]) -> Prepared:
    """Bring both to one grid and one width, and find whole pixels of shift by correlation."""
    unit_px = max(1.0, *zoom)
    source = resample(source.astype(np.float64), zoom)
    height, width = map(min, source.shape, target.shape)
    source, target = source[:height, :width], target[:height, :width].astype(np.float64)
    start_px = _shift_px(_features(source, unit_px), _features(target, unit_px))
    rolled = np.roll(source, -start_px, axis=(0, 1))
    spectra = [
        [fft.rfft2(_blocks(_features(image, unit_px, blur=blur))) for blur in BLURS]
        for image in (rolled, target)
    ]
    # either is blurred; each block is compared at its own best shift, so that a turn doesn't matter
    likeness = {}
    for s, t in [(n, 0) for n in range(len(BLURS))] + [(0, n) for n in range(1, len(BLURS))]:
        correlation = fft.irfft2(spectra[0][s] * np.conj(spectra[1][t]))
        likeness[BLURS[s], BLURS[t]] = float(correlation.max(axis=(1, 2)).sum())
    source_blur, target_blur = max(likeness, key=lambda blurs: likeness[blurs])
    return Prepared(
        _features(source, unit_px, blur=source_blur),
        _features(target, unit_px, blur=target_blur),
        start_px,
        zoom,
    )


def _features(pixels: Array, unit_px: float, *, blur: float = 0.0) -> Array:
    """Blur, take the root, remove slow background, bring to unit variance."""
    background = measure_background(pixels)
    sigma_px = math.hypot(SMOOTHING_PX, unit_px * blur)
    noise = background.noise / (2 * math.sqrt(math.pi) * sigma_px)
    signal = ndimage.gaussian_filter(pixels - background.level, sigma_px)
    rooted = np.sqrt(np.maximum(signal + 20 * noise, 0.0))
    rooted -= ndimage.gaussian_filter(rooted, unit_px * BACKGROUND)
    return np.asarray(rooted / rooted.std())


def _shift_px(source: Array, target: Array) -> Array:
    """Return by how many whole pixels the source's content is displaced."""
    spectra = [fft.rfft2(image * _hann(image.shape)) for image in (source, target)]
    correlation = fft.irfft2(spectra[0] * np.conj(spectra[1]), source.shape)
    peak = np.array(np.unravel_index(np.argmax(correlation), correlation.shape))
    return np.where(peak > np.divide(correlation.shape, 2), peak - correlation.shape, peak)


def _blocks(image: Array) -> Array:
    """Return blocks (n, y, x), each under a Hann window."""
    side = min(BLOCK_PX, min(image.shape) - 2 * BORDER_PX)
    window = _hann((side, side))
    return np.stack([image[block] * window for block in _block_slices(image.shape, side)])


def _block_slices(shape: tuple[int, ...], side: int) -> list[tuple[slice, slice]]:
    rows, columns = (range(BORDER_PX, n - side - BORDER_PX + 1, side // 2) for n in shape)
    return [(slice(y, y + side), slice(x, x + side)) for y in rows for x in columns]


def _hann(shape: tuple[int, ...]) -> Array:
    return np.asarray(np.hanning(shape[0])[:, None] * np.hanning(shape[1]))


# --- SimpleITK ------------------------------------------------------------------------------------

SITK_LEVELS = {  # shrink factors, blurs (px); share of the pixels; most steps
    "linear": ((4, 2, 1), (2, 1, 0), 1.0, 100),
    "elastic": ((2, 1), (2, 0), 0.2, 30),
}


def register_by_simpleitk(
    source: Array, target: Array, *, zoom: tuple[float, float], kind: Kind, stiffness_px: float
) -> ToSource | None:
    """Register by correlation and regular-step gradient descent."""
    if find_spec("SimpleITK") is None:
        print("SimpleITK is missing: pip install SimpleITK")
        return None
    sitk: Any = import_module("SimpleITK")  # it has no types

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    ready = prepare(source, target, zoom=zoom)
    fixed, moving = (
        sitk.GetImageFromArray(image.astype(np.float32)) for image in (ready.target, ready.source)
    )
    moving.SetOrigin([float(-shift) for shift in ready.start_px[::-1]])

    def method(levels: str) -> Any:
        shrink, blur, share, steps = SITK_LEVELS[levels]
        made = sitk.ImageRegistrationMethod()
        made.SetMetricAsCorrelation()
        made.SetInterpolator(sitk.sitkLinear)
        made.SetShrinkFactorsPerLevel(shrink)
        made.SetSmoothingSigmasPerLevel(blur)
        if share < 1:
            made.SetMetricSamplingStrategy(made.REGULAR)
            made.SetMetricSamplingPercentage(share, 1)
        made.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, steps, 0.5, 1e-8)
        made.SetOptimizerScalesFromPhysicalShift()
        return made

    transform = sitk.TranslationTransform(2) if kind == "translation" else sitk.AffineTransform(2)
    if kind != "translation":
        transform.SetCenter([(n - 1) / 2 for n in fixed.GetSize()])
    linear = method("linear")
    linear.SetInitialTransform(transform, inPlace=True)
    linear.Execute(fixed, moving)
    if kind == "elastic":
        cells = [max(1, round(n / stiffness_px)) for n in fixed.GetSize()]
        spline = sitk.BSplineTransformInitializer(fixed, cells, 3)
        elastic = method("elastic")
        elastic.SetMovingInitialTransform(transform)
        elastic.SetInitialTransform(spline, inPlace=True)
        elastic.Execute(fixed, moving)
        transform = sitk.CompositeTransform([transform, spline])
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing()
    )
    return ready.to_source(_yx_first(sitk.GetArrayFromImage(field)) + ready.start_px[:, None, None])


def _yx_first(field: Array) -> Array:
    """Return (2, y, x), y first, of ITK's (y, x, 2), x first."""
    return np.moveaxis(field[..., ::-1], -1, 0)


# --- elastix --------------------------------------------------------------------------------------

ELASTIX_PYTHON = "ELASTIX_PYTHON"
"""Environment variable: the python of an environment that has itk-elastix."""
ELASTIX_COMMON = {
    "Metric": "AdvancedNormalizedCorrelation",
    "AutomaticTransformInitialization": "false",
    "ImageSampler": "RandomCoordinate",
    "NewSamplesEveryIteration": "true",
    "NumberOfSpatialSamples": "5000",
    "BSplineInterpolationOrder": "3",
    "MaximumNumberOfIterations": "500",
    "ASGDParameterEstimationMethod": "DisplacementDistribution",
    "RandomSeed": "1",
}
ELASTIX_STAGES: dict[str, tuple[str, int, dict[str, str]]] = {  # name, resolutions, settings
    "translation": ("translation", 3, {"ASGDParameterEstimationMethod": "Original"}),
    "affine": (
        "affine",
        3,
        {"NumberOfSpatialSamples": "20000", "MaximumNumberOfIterations": "1000"},
    ),
    "elastic": (
        "bspline",
        1,
        {"NumberOfSpatialSamples": "20000", "MaximumNumberOfIterations": "1000"},
    ),
}
ELASTIX_WORKER = """
import json, sys, itk, numpy
folder = sys.argv[1]
plan = json.load(open(folder + "/plan.json"))
target = itk.image_from_array(numpy.load(folder + "/target.npy"))
source = itk.image_from_array(numpy.load(folder + "/source.npy"))
source.SetOrigin(plan["origin"])
parameters = itk.ParameterObject.New()
for name, resolutions, settings in plan["stages"]:
    stage = parameters.GetDefaultParameterMap(name, resolutions)
    for key, value in settings.items():
        stage[key] = [value]
    parameters.AddParameterMap(stage)
method = itk.ElastixRegistrationMethod.New(target, source)
method.SetParameterObject(parameters)
method.SetNumberOfThreads(1)
method.LogToConsoleOff()
method.Update()
field = itk.transformix_deformation_field(source, method.GetTransformParameterObject())
numpy.save(folder + "/field.npy", itk.array_from_image(field))
"""


def register_by_elastix(
    source: Array, target: Array, *, zoom: tuple[float, float], kind: Kind, stiffness_px: float
) -> ToSource | None:
    """Register by normalised correlation and adaptive stochastic gradient descent."""
    python = _elastix_python()
    if python is None:
        print(f"elastix is missing: set {ELASTIX_PYTHON} to a python that has itk-elastix")
        return None
    ready = prepare(source, target, zoom=zoom)
    grid = {"FinalGridSpacingInPhysicalUnits": str(stiffness_px)} if kind == "elastic" else {}
    stages = [
        (name, resolutions, ELASTIX_COMMON | settings | grid)
        for name, resolutions, settings in (
            ELASTIX_STAGES[step] for step in (("affine", kind) if kind == "elastic" else (kind,))
        )
    ]
    plan = {"origin": [float(-shift) for shift in ready.start_px[::-1]], "stages": stages}
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/source.npy", ready.source.astype(np.float32))
        np.save(f"{folder}/target.npy", ready.target.astype(np.float32))
        Path(folder, "plan.json").write_text(json.dumps(plan))
        single = os.environ | {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
        subprocess.run([python, "-c", ELASTIX_WORKER, folder], check=True, env=single, cwd=folder)
        field = np.load(f"{folder}/field.npy")
    return ready.to_source(_yx_first(field) + ready.start_px[:, None, None])


@functools.cache
def _elastix_python() -> str | None:
    python = os.environ.get(ELASTIX_PYTHON)
    if not python:
        return None
    look = "from importlib.metadata import version; version('itk-elastix')"
    found = subprocess.run([python, "-c", look], stderr=subprocess.DEVNULL)
    return None if found.returncode else python


# --- scikit-image ---------------------------------------------------------------------------------

SKIMAGE_RANSAC_PX = 1.0
SKIMAGE_WARPS = 5


def register_by_scikit_image(
    source: Array, target: Array, *, zoom: tuple[float, float], kind: Kind, stiffness_px: float
) -> ToSource | None:
    """Register by phase correlation, whole or block by block with RANSAC, and optical flow."""
    if find_spec("skimage") is None:
        print("scikit-image is missing: pip install scikit-image")
        return None
    from skimage import measure, registration, transform

    ready = prepare(source, target, zoom=zoom)
    shape = ready.target.shape
    rolled = np.roll(ready.source, -ready.start_px, axis=(0, 1))

    def shift_px(block: tuple[slice, ...]) -> Array:
        window = _hann(ready.target[block].shape)
        images = [(image[block] - image[block].mean()) * window for image in (ready.target, rolled)]
        back, _, _ = registration.phase_cross_correlation(
            *images, upsample_factor=100, normalization=None
        )
        return np.asarray(ready.start_px - back)

    grid = np.indices(shape, dtype=np.float64)
    if kind == "translation":
        whole = shift_px((slice(None), slice(None)))
        return ready.to_source(np.broadcast_to(whole[:, None, None], grid.shape))
    side = min(BLOCK_PX, min(shape) // 4)
    blocks = _block_slices(shape, side)
    here = np.array([[y.start, x.start] for y, x in blocks]) + (side - 1) / 2
    there = here + [shift_px(block) for block in blocks]
    # scikit-image's transforms count x first
    ends = here[:, ::-1], there[:, ::-1]
    _, fits = measure.ransac(
        ends,
        transform.AffineTransform,
        min_samples=4,
        residual_threshold=SKIMAGE_RANSAC_PX,
        max_trials=2000,
        rng=0,
    )
    affine = transform.AffineTransform.from_estimate(*(end[fits] for end in ends))
    places = affine(grid[::-1].reshape(2, -1).T)[:, ::-1].T.reshape(grid.shape)
    if kind == "elastic":
        warped = ndimage.map_coordinates(ready.source, places, order=3, mode="nearest")
        flow = registration.optical_flow_ilk(
            ready.target,
            warped,
            radius=round(stiffness_px / 2),
            num_warp=SKIMAGE_WARPS,
            gaussian=True,
            dtype=np.float64,
        )
        beyond = grid + flow
        places = np.stack(
            [ndimage.map_coordinates(p, beyond, order=1, mode="nearest") for p in places]
        )
    return ready.to_source(places - grid)


PEERS: dict[str, Peer] = {
    "SimpleITK": register_by_simpleitk,
    "elastix": register_by_elastix,
    "scikit-image": register_by_scikit_image,
}
