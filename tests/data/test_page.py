"""The page shows what pairs.json says, in colours that mean something, and asks for nothing."""

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from crosscope.data.errors import OutputError
from crosscope.data.page import (
    BLOCKS_A_SIDE,
    COLOURS,
    OVERLAY_BYTES,
    Row,
    _local,
    draw_overlay,
    thin,
    write_page,
)

Array = npt.NDArray[Any]

# --- overlays -------------------------------------------------------------------------------------


def colours(jpeg: bytes) -> Array:
    picture = Pillow.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG"
    return np.asarray(picture.convert("RGB")).astype(int)


def squares(shape: tuple[int, int] = (96, 96)) -> tuple[Array, Array]:
    """Return a source and a target: source alone upper left, both in the middle, target below."""
    source, target = np.full(shape, 100, np.uint16), np.full(shape, 900, np.uint16)
    source[8:32, 8:32] = source[40:56, 40:56] = 4100
    target[64:88, 64:88] = target[40:56, 40:56] = 950
    return source, target


def test_source_is_magenta_target_green_and_both_white() -> None:
    rgb = colours(draw_overlay(*squares()))
    for yx, colour in (
        ((20, 20), (255, 0, 255)),
        ((76, 76), (0, 255, 0)),
        ((48, 48), (255, 255, 255)),
        ((20, 76), (0, 0, 0)),
    ):
        np.testing.assert_allclose(rgb[yx], colour, atol=12)


def test_the_picture_does_not_depend_on_gain_and_offset() -> None:
    source, target = (plane.astype(np.float64) for plane in squares())
    same = draw_overlay(7.5 * source - 3000, 1e-3 * target + 5)
    assert np.abs(colours(same) - colours(draw_overlay(source, target))).max() <= 6


def test_thinning_drops_no_pixel() -> None:
    comb = np.zeros((200, 500))
    comb[:, 252::5] = 1000.0
    rgb = colours(draw_overlay(comb, np.zeros_like(comb), side_px=100))
    assert rgb.shape == (40, 100, 3)
    assert rgb[5:-5, 55:95, 0].min() > 240
    assert rgb[5:-5, 5:45].max() < 15


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_thinning_averages_over_areas(height: int, width: int, side_px: int) -> None:
    grey = np.random.default_rng(0).random((height, width))
    small = thin(grey, side_px)
    (v, u) = small.shape
    assert max(v, u) <= side_px or max(height, width) <= side_px
    fine = np.kron(grey, np.ones((v, u)))  # whole pixels now lie in every area
    truth = fine.reshape(v, height, u, width).mean(axis=(1, 3))
    np.testing.assert_allclose(small, truth, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((1, 1), (1, 1)), ((7, 1000), (3, 360)), ((720, 361), (360, 180)), ((90, 30), (90, 30))],
)
def test_an_overlay_keeps_its_proportions(shape: tuple[int, int], drawn: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random(shape)
    assert colours(draw_overlay(pixels, pixels)).shape == (*drawn, 3)


@given(
    st.sampled_from([0.0, -5.0, 65535.0, 1e-30, 1e30, np.nan, np.inf]),
    st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64]),
)
def test_a_constant_image_is_black(value: float, dtype: type) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        flat: Array = np.full((50, 400), value).astype(dtype)
    assert colours(draw_overlay(flat, flat)).max() < 10


def test_a_single_bright_pixel_is_seen_and_what_is_not_finite_is_background() -> None:
    source, target = np.zeros((64, 64)), np.zeros((64, 64))
    source[32, 32], source[:8] = 50.0, np.nan
    rgb = colours(draw_overlay(source, target))
    assert rgb[32, 32, 0] > 150
    assert rgb[:8].max() < 20


def test_an_overlay_of_noise_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (2, 800, 800)).astype(np.uint16)
    assert len(draw_overlay(noise[0], noise[1])) <= OVERLAY_BYTES


