"""One measure of an image whose truth is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from crosscope.data.errors import ImageError, InputError
from crosscope.data.images import Image
from crosscope.report.measuring import measure

NM = 30.0


def beads(seed: int = 0, *, fwhm_px: float = 4.0) -> Image:
    random = np.random.default_rng(seed)
    image = np.zeros((256, 256))
    y, x = np.stack(np.meshgrid(np.arange(20, 240, 24), np.arange(20, 240, 24))).reshape(2, -1)
    shift = np.random.default_rng(7).integers(-6, 7, (2, y.size))
    image[y + shift[0], x + shift[1]] = 1
    sigma = fwhm_px / 2.3548
    light = 10 + 500 * 2 * np.pi * sigma**2 * ndimage.gaussian_filter(image, sigma)
    return Image(random.poisson(light).astype(np.uint16), "yx", (NM, NM), name="beads")


def test_widths_are_those_of_the_beads() -> None:
    found = measure("psf", beads())
    assert found.value == pytest.approx(4 * NM, rel=0.03)
    assert found.unit == "nm"
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    assert found.n == len(next(iter(found.table.values())))


def test_lengths_are_in_px_where_no_size_is_known() -> None:
    image = beads()
    found = measure("psf", Image(image.pixels, "yx", None))
    assert found.unit == "px"
    assert found.value == pytest.approx(4, rel=0.03)
    again = measure("psf", Image(image.pixels, "yx", None), pixel_size_nm=(NM, NM))
    assert again.value == pytest.approx(measure("psf", image).value)


def test_two_images_of_one_field_agree_as_far_as_their_blur_lets_them() -> None:
    found = measure("frc", beads(0), beads(1))
    assert found.value is not None
    assert 60 < found.value < 200
    assert measure("frc", beads(0)).value == pytest.approx(found.value, rel=0.3)


def test_an_image_blurred_from_itself_explains_itself() -> None:
    sharp = beads().pixels.astype(np.float64)
    blurred = Image(ndimage.gaussian_filter(sharp, 3.0), "yx", (NM, NM))
    assert measure("squirrel", beads(), blurred).value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("what", ["decorrelation", "spectrum"])
def test_finer_images_have_finer_periods(what: str) -> None:
    fine, coarse = (measure(what, beads(fwhm_px=width)).value for width in (3.0, 8.0))
    assert fine is not None
    assert coarse is not None
    assert fine < coarse


@pytest.mark.parametrize("what", ["psf", "pairs", "frc", "decorrelation", "spectrum", "squirrel"])
def test_a_constant_image_has_no_figure_and_a_reason(what: str, tmp_path: Path) -> None:
    flat = Image(np.full((128, 128), 7, np.uint16), "yx", (NM, NM))
    found = measure(what, flat, flat if what == "squirrel" else None)
    assert found.value is None
    assert found.reason
    json.dumps(found.json, allow_nan=False)
    found.draw(tmp_path / "none.png")
    found.write_csv(tmp_path / "none.csv")


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="is no measure"):
        measure("beauty", beads())
    with pytest.raises(InputError, match="takes one image"):
        measure("psf", beads(), beads())
    with pytest.raises(InputError, match="takes two images"):
        measure("squirrel", beads())
    hole = beads().pixels.astype(np.float32)
    hole[3, 4] = np.nan
    with pytest.raises(ImageError, match="without a value"):
        measure("frc", Image(hole, "yx", (NM, NM)))
    with pytest.raises(ImageError, match="square"):
        measure("psf", Image(beads().pixels, "yx", (NM, 2 * NM)))
    with pytest.raises(ImageError, match="the first image of"):
        measure("frc", beads(), Image(beads(1).pixels, "yx", (2 * NM, 2 * NM)))


@pytest.mark.parametrize("what", ["psf", "pairs", "frc", "decorrelation", "spectrum"])
def test_tables_and_plots_are_written(what: str, tmp_path: Path) -> None:
    found = measure(what, beads())
    found.write_csv(tmp_path / "a.csv")
    header, *rows = (tmp_path / "a.csv").read_text().splitlines()
    assert header.split(",") == list(found.table)
    assert len(rows) == len(next(iter(found.table.values())))
    found.draw(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
