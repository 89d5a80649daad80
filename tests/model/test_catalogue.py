from pathlib import Path

import numpy as np
import pytest

import crosscope as cs
from crosscope.data.errors import ModelError
from crosscope.data.sampling import Scaling
from crosscope.model import catalogue
from crosscope.model.catalogue import SHIPPED, find_model, list_models
from crosscope.model.generator import build_generator
from crosscope.model.model import Model
from crosscope.model.reach import Reach

CARD = {"source": "confocal", "target": "STED", "sample": "beads", "limits": ["none known"]}
NAMES = (
    "confocal-sted-beads",
    "confocal-sted-nuclei",
    "tirf-sim-filaments",
    "tirf-sim-pits",
    "widefield-20x-dapi",
    "widefield-20x-fitc",
    "widefield-20x-txred",
)
LARGEST, LARGEST_SUM = 6e6, 45e6  # bytes


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one model in place of those that come with the program."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "SHIPPED", folder)
    Model(
        network="fast",
        base=2,
        generator=build_generator("fast", 2).eval(),
        twin=None,
        source_scaling=Scaling(0.0, 1.0),
        target_scaling=Scaling(0.0, 1.0),
        source_pixel_size_nm=(65.0, 65.0),
        target_pixel_size_nm=(32.5, 32.5),
        reach=Reach(96, 48, 32),
        card=CARD,
    ).save(folder / "mine.zip")
    return folder


def test_models_are_listed_with_what_users_ask_for(shelf: Path) -> None:
    (model,) = list_models()
    assert model["name"] == "mine"
    assert model["source"] == "confocal"
    assert model["pixel_size_nm"] == [65.0, 65.0]
    assert model["target_pixel_size_nm"] == [32.5, 32.5]
    assert model["parameters"] == Model.load("mine").parameters
    assert model["bytes"] == (shelf / "mine.zip").stat().st_size
    assert model["limits"] == ["none known"]


def test_a_model_is_found_by_its_name(shelf: Path) -> None:
    assert find_model("mine") == shelf / "mine.zip"
    assert find_model(Path("mine")) == shelf / "mine.zip"
    assert Model.load("mine").card == CARD


@pytest.mark.usefixtures("shelf")
def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_bytes(b"another")
    assert find_model("mine") == Path("mine")


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("name", ["yours", "../shipped/mine", "sub/mine"])
def test_what_is_neither_a_file_nor_a_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no model of that name"):
        find_model(name)


# --- those that come with the program -------------------------------------------------------------


def test_seven_models_come_with_the_program() -> None:
    assert [model["name"] for model in list_models()] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_comes_with_the_program_has_its_card_and_works(name: str) -> None:
    assert find_model(name).stat().st_size <= LARGEST
    model = cs.Model.load(name)
    assert {"source", "target", "sample", "trained_on", "figures", "limits", "recipe"} <= set(
        model.card
    )
    assert model.card["trained_on"].startswith(f"simulated pairs of {model.card['sample']}")
    assert len(model.card["limits"]) > 2
    image = cs.Image(np.full((64, 48), 100, np.uint16), "yx", model.source_pixel_size_nm)
    sharp = cs.predict(model, image)
    assert np.isfinite(sharp.pixels).all()
    assert sharp.pixel_size_nm == model.target_pixel_size_nm


def test_the_models_are_small_enough_to_come_with_the_program() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.zip")) <= LARGEST_SUM
