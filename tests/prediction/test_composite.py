"""The colour composite: each channel in its colour and contrast, and a bar of the right length."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from crosscope.data.images import Channel, Image
from crosscope.prediction.composite import Composite, bar_length, choose_colours, draw_composite

NAMES = tuple(map(Channel, ("DAPI", "FITC", "TxRed")))


def image_of(planes: np.ndarray, axes: str = "cyx", channels: tuple[Channel, ...] = NAMES) -> Image:
    return Image(planes.astype(np.float32), axes, (100.0, 100.0), channels=channels)


def picture_of(composite: Composite) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(composite.png)))


def stripes(side: int = 512) -> np.ndarray:
    """Three channels, each bright in a stripe of its own at the top, dark at 100."""
    planes = np.full((3, side, side), 100.0)
    for n in range(3):
        planes[n, : side // 2, (n + 1) * side // 8 : (n + 2) * side // 8] = 300.0 * (n + 1)
    return planes


def test_each_channel_has_the_colour_of_the_slides() -> None:
    composite = draw_composite(image_of(stripes()))
    picture = picture_of(composite)
    assert picture.shape == (512, 512, 3)
    seen = [picture[100, 64 * (n + 1) + 32].tolist() for n in range(3)]
    assert seen == [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert picture[100, 10].tolist() == [0, 0, 0]
    assert [(shown.low, shown.high) for shown in composite.channels] == [
        (100, 300 * (n + 1)) for n in range(3)
    ]


def test_colours_add_up_and_are_cut_off() -> None:
    planes = np.zeros((2, 512, 512))
    planes[:, :200] = 1
    channels = (Channel("a", "#ff8000"), Channel("b", "#ff0040"))
    picture = picture_of(draw_composite(image_of(planes, channels=channels)))
    assert picture[100, 100].tolist() == [255, 128, 64]


@pytest.mark.parametrize(
    ("channels", "colours"),
    [
        ([("DAPI", "#112233"), ("FITC", None)], ["#112233", "#00ff00"]),
        ([("dapi", "#ffffff"), ("TXRED", None)], ["#0000ff", "#ff00ff"]),
        ([("a", None), ("b", None), ("c", None)], ["#ff00ff", "#00ff00", "#0000ff"]),
        ([("a", "#ffffff"), ("b", "#ff00ff"), ("c", None)], ["#00ff00", "#ff00ff", "#0000ff"]),
        ([(str(n), None) for n in range(7)], [*"?" * 6, "#ffffff"]),
    ],
)
def test_colours_are_the_files_else_the_slides_else_free_ones(
    channels: list[tuple[str, str | None]], colours: list[str]
) -> None:
    chosen = choose_colours([Channel(name, colour) for name, colour in channels])
    for is_, should in zip(chosen, colours, strict=True):
        assert should in ("?", is_)
    assert len(set(chosen)) == len(chosen)


def test_of_a_stack_the_first_frame_and_the_brightest_in_z_are_shown() -> None:
    planes = stripes()
    stack = np.zeros((2, 3, 2, 512, 512))
    stack[0, :, 0], stack[0, :, 1], stack[1] = planes, planes - 50, 7e4
    shown = picture_of(draw_composite(image_of(stack, "tczyx")))
    assert np.array_equal(shown, picture_of(draw_composite(image_of(planes))))


@pytest.mark.parametrize("level", [0.0, 5.0, -3.0, 1e9])
def test_an_empty_channel_is_black(level: float) -> None:
    picture = picture_of(draw_composite(image_of(np.full((3, 512, 512), level))))
    assert not picture[:400].any()


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((40, 64), (320, 512)),
        ((3, 5), (306, 510)),
        ((600, 512), (600, 512)),
        ((9, 8195), (3, 2732)),
    ],
)
def test_small_images_are_enlarged_and_large_ones_thinned(
    shape: tuple[int, int], drawn: tuple[int, int]
) -> None:
    planes = np.random.default_rng(0).random((1, *shape))
    picture = picture_of(draw_composite(image_of(planes, channels=(Channel("a"),))))
    assert picture.shape == (*drawn, 3)


def test_the_bar_is_as_long_as_its_label_says() -> None:
    picture = picture_of(draw_composite(image_of(np.zeros((3, 512, 512)))))
    bar = (picture == 255).all(axis=2)[-16:]
    share, label = bar_length(512 * 100.0)
    assert label == "10 µm"
    assert bar.any(axis=0).sum() == pytest.approx(share * 512, abs=2)
    assert share * 512 * 100 == pytest.approx(10_000)
    assert (picture[-80:-20] > 0).any()  # the label


@given(st.floats(1, 5e7))
def test_a_bar_is_round_and_at_most_a_third(width_nm: float) -> None:
    share, label = bar_length(width_nm)
    number, unit = label.split()
    assert float(number) * {"nm": 1, "µm": 1000}[unit] == pytest.approx(share * width_nm, rel=1e-5)
    assert 0.099 / 3 * 1.9 < share <= 1 / 3 * (1 + 1e-9)
