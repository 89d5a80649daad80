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
    assert ("begun from the model confocal-sted-beads" in made.card["trained_on"]) == (
        recipe == "nuclei_by_transfer"
    )
    assert "psnr_db" in made.card["figures"]
    assert list(tmp_path.glob("report*/report.html"))


def test_a_card_tells_what_a_model_falls_short_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipes = importlib.import_module("recipes")

    def limits(psnr_db: dict[str, float], **changes: object) -> list[str]:
        medians = {method: {"median": value} for method, value in psnr_db.items()}
        figures = {
            "psnr_db": medians,
            "spectrum": {"median": None, "largest": None},
            "spots": {"output": {"f1": None, "invented": None, "missed": None}},
            "resolved_nm": {"output": None, "target": None},
        }
        return list(recipes.measured_limits(figures | changes))

    good = {"lucy_richardson": 30.0, "output": 40.0, "target": 39.0}
    assert limits(good) == []
    (near,) = limits(good | {"lucy_richardson": 39.4})
    assert "only 0.6 dB above Richardson-Lucy" in near
    below, noisy = limits({"lucy_richardson": 41.5, "output": 40.0, "target": 52.0})
    assert "1.5 dB below Richardson-Lucy" in below
    assert "12.0 dB nearer" in noisy
    (far,) = limits(good, spectrum={"median": 0.25, "largest": 0.98})
    assert "up to 98 % of the truth's, by 25 % in the median" in far
    spots = {"output": {"f1": 0.98, "invented": 0.009, "missed": 0.027}}
    wrong, close = limits(good, spots=spots, resolved_nm={"output": 124.8, "target": 74.9})
    assert "0.9 % are invented, and it misses 2.7 %" in wrong
    assert "from 125 nm on" in close


def test_a_recipe_has_a_folder_for_each_seed_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    recipes = importlib.import_module("recipes")
    monkeypatch.setattr(recipes, "SMALL", recipes.Size(**TINY))
    pairs, _ = recipes.take(recipes.View("confocal-sted", "beads"), pairs=3, size_px=128, seed=0)

    def walk(out: Path, size: object, seed: int) -> dict[str, int]:
        return {"steps": recipes.train(pairs, size, seed, out / "run").training["steps"]}

    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["beads", "--small", *arguments])
        recipes.run(walk, None, "beads")

    run()
    run("--seed", "1001")
    folders = ["beads-small-1000", "beads-small-1001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
    assert json.loads(Path(folders[1], "figures.json").read_text()) == {"steps": TINY["steps"]}
    run()  # goes on with what is there
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(folders[0], "--seed", "1001")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was made with another seed" in line


def test_real_images_that_are_absent_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    recipes = importlib.import_module("recipes")
    (tmp_path / "data" / "there").mkdir(parents=True)
    monkeypatch.setattr(recipes, "DATA", tmp_path / "data")
    monkeypatch.setattr("sys.argv", ["real", "--minutes", "0.5", "--seed", "3"])

    def walk(out: Path, minutes: float, **plan: object) -> dict[str, object]:
        return {"out": out.name, "minutes": minutes} | plan

    recipes.run_on_real(walk, None, "real", needs=("there", "elsewhere"))
    assert capsys.readouterr().out.endswith("data: elsewhere\n")
    assert not Path("real-3").exists()
    recipes.run_on_real(walk, None, "real", needs=("there",))
    figures = json.loads(Path("real-3", "figures.json").read_text())
    assert figures == {"out": "real-3", "minutes": 0.5, "seed": 3}


def test_both_starts_are_compared_by_both_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipes = importlib.import_module("recipes")
    (learnt, judged), _ = recipes.take(
        recipes.View("tirf-sim", "filaments"), pairs=2, size_px=256, seed=0
    )
    found = recipes.compare_starts(
        learnt, judged, start="tirf-sim-filaments", minutes=0.006, seed=1, threads=1
    )
    assert list(found) == [
        f"from {start}, {minutes} min"
        for start in ("nothing", "tirf-sim-filaments")
        for minutes in (0.001, 0.006)
    ]
    for each in found.values():
        assert each["steps"] >= 1
        assert np.isfinite([each["psnr_db"]["output"], each["ssim"]["output"]]).all()


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
