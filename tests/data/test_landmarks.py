"""Points of a known map give it back, and tables that are none are refused by line."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscope.data.errors import PairError
from crosscope.data.landmarks import Landmarks, fit_landmarks, read_landmarks

HEADER = "source_y_px,source_x_px,target_y_px,target_x_px"
ROWS = "1,2,3,4\n10,20,30,50\n-1.5,2e1,7,0\n"


def similarity(scale: float, angle: float, mirrored: bool, shift: Any) -> npt.NDArray[Any]:
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]]) * ([1, -1] if mirrored else [1, 1])
    return np.column_stack([linear, shift])


def seen(
    matrix: npt.NDArray[Any], target: npt.NDArray[Any], errors_px: npt.NDArray[Any] | float = 0.0
) -> Landmarks:
    """Landmarks whose places in the target were clicked with errors."""
    source = target @ matrix[:, :2].T + matrix[:, 2]
    return Landmarks(source, target + errors_px)


@given(
    scale=st.floats(0.2, 5),
    angle=st.floats(-3.1, 3.1),
    mirrored=st.booleans(),
    shift=st.tuples(*[st.floats(-1000, 1000)] * 2),
    seed=st.integers(0, 10**6),
    count=st.integers(3, 12),
)
def test_a_similarity_comes_back_from_3_points_and_more(
    scale: float, angle: float, mirrored: bool, shift: Any, seed: int, count: int
) -> None:
    corners = np.array([[20.0, 30.0], [480.0, 100.0], [150.0, 450.0]])
    inside = np.random.default_rng(seed).uniform(0, 500, (count - 3, 2))
    truth = similarity(scale, angle, mirrored, shift)
    fit = fit_landmarks(seen(truth, np.concatenate([corners, inside])))
    np.testing.assert_allclose(fit.matrix, truth, rtol=1e-6, atol=1e-6)
    assert fit.residual_px is None or fit.residual_px < 1e-6


@given(seed=st.integers(0, 10**6), count=st.integers(5, 12))
def test_an_affine_map_comes_back_from_4_points_and_more(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    truth = np.column_stack([np.eye(2) + random.uniform(-0.3, 0.3, (2, 2)), [40.0, -70.0]])
    corners = np.array([[0.0, 0.0], [0.0, 500.0], [500.0, 0.0], [500.0, 500.0]])
    target = np.concatenate([corners, random.uniform(0, 500, (count - 4, 2))])
    np.testing.assert_allclose(fit_landmarks(seen(truth, target)).matrix, truth, atol=1e-8)


def left_out_px(landmarks: Landmarks) -> float:
    """The definition, at length: fit without each point, ask where in the target it should lie."""
    squares = []
    for i in range(len(landmarks.target_yx_px)):
        source = np.delete(landmarks.source_yx_px, i, axis=0)
        target = np.delete(landmarks.target_yx_px, i, axis=0)
        design = np.column_stack([target, np.ones(len(target))])
        matrix = np.linalg.lstsq(design, source, rcond=None)[0].T
        error = matrix @ [*landmarks.target_yx_px[i], 1] - landmarks.source_yx_px[i]
        whole = fit_landmarks(landmarks).matrix[:, :2]
        squares.append((np.linalg.solve(whole, error) ** 2).sum())
    return float(np.sqrt(np.mean(squares)))


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(4, 12))
def test_the_residual_is_that_of_leaving_one_out(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    corners = np.array([[0.0, 0.0], [0.0, 500.0], [500.0, 0.0], [500.0, 500.0]])
    target = np.concatenate([corners, random.uniform(0, 500, (count - 4, 2))])
    truth = similarity(2.0, 0.3, True, (5.0, -8.0))
    landmarks = seen(truth, target, random.normal(0, 1, target.shape))
    assert fit_landmarks(landmarks).residual_px == pytest.approx(left_out_px(landmarks))


def test_the_residual_is_in_target_pixels_and_about_the_error_of_a_click() -> None:
    random = np.random.default_rng(0)
    target = random.uniform(0, 500, (400, 2))
    errors_px = random.normal(0, 1.5, target.shape)
    fit = fit_landmarks(seen(similarity(4.0, 1.0, False, (9.0, 9.0)), target, errors_px))
    assert fit.residual_px == pytest.approx(1.5 * np.sqrt(2), rel=0.1)


def test_a_wrong_point_among_3_shows() -> None:
    target = np.array([[0.0, 0.0], [400.0, 0.0], [0.0, 300.0]])
    right = seen(similarity(0.5, 0.2, False, (3.0, 4.0)), target)
    assert fit_landmarks(right).residual_px == pytest.approx(0, abs=1e-9)
    wrong = Landmarks(right.source_yx_px + np.array([[0, 0], [0, 0], [0, 25.0]]), target)
    residual_px = fit_landmarks(wrong).residual_px
    assert residual_px is not None
    assert residual_px > 50


def test_where_one_point_alone_holds_the_map_there_is_no_residual() -> None:
    target = np.array([[0.0, 0.0], [0.0, 200.0], [0.0, 400.0], [300.0, 100.0]])
    fit = fit_landmarks(seen(np.eye(2, 3), target))
    np.testing.assert_allclose(fit.matrix, np.eye(2, 3), atol=1e-9)
    assert fit.residual_px is None


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ([[0, 0], [1, 1]], [[0, 0], [1, 1]], "2 points"),
        ([[0, 0], [9, 1], [3, 7]], [[5, 5]] * 3, "target lie at one place"),
        ([[5, 5], [5, 5], [3, 7]], [[0, 0], [9, 1], [3, 7]], "source lie on one line"),
        ([[0, 0], [9, 1], [3, 7]], [[0, 0], [50, 50], [100, 101]], "target lie on one line"),
    ],
)
def test_points_without_extent_are_refused(source: Any, target: Any, said: str) -> None:
    points = Landmarks(np.array(source, float), np.array(target, float), "points.csv")
    with pytest.raises(PairError, match=said) as caught:
        fit_landmarks(points)
    assert caught.value.where == "points.csv"
    assert caught.value.remedy


# --- tables ---------------------------------------------------------------------------------------


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "points.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_with_header_is_read(
    tmp_path: Path, separator: str, encoding: str, end: str
) -> None:
    text = f"{HEADER}\n\n{ROWS}".replace(",", separator).replace("\n", end)
    found = read_landmarks(table(tmp_path, text, encoding))
    assert list(found) == [None]
    assert found[None].source_yx_px.tolist() == [[1, 2], [10, 20], [-1.5, 20]]
    assert found[None].target_yx_px.tolist() == [[3, 4], [30, 50], [7, 0]]
    assert found[None].name == "points.csv"


def test_columns_may_stand_in_any_order_and_say_the_pair(tmp_path: Path) -> None:
    text = "note,pair,target_x_px,target_y_px,Source_X_px, source_y_px \n"
    for pair in ("b", "a", ""):
        text += f"x,{pair},4,3,2,1\n,{pair},5,3,2,1\n,{pair},4,9,2,1\n"
    found = read_landmarks(table(tmp_path, text))
    assert list(found) == ["b", "a", None]
    assert found["a"].source_yx_px[0].tolist() == [1, 2]
    assert found["a"].target_yx_px[0].tolist() == [3, 4]
    assert found["a"].name == "points.csv, pair a"


def test_decimal_commas_of_a_table_with_semicolons(tmp_path: Path) -> None:
    text = HEADER.replace(",", ";") + "\n" + "1,5;2;3;4,25\n" * 3
    found = read_landmarks(table(tmp_path, text))[None]
    assert found.source_yx_px[0].tolist() == [1.5, 2]
    assert found.target_yx_px[0].tolist() == [3, 4.25]


def test_what_bigwarp_exports_is_read_x_before_y(tmp_path: Path) -> None:
    text = (
        '"Pt-0","true","10.5","20.5","30.5","40.5"\n"Pt-1","false","Infinity","1","2","3"\n'
        '"Pt-2","true","1.0","2.0","3.0","4.0"\n"Pt-3","true","5.0","6.0","7.0","8.0"\n'
    )
    found = read_landmarks(table(tmp_path, text))[None]
    assert found.source_yx_px.tolist() == [[20.5, 10.5], [2, 1], [6, 5]]
    assert found.target_yx_px.tolist() == [[40.5, 30.5], [4, 3], [8, 7]]


BIGWARP = '"Pt-0","true","1","2","3","4"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\ufeff\n \n", "is empty"),
        (HEADER, "has no points"),
        (f"{HEADER}\n1,2,3,4\n5,6,7,8\n", "has 2 points"),
        (f"{HEADER},pair\n1,2,3,4,a\n1,2,3,4,a\n1,2,3,4,a\n1,2,3,4,b\n", "1 points for the pair b"),
        (f"{HEADER}\n1,2,3,4\n1,2,3\n", "line 3 has 3 cells"),
        (f"{HEADER}\n1,2,3,4\n\n1,two,3,4\n", r"line 4: 'two' is not a number .*source_x_px"),
        (f"{HEADER}\n1,2,nan,4\n", r"line 2: 'nan' .*target_y_px"),
        (f"{HEADER}\n1,2,3,-inf\n", "line 2: '-inf'"),
        (f"{HEADER}\n1,2,,4\n", "line 2: ''"),
        ("source_y_px,source_x_px,target_y_px\n1,2,3\n", "line 1: .*no column target_x_px"),
        ("1,2,3,4\n5,6,7,8\n", "line 1: .*no column source_y_px, source_x_px"),
        (f'{HEADER}\n1,"2"x,3,4\n', "line 2 is not CSV"),
        (f'{HEADER}\n1,"2,3,4\n', "is not CSV"),
        (f"{BIGWARP}{BIGWARP}", "has 2 points"),
        (f'{BIGWARP}"Pt-1","true","1","2"\n', "line 2 has 4 cells"),
        ('"Pt-0","true","1","2","3","4","5","6"\n', "line 1 has 8 cells"),
        ('"Pt-0","true","1","2","Infinity","4"\n', r"line 1: 'Infinity' .*fixed x"),
        ('"Pt-0","false","1","2","3","4"\n', "has no points"),
    ],
)
def test_what_is_no_table_of_points_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(PairError, match=said) as caught:
        read_landmarks(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="does not exist"):
        read_landmarks(tmp_path / "none.csv")
    with pytest.raises(PairError, match="cannot be read"):
        read_landmarks(tmp_path)
    with pytest.raises(PairError, match="not text in UTF-8"):
        read_landmarks(table(tmp_path, HEADER, "utf-16"))


@given(junk=st.binary(max_size=200))
def test_junk_is_read_or_refused(junk: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("junk") / "points.csv"
    path.write_bytes(junk)
    with pytest.raises(PairError):
        read_landmarks(path)
