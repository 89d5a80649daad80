"""Every recipe of the simulated systems, walked through on very little: that it works, no more."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

import crosscope as cs
from crosscope.metrics.spots import compare_spots
from crosscope.quality.points import draw_points

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = {"training": 3, "test": 1, "size_px": 128, "steps": 3, "threads": 1, "claims": False}


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("beads_confocal_to_sted", "confocal-sted-beads"),
        ("nuclei_by_transfer", "confocal-sted-nuclei"),
        ("widefield_three_channels", "widefield-20x-txred"),
        ("tirf_to_sim_time_lapse", "tirf-sim-filaments"),
    ],
)
def test_a_recipe_ends_in_figures_and_a_model_with_its_card(
    recipe: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    size = importlib.import_module("recipes").Size(**TINY)
    figures = importlib.import_module(recipe).walk(tmp_path, size, 1000)
    json.dumps(figures, allow_nan=False)
    made = cs.Model.load(tmp_path / f"{model}.zip")
    assert made.training["steps"] in (TINY["steps"], 1)
    assert made.card["recipe"] == f"{recipe}.py"
    assert "psnr_db" in made.card["figures"]
    assert list(tmp_path.glob("report*/report.html"))


def test_pits_are_shown_dim_fields_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipes = importlib.import_module("recipes")
    pits, size = recipes.View("tirf-sim", "pits"), recipes.Size(training=24, size_px=128)
    usual, _ = recipes.take(pits, pairs=2, size_px=128, seed=2000)
    dim = recipes.take_dim(pits, size, 1000)
    assert [pair.name for pair in dim] == ["pits-3000-0000", "pits-3000-0001"]
    brightest = [max(pair.target.pixels.max() for pair in pairs) for pairs in (usual, dim)]
    assert brightest[1] < 0.5 * brightest[0]
    assert recipes.take_dim(recipes.View("tirf-sim", "filaments"), size, 1000) == []


def test_close_pairs_are_told_by_where_the_pits_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipe = importlib.import_module("tirf_to_sim_time_lapse")
    lone, pair = [[30.0, 30.0], [30.0, 90.0], [90.0, 30.0]], [[90.0, 88.0], [90.0, 91.7]]

    def draw(places: list[list[float]]) -> np.ndarray:
        return draw_points(np.array(places), np.ones(len(places)), fwhm_px=3.0, size_px=120)

    two, one = draw(lone + pair), draw([*lone, [90.0, 89.8]])
    for pits, image, found in (
        (lone + pair, two, [("pits", True), ("maxima", True)]),
        (lone + pair, one, [("pits", False), ("maxima", False)]),
        ([*lone, [90.0, 89.8]], two, [("rings", True)]),  # one pit's labels
        ([*lone, [90.0, 88.0], [90.0, 94.0]], two, [("maxima", True)]),  # too far apart for pits
    ):
        compared = compare_spots(image, two, fwhm_px=3.0)
        assert list(recipe.judge_pairs(compared, np.array(pits), 32.5)) == found
