"""One image (or two) -> one measure, with the table behind it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from crosscope.data.errors import ImageError, InputError
from crosscope.data.files import write_table, writing
from crosscope.data.images import Image, select_plane
from crosscope.data.registration.features import measure_finest_period_px
from crosscope.metrics.decorrelation import measure_decorrelation
from crosscope.metrics.frc import find_resolution, fourier_ring_correlation, frc_single
from crosscope.metrics.interval import bootstrap_interval
from crosscope.metrics.profile import close_pair_segments, line_profile, peak_distance
from crosscope.metrics.psf import fit_spots, half_maximum_widths
from crosscope.metrics.spectrum import radial_spectrum
from crosscope.metrics.spots import compare_spots
from crosscope.metrics.squirrel import measure_squirrel
from crosscope.metrics.typical import places_of, typical_fwhm

Grey = Float[np.ndarray, "y x"]
Table = Mapping[str, Shaped[np.ndarray, " _n"]]
_NO_SPOTS = "fewer than 10 isolated spots"


@dataclass(frozen=True, eq=False)
class Measurement:
    """A figure, its interval, and the table it was taken from.

    Attributes
    ----------
    measure : str
    value, low, high : float or None
        95 % interval; None where there is none.
    unit : str
    n : int
        Spots, pairs or rings that entered.
    reason : str or None
        Why there is no value.
    table : mapping from a column's name, with its unit, to its values
        The first column is what a plot has along its axis, the second what it shows over it; of
        spots and pairs the last one is drawn, as a histogram.
    """

    measure: str
    value: float | None
    unit: str
    n: int
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    table: Table = field(default_factory=dict)

    @property
    def json(self) -> dict[str, Any]:
        """Return the figure under the names of the JSON."""
        names = ("measure", "value", "unit", "low", "high", "n")
        found = {name: getattr(self, name) for name in names}
        return found | ({"reason": self.reason} if self.reason else {})

    def write_csv(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the table."""
        write_table(path, self.table, overwrite=overwrite)

    def draw(self, path: Path, *, overwrite: bool = False) -> None:
        """Draw the table's second column over its first, widths and distances as a histogram."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.5), layout="constrained")
        axes = figure.subplots()
        columns = list(self.table.items())
        if columns and self.measure in ("psf", "pairs"):
            name, values = columns[-1]
            axes.hist(values[np.isfinite(values)], bins=30, color="#0072b2")
            axes.set(xlabel=name, ylabel="count")
        elif columns:
            (across, x), (up, y) = columns[:2]
            (axes.semilogy if self.measure == "spectrum" else axes.plot)(x, y, color="#0072b2")
            axes.set(xlabel=across, ylabel=up)
        shown = self.reason if self.value is None else f"{self.value:.4g} {self.unit}"
        axes.set_title(f"{self.measure}: {shown}", fontsize=10)
        FigureCanvasAgg(figure)
        with writing(path, overwrite=overwrite) as part:
            figure.savefig(part, dpi=150, format="png")


def measure(
    what: str,
    image: Image,
    other: Image | None = None,
    *,
    pixel_size_nm: tuple[float, float] | None = None,
) -> Measurement:
    """Take one measure of an image, or of two of one field.

    Parameters
    ----------
    what : str
        psf: median width of isolated spots, by a Gaussian fit. pairs: least peak-to-peak distance
        of close pairs that show two peaks. frc: Fourier ring correlation, 1/7, with the other
        image or split. decorrelation: image decorrelation analysis. spectrum: finest period above
        the noise. squirrel: resolution-scaled correlation with the other image.
    image, other : Image
        One plane each, or the first of each.
    pixel_size_nm : (y, x), optional
        Where the file says nothing; else lengths are in px.

    Raises
    ------
    InputError
        There is no such measure, or it takes another number of images.
    ImageError
        Pixels that are not finite numbers, that are not square, or of two sizes.
    """
    measures: dict[str, Callable[..., Measurement]] = {
        "psf": _psf,
        "pairs": _pairs,
        "frc": _frc,
        "decorrelation": _decorrelation,
        "spectrum": _spectrum,
        "squirrel": _squirrel,
    }
    if what not in measures:
        raise InputError(what, "is no measure", f"Choose one of {', '.join(measures)}")
    if (other is not None and what not in ("frc", "squirrel")) or (
        other is None and what == "squirrel"
    ):
        count = "two images" if what == "squirrel" else "one image"
        raise InputError(f"measure {what}", f"takes {count}", f"Give {count}")
    size = pixel_size_nm or image.pixel_size_nm
    if size and not np.isclose(size[0], size[1], rtol=0.02):
        raise ImageError(image.name, f"has pixels of {size} nm", "Resample it to square pixels")
    other_size = other.pixel_size_nm if other else None
    if other and size and other_size and not np.allclose(size, other_size, rtol=0.02):
        reason = f"has pixels of {other_size} nm, the first image of {size} nm"
        raise ImageError(other.name, reason, "Bring both to one grid: crosscope register")
    planes = [_plane(each) for each in (image, other) if each is not None]
    unit, scale = ("nm", float(np.sqrt(size[0] * size[1]))) if size else ("px", 1.0)
    return measures[what](*planes, unit=unit, scale=scale)


def _plane(image: Image) -> Grey:
    pixels = select_plane(image).pixels.astype(np.float64)
    if not np.isfinite(pixels).all():
        raise ImageError(image.name, "has pixels without a value", "Crop them away")
    return pixels


def _psf(image: Grey, *, unit: str, scale: float) -> Measurement:
    fwhm_px = typical_fwhm([image])
    if fwhm_px is None:
        return Measurement("psf", None, unit, 0, reason=_NO_SPOTS)
    places = places_of(image, fwhm_px, 3 * fwhm_px)
    fits = fit_spots(image, places, radius_px=round(1.5 * fwhm_px))
    free = half_maximum_widths(image, places, radius_px=round(2 * fwhm_px))
    found = bootstrap_interval(list(fits.fwhm_px * scale))
    table = {
        "y_px": fits.yx_px[:, 0],
        "x_px": fits.yx_px[:, 1],
        "amplitude": fits.amplitude,
        f"half_maximum_{unit}": free * scale,
        f"fwhm_{unit}": fits.fwhm_px * scale,
    }
    reason = _NO_SPOTS if found.value is None else None
    return Measurement("psf", found.value, unit, found.n, found.low, found.high, reason, table)


def _pairs(image: Grey, *, unit: str, scale: float) -> Measurement:
    fwhm_px = typical_fwhm([image])
    if fwhm_px is None:
        return Measurement("pairs", None, unit, 0, reason=_NO_SPOTS)
    spots = compare_spots(image, image, fwhm_px=fwhm_px)
    segments = close_pair_segments(spots.reference, fwhm_px=fwhm_px, threshold=spots.threshold)
    distances = [
        peak_distance(line_profile(image, s, width_px=0.5 * fwhm_px, margin_px=1.5 * fwhm_px))
        for s in segments
    ]
    shown = [
        (s, d.distance_px * scale)
        for s, d in zip(segments, distances, strict=True)
        if d.distance_px
    ]
    table = {
        "y_px": np.array([s.start_yx_px[0] for s, _ in shown]),
        "x_px": np.array([s.start_yx_px[1] for s, _ in shown]),
        f"distance_{unit}": np.array([distance for _, distance in shown]),
    }
    if not shown:
        reason = "no two spots are near each other, alone, and show two peaks"
        return Measurement("pairs", None, unit, len(segments), reason=reason, table=table)
    return Measurement("pairs", min(d for _, d in shown), unit, len(shown), table=table)


def _frc(image: Grey, other: Grey | None = None, *, unit: str, scale: float) -> Measurement:
    curve = frc_single(image) if other is None else fourier_ring_correlation(image, other)
    found = find_resolution(curve)
    table = {f"frequency_per_{unit}": curve.frequency / scale, "correlation": curve.correlation}
    period, low, high = (
        None if px is None else px * scale for px in (found.period_px, found.low_px, found.high_px)
    )
    return Measurement("frc", period, unit, curve.frequency.size, low, high, found.reason, table)


def _decorrelation(image: Grey, *, unit: str, scale: float) -> Measurement:
    found = measure_decorrelation(image)
    table = {}
    if found.curves:
        whole = found.curves[0]  # the image as it is
        table[f"frequency_per_{unit}"] = whole.frequency_per_px / scale
        table["correlation"] = whole.correlation
    period = None if found.period_px is None else found.period_px * scale
    return Measurement("decorrelation", period, unit, 1, reason=found.reason, table=table)


def _spectrum(image: Grey, *, unit: str, scale: float) -> Measurement:
    if np.ptp(image) == 0 or min(image.shape) < 8:
        reason = "the image is constant or smaller than 8 px"
        return Measurement("spectrum", None, unit, 0, reason=reason)
    spectrum = radial_spectrum(image, pixel_size_nm=(1000.0, 1000.0))  # per px
    table = {f"frequency_per_{unit}": spectrum.frequency_per_um / scale, "power": spectrum.power}
    period = measure_finest_period_px(image) * scale
    return Measurement("spectrum", period, unit, spectrum.power.size, table=table)


def _squirrel(image: Grey, other: Grey, *, unit: str, scale: float) -> Measurement:
    if image.shape != other.shape:
        reason = f"the images differ in size: {image.shape} and {other.shape} px"
        return Measurement("squirrel", None, "1", 0, reason=reason)
    found = measure_squirrel(image, other)
    if found.rse is None or found.sigma_px is None:
        return Measurement("squirrel", None, "1", 0, reason=found.reason)
    table = {
        "rse_grey_values": np.array([found.rse]),
        f"sigma_{unit}": np.array([found.sigma_px * scale]),
    }
    return Measurement("squirrel", found.rsp, "1", image.size, reason=found.reason, table=table)