# --- the page -------------------------------------------------------------------------------------

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Elements in order, the text, and a complaint where a tag is not closed or not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def record(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    local = {
        "block_px": 64,
        "residual_px": [[0.01, 0.07, None], [0.17, 0.31, 0.55]],
        "arrow_yx_px": [[[0.0, 0.0], None, None], [[-0.1, 0.02], [0.3, -0.123], [0.2, 0.5]]],
    }
    return {
        "name": "cell 7",
        "accepted": True,
        "reason": None,
        "residual_px": 0.0432,
        "residual_error_px": 0.0081,
        "residual_nm": 14.04,
        "shift_px": [-3.258, 12.34],
        "rotation_deg": -0.2104,
        "scale": 1.00213,
        "mirrored": False,
        "elastic_px": 0.417,
        "correlation_before": 0.3118,
        "correlation_after": 0.8714,
        "source_sha256": rng.bytes(32).hex(),
        "target_sha256": rng.bytes(32).hex(),
        "limit_px": 0.25,
        "shape_px": [120, 190],
        "assumed": [],
        "local": local,
    } | changes


OVERLAY = draw_overlay(*squares())


def page_of(folder: Path, *records: dict[str, Any], overlay: bytes | None = OVERLAY) -> Page:
    path = folder / "registration.html"
    write_page([Row(r, overlay, overlay) for r in records], path, max_residual_px=0.2)
    return Page(path.read_text(encoding="utf-8"))


def test_the_numbers_are_those_of_the_record(tmp_path: Path) -> None:
    page = page_of(tmp_path, record())
    for text in (
        "1 of 1 pairs accepted. Median residual 0.043 px, worst 0.043 px; the limit is 0.25 px.",
        "0.043 ± 0.008 px = 14.0 nm, limit 0.25 px",
        "0.312 before, 0.871 after",
        "y −3.26 px, x +12.3 px",
        "−0.210°",
        "1.0021",
        "0.42 px",
        "120 × 190 px (y × x)",
        "0.170 px median, 0.550 px worst; 2 of 5 blocks of 64 px above the limit, 1 not measured",
        record()["source_sha256"],
        record()["target_sha256"],
    ):
        assert text in " ".join(page.text.split()), text
    cells = [cell["data-value"] for cell in page.all("td")]
    assert cells == ["cell 7", "accepted", "0.0432", "14.04", "0.25", "0.3118", "0.8714"]


def test_median_and_worst_are_of_the_accepted(tmp_path: Path) -> None:
    residuals = [0.05, 0.11, 0.16, None]
    pairs = [record(residual_px=residual) for residual in residuals]
    pairs += [record(residual_px=3.2, accepted=False, reason="is far off")]
    text = " ".join(page_of(tmp_path, *pairs).text.split())
    assert "4 of 5 pairs accepted. Median residual 0.110 px, worst 0.160 px, of the 3" in text


def test_a_refused_pair_says_why(tmp_path: Path) -> None:
    reason = "source & target show different things (correlation 0.02 < 0.1)"
    refused = {"name": "b", "accepted": False, "reason": reason}
    page = page_of(tmp_path, record(), refused, overlay=None)
    assert f"Refused: {reason}" in page.text
    assert "No overlay could be drawn" in page.text
    assert not page.all("img")


@pytest.mark.parametrize("kept", [(), ("local",), ("local", "shape_px", "limit_px")])
def test_nulls_are_not_measured(tmp_path: Path, kept: tuple[str, ...]) -> None:
    keep = {"name", "accepted", *kept}
    empty = {key: value if key in keep else None for key, value in record().items()}
    page = page_of(tmp_path, empty)
    assert "not measured, limit" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text.lower()


def test_a_map_without_measurements_is_drawn_blank(tmp_path: Path) -> None:
    local = {"block_px": 64, "residual_px": [[None] * 3] * 2, "arrow_yx_px": [[None] * 3] * 2}
    page = page_of(tmp_path, record(local=local))
    assert "none of 6 blocks of 64 px was measured" in page.text
    assert not [path for path in page.all("path") if path.get("fill")]


def test_an_empty_page_is_a_page(tmp_path: Path) -> None:
    assert "No pairs." in page_of(tmp_path).text


def test_names_cannot_do_anything(tmp_path: Path) -> None:
    name = """<script>alert("1")</script> "' onload='x' </bdi>&amp; {{ 7 * 6 }} \udce9"""
    page = page_of(tmp_path, record(name=name, reason=name, assumed=[name], accepted=False))
    shown = name.replace("\udce9", "?")
    assert page.text.count(shown) == 4  # table, heading, reason, assumption
    assert page.html.count("<script") == 1
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert page.all("img")[0]["alt"].startswith(shown)


def test_nothing_is_asked_from_outside(tmp_path: Path) -> None:
    page = page_of(tmp_path, record(), record(name="b"))
    policy = next(meta for meta in page.all("meta") if "http-equiv" in meta)["content"]
    for part in ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"):
        assert part in policy
    bare = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", page.html)
    assert not re.search(r"https?:|//|@import|url\(", bare)
    assert not page.all("link")
    for tag, attributes in page.elements:
        links = [attributes[key] for key in ("src", "href") if key in attributes]
        allowed = "data:image/jpeg;base64," if tag == "img" else "#"
        assert all(link.startswith(allowed) for link in links)


def test_overlays_arrive_unchanged_and_are_described(tmp_path: Path) -> None:
    images = page_of(tmp_path, record()).all("img")
    assert len(images) == 2
    for image, when in zip(images, ("before", "after"), strict=True):
        assert base64.b64decode(image["src"].split(",")[1]) == OVERLAY
        assert image["alt"].startswith(f"cell 7 {when} registration")


def test_headings_are_in_order_links_lead_somewhere_and_ids_are_unique(tmp_path: Path) -> None:
    page = page_of(tmp_path, record(), record(), record(local=None))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels == [1, 2, 2, 3, 3, 3]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.all("html")[0]["lang"] == "en"
    named = ("href", "aria-labelledby")
    values = [a[key] for _, a in page.elements for key in named if key in a]
    assert {value.removeprefix("#") for value in values} <= set(ids)
    assert len(page.all("button")) == len(page.all("th")) == 7


def test_the_map_has_a_colour_for_every_step_and_outlines_what_is_above(tmp_path: Path) -> None:
    page = page_of(tmp_path, record())
    filled = {path["fill"]: path["d"] for path in page.all("path") if "fill" in path}
    # 0.01, 0.07, 0.17, 0.31 and 0.55 of a limit of 0.25
    assert filled == {
        COLOURS[0]: "M0 0h1v1h-1z",
        COLOURS[1]: "M1 0h1v1h-1z",
        COLOURS[2]: "M0 1h1v1h-1z",
        COLOURS[4]: "M1 1h1v1h-1z",
        COLOURS[5]: "M2 1h1v1h-1z",
    }
    above = next(p for p in page.all("path") if p.get("id") == "above-1")
    assert above["d"] == "M1 1h1v1h-1zM2 1h1v1h-1z"


def arrows_of(page: Page) -> list[list[float]]:
    """Return x, y, dx, dy of each arrow in the drawing's units."""
    path = next(p for p in page.all("path") if p.get("id") == "arrows-1")["d"]
    number = r"(-?\d*\.?\d+) ?"
    return [[float(v) for v in a] for a in re.findall(f"M{number}{number}l{number}{number}", path)]


def test_arrows_are_the_displacements_magnified_as_said(tmp_path: Path) -> None:
    page = page_of(tmp_path, record())
    magnified = float(re.findall(r"arrows ×([\d.]+)", page.text)[0])
    per_px = 360 / 190
    truth = {(0, 0): (0.0, 0.0), (1, 0): (-0.1, 0.02), (1, 1): (0.3, -0.123), (1, 2): (0.2, 0.5)}
    drawn = arrows_of(page)
    assert len(drawn) == len(truth)
    for (x, y, *by), ((i, j), (dy, dx)) in zip(drawn, truth.items(), strict=True):
        middle = (j * 64 + min(190, j * 64 + 64)) / 2, (i * 64 + min(120, i * 64 + 64)) / 2
        np.testing.assert_allclose((x, y), np.multiply(middle, per_px), atol=0.51)
        np.testing.assert_allclose(by, np.multiply((dx, dy), magnified * per_px), atol=0.051)


@given(st.floats(1e-4, 1e3), st.floats(0, 1e4), st.integers(1, 4000))
def test_the_limit_is_a_length_one_sees(limit: float, largest: float, block: int) -> None:
    local = {"block_px": block, "residual_px": [[0.1] * 4] * 4}
    local |= {"arrow_yx_px": [[[0.0, largest]] * 4] * 4}
    drawn = _local({"local": local}, limit)
    assert drawn is not None
    assert 30 / 4 / 2.5 - 0.01 <= drawn.key_units <= 30 + 0.01
    assert float(drawn.magnified) == pytest.approx(drawn.key_units / limit / (90 / block), rel=0.01)


def test_of_many_blocks_the_worst_are_drawn(tmp_path: Path) -> None:
    n = 2 * BLOCKS_A_SIDE
    residuals: list[list[float | None]] = [[0.01] * n for _ in range(n)]
    residuals[3][8], residuals[3][9] = 0.9, None
    arrows = [[[0.01, 0.0]] * n for _ in range(n)]
    arrows[3][8] = [0.0, 0.8]
    local = {"block_px": 10, "residual_px": residuals, "arrow_yx_px": arrows}
    page = page_of(tmp_path, record(local=local, shape_px=[10 * n, 10 * n]))
    assert "worst of 2 × 2 blocks each" in page.text
    assert f"0.900 px worst; 1 of {n * n - 1} blocks of 10 px above the limit" in page.text
    figures = next(div for div in page.all("div") if "data-values" in div)
    assert (figures["data-block"], figures["data-columns"]) == ("20", str(BLOCKS_A_SIDE))
    values = unescape(figures["data-values"])
    assert values.count("[900,0,800]") == 1
    assert next(p for p in page.all("path") if p.get("id") == "above-1")["d"] == "M4 1h1v1h-1z"


def test_a_hundred_pairs_of_the_heaviest_kind_stay_under_8_mb(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = BLOCKS_A_SIDE
    local = {
        "block_px": 120,
        "residual_px": rng.uniform(0, 0.5, (n, n)).tolist(),
        "arrow_yx_px": rng.normal(0, 0.3, (n, n, 2)).tolist(),
    }
    overlay = bytes(OVERLAY_BYTES)
    heavy = [record(name=f"cell {i}", local=local, shape_px=[1920, 1920]) for i in range(100)]
    rows = [Row(pair, overlay, overlay) for pair in heavy]
    write_page(rows, tmp_path / "registration.html", max_residual_px=0.2)
    assert (tmp_path / "registration.html").stat().st_size < 8e6


def test_the_page_is_there_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "registration.html"
    with pytest.raises(KeyError):
        write_page([Row({"accepted": True}, None, None)], path, max_residual_px=0.2)
    assert not list(tmp_path.iterdir())
    page_of(tmp_path, record())
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="exists already"):
        page_of(tmp_path)
    assert "cell 7" in path.read_text(encoding="utf-8")


def test_the_page_tells_the_limits_that_held(tmp_path: Path) -> None:
    records = [{"name": n, "accepted": True, "limit_px": px} for n, px in (("a", 0.25), ("b", 0.4))]
    write_page([Row(r, None, None) for r in records], tmp_path / "p.html", max_residual_px=0.2)
    assert "the limit is 0.25 to 0.4 px" in (tmp_path / "p.html").read_text()


def test_limits_are_rounded_and_a_pair_that_met_none_is_left_out_of_them(tmp_path: Path) -> None:
    refused = {"name": "b", "accepted": False, "reason": "is another field", "limit_px": None}
    text = " ".join(page_of(tmp_path, record(limit_px=0.3169), refused).text.split())
    assert "the limit is 0.317 px." in text
    assert "14.0 nm, limit 0.317 px" in text
    assert "not measured, limit 0.2 px" in text


def test_a_pair_that_needed_no_bend_is_not_said_to_be_unmeasured(tmp_path: Path) -> None:
    text = " ".join(page_of(tmp_path, record(elastic_px=None)).text.split())
    assert "Largest elastic displacementnone" in text
    assert "Not measured" not in text
