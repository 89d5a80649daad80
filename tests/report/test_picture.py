"""The picture: whole, for fields of any size and brightness."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from crosscope.data.errors import OutputError
from crosscope.report.picture import Panel, _densest, _draw_bar, draw_fields

RANDOM = np.random.default_rng(0)


def panel_of(height: int, width: int, *, scale: float = 1.0) -> Panel:
    titles = ("input", "output", "target")
    images = {title: scale * RANDOM.random((height, width)) for title in titles}
    return Panel("0000", images, 30.0)


def test_a_picture_has_two_rows_a_field_and_a_column_an_image(tmp_path: Path) -> None:
    draw_fields([panel_of(64, 64)], tmp_path / "one.png")
    draw_fields([panel_of(64, 64), panel_of(48, 70)], tmp_path / "two.png")
    one, two = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert one.shape[1] == two.shape[1] == 1056  # three columns of 3.2 inches at 110 dpi
    assert one.shape[0] == pytest.approx(110 * (2 * 3.2 + 0.4), abs=1)
    assert two.shape[0] == pytest.approx(110 * (3.2 * (3 + 48 / 70) + 2 * 0.4), abs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


@pytest.mark.parametrize(("height", "width"), [(5, 9), (16, 200)])
def test_small_fields_can_be_drawn(tmp_path: Path, height: int, width: int) -> None:
    draw_fields([panel_of(height, width)], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e9])
def test_constant_dim_and_bright_fields_can_be_drawn(tmp_path: Path, scale: float) -> None:
    draw_fields([panel_of(32, 32, scale=scale)], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").exists()


def test_an_existing_picture_is_kept(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_text("mine")
    with pytest.raises(OutputError):
        draw_fields([panel_of(32, 32)], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_text() == "mine"


def test_the_part_shown_larger_is_where_the_light_is() -> None:
    image = np.zeros((120, 180))
    image[70:80, 130:140] = 1
    top, left, side = _densest(Panel("a", {"target": image}, 30.0))
    assert side == 48
    assert top <= 70 < 80 <= top + side
    assert left <= 130 < 140 <= left + side


@given(st.integers(1, 5000), st.floats(1, 1e4))
def test_the_bar_is_round_and_between_a_tenth_and_a_third(width_px: int, size_nm: float) -> None:
    axis = Figure().add_subplot()
    _draw_bar(axis, (1, width_px), size_nm)
    number, unit = axis.texts[0].get_text().split()
    length_nm = float(number) * {"nm": 1, "µm": 1000}[unit]
    share = length_nm / (width_px * size_nm)
    assert 0.099 / 3 * 1.9 < share <= 1 / 3 * (1 + 1e-9)
    assert number.strip("0.")[0] in "125"
