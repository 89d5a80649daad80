"""Figures of an evaluation, with a model that gives its input back: they are known beforehand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from crosscope.data.errors import PairError
from crosscope.data.images import Image, write_image
from crosscope.data.registered import RegisteredPair, Transform, take_part
from crosscope.data.sampling import Scaling
from crosscope.model.engine import Engine
from crosscope.model.generator import build_generator
from crosscope.model.model import Model, SeenField
from crosscope.model.reach import Reach
from crosscope.report.evaluation import (
    VIEW_PX,
    Report,
    _learning_curve,
    _training,
    evaluate,
    read_truth,
)
from crosscope.report.figures import FIGURES
from crosscope.report.structures import _width

ENGINE = Engine(1, "float32")
SIZE_PX, NM = 160, 30.0
TARGET_PX, SOURCE_PX = 3.7, 9.0  # full widths at half maximum


def spots(seed: int) -> np.ndarray:
    """Return 36 spots of unit height and width 1 px, at least 16 px apart."""
    random = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(14, 150, 26)] * 2), axis=-1).reshape(-1, 2)
    image = np.zeros((SIZE_PX, SIZE_PX))
    y, x = (places + random.integers(-4, 5, places.shape)).T
    image[y, x] = random.uniform(0.8, 1.2, len(y))
    return image


def blurred(image: np.ndarray, fwhm_px: float, peak: float) -> np.ndarray:
    sigma = fwhm_px / 2.3548
    return gaussian_filter(image, sigma) * 2 * np.pi * sigma**2 * peak


def pair_of(name: str, source: np.ndarray, target: np.ndarray, nm: float = NM) -> RegisteredPair:
    images = (Image(p.astype(np.float32), "yx", (nm, nm), name=name) for p in (source, target))
    first, second = images
    return RegisteredPair(
        name, first, second, Transform(np.eye(2, 3)), (0, 0), (nm, nm), 0.1, 0.5, 0.6, f"sha {name}"
    )


def field(seed: int) -> tuple[RegisteredPair, Image]:
    """Return a pair with noise, and its truth."""
    random, sample = np.random.default_rng(seed), spots(seed)
    truth = 20 + blurred(sample, TARGET_PX, 200)
    source = 100 + blurred(sample, SOURCE_PX, 400) + random.normal(0, 2, truth.shape)
    pair = pair_of(f"f{seed}", source, truth + random.normal(0, 2, truth.shape))
    return pair, Image(truth.astype(np.float32), "yx", (NM, NM))


def copier(*, twin: bool = True) -> Model:
    network = build_generator("fast", 2).eval()
    return Model(
        network="fast",
        base=2,
        generator=network,
        twin=network if twin else None,
        source_scaling=Scaling(0.0, 1.0),
        target_scaling=Scaling(0.0, 1.0),
        source_pixel_size_nm=(NM, NM),
        target_pixel_size_nm=(NM, NM),
        reach=Reach(exact_px=64, halo_px=8, rounded_px=8),
        fields=(SeenField("f1", "training", "sha f1", None),),
    )


FIELDS = {f"f{seed}": field(seed) for seed in (0, 1)}
PAIRS = [pair for pair, _ in FIELDS.values()]
TRUTH = {name: truth for name, (_, truth) in FIELDS.items()}


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate(copier(), PAIRS, truth=TRUTH, engine=ENGINE)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return every number of a report by its path."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return {path: value}
    return {name: leaf for key, v in parts for name, leaf in leaves(v, f"{path}/{key}").items()}


def require_reasons(value: Any) -> None:
    """Assert that what is null has a reason beside it (or, a number a method, in a twin dict)."""
    if isinstance(value, list):
        for part in value:
            require_reasons(part)
    if isinstance(value, dict):
        missing = [key for key, part in value.items() if part is None and key not in UNASKED]
        assert not missing or value.get("reason"), value
        for key, part in value.items():
            if key not in UNASKED:
                require_reasons(part)


# what has its reason in a key of its own; a field that was not seen
UNASKED = {
    *("resolved_nm", "resolved_reason", "learning_curve", "learning_curve_reason", "seen"),
    *("dial", "dial_reason", "trust", "trust_reason", "certificate", "certificate_reason"),
    *("peak_distance_nm", "correlation", *FIGURES),
}


def require_reasons_of_fields(report: Report) -> None:
    """Assert that each figure that a field lacks has its reason."""
    for entry in report.fields:
        for part in (entry, entry.get("sample", {}), entry.get("background", {})):
            for figure in FIGURES:
                for method, value in part.get(figure, {}).items():
                    assert value is not None or part["reasons"][figure][method], (figure, method)


def test_widths_are_those_of_the_blur(report: Report) -> None:
    widths = report.summary["fwhm_nm"]
    for method, fwhm_px in {"target": TARGET_PX, "input": SOURCE_PX, "output": SOURCE_PX}.items():
        # a delta is a pixel wide: its variance adds to the Gaussian's
        assert widths[method]["median"] == pytest.approx(NM * fwhm_px, rel=0.03)
        assert widths[method]["low"] <= widths[method]["median"] <= widths[method]["high"]
        assert widths[method]["n"] > 20
    assert widths["lucy_richardson"]["median"] < 0.8 * widths["input"]["median"]
    assert report.summary["kernel_fwhm_nm"] == pytest.approx(
        NM * np.sqrt(SOURCE_PX**2 - TARGET_PX**2), rel=0.03
    )


def test_a_model_that_copies_has_the_inputs_figures(report: Report) -> None:
    for figure in ("psnr_db", "ssim", "spots"):
        summary = report.summary[figure]
        for name, value in summary["input"].items():
            assert summary["output"][name] == pytest.approx(value, rel=1e-4)
            assert summary["twin"][name] == summary["output"][name]
    # a broad image's spots are fitted in wider windows, which changes a width a little
    widths = report.summary["fwhm_nm"]
    assert widths["output"]["median"] == pytest.approx(widths["input"]["median"], rel=0.01)


def test_the_targets_psnr_is_its_noise(report: Report) -> None:
    for entry in report.fields:
        noise_db = 20 * np.log10(entry["data_range"] / 2)
        assert entry["psnr_db"]["target"] == pytest.approx(noise_db, abs=0.2)
        assert entry["psnr_db"]["lucy_richardson"] > entry["psnr_db"]["input"]
        # without the fit the other modality's grey values are far off
        assert entry["psnr_plain_db"]["output"] < entry["psnr_db"]["output"] - 5


def test_isolated_spots_are_all_found_in_the_target(report: Report) -> None:
    score = report.summary["spots"]["target"]
    assert (score["f1"], score["missed"], score["invented"]) == (1, 0, 0)
    assert score["n_reference"] == 72


def test_seen_fields_are_marked(report: Report) -> None:
    assert [entry["seen"] for entry in report.fields] == [None, "training"]


def test_what_could_not_be_measured_has_a_reason(report: Report) -> None:
    require_reasons(report.json)
    require_reasons_of_fields(report)
    for method, value in report.summary["resolved_nm"].items():
        assert (value is None) == bool(report.summary["resolved_reason"][method])


def test_a_report_is_saved_whole_and_holds_no_nan(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "picture.png",
        "report.html",
        "report.json",
    ]
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report.json
    assert not [
        name
        for name, leaf in leaves(report.json).items()
        if isinstance(leaf, float) and not np.isfinite(leaf)
    ]


def test_one_pair_has_figures_without_intervals() -> None:
    told: list[float] = []
    report = evaluate(copier(twin=False), PAIRS[:1], engine=ENGINE, watch=told.append)
    summary = report.summary
    assert summary["reference"] == "target"
    assert summary["ssim"]["target"]["median"] == pytest.approx(1)
    assert summary["psnr_db"]["target"]["median"] is None
    assert summary["psnr_db"]["input"]["low"] is None
    assert "twin" not in summary["psnr_db"]
    require_reasons(report.json)
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_constant_truth_leaves_nothing_to_measure_and_says_so() -> None:
    empty = {
        name: image.with_pixels(np.full_like(image.pixels, 7)) for name, image in TRUTH.items()
    }
    report = evaluate(copier(), PAIRS, truth=empty, engine=ENGINE)
    for figure in ("psnr_db", "ssim", "fwhm_nm"):
        assert report.summary[figure]["output"]["median"] is None
        assert report.summary[figure]["output"]["reason"]
    require_reasons(report.json)
    json.dumps(report.json, allow_nan=False)


def test_a_sample_without_spots_has_no_widths_and_says_so() -> None:
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] / 25
    broad = 200 + 100 * np.sin(y) * np.cos(x)
    pair = pair_of("broad", broad, 2 * broad)
    summary = evaluate(copier(), [pair], engine=ENGINE).summary
    assert summary["ssim"]["output"]["median"] > 0.95
    for method in ("input", "output", "target"):
        assert summary["fwhm_nm"][method]["median"] is None
        assert "isolated spots" in summary["fwhm_nm"][method]["reason"]
        assert summary["spots"][method]["f1"] is None
        assert summary["resolved_nm"][method] is None
    require_reasons(summary)


def test_what_does_not_fit_is_refused() -> None:
    other = pair_of("other", PAIRS[0].source.pixels, PAIRS[0].target.pixels, nm=40.0)
    with pytest.raises(PairError, match="model was made for"):
        evaluate(copier(), [other], engine=ENGINE)
    with pytest.raises(PairError, match="no truth of its name"):
        evaluate(copier(), PAIRS, truth={"f0": TRUTH["f0"]}, engine=ENGINE)
    with pytest.raises(PairError, match="none to evaluate"):
        evaluate(copier(), [], engine=ENGINE)


def test_truth_is_read_by_the_names_of_the_pairs(tmp_path: Path) -> None:
    for name, image in TRUTH.items():
        write_image(image, tmp_path / f"{name}.ome.tif")
    assert list(read_truth(tmp_path)) == ["f0", "f1"]


def test_a_field_with_a_hole_is_listed_and_left_out() -> None:
    pair = PAIRS[0]
    pixels = pair.target.pixels.copy()
    pixels[5, 5] = np.nan
    holed = replace(pair, name="holed", target=pair.target.with_pixels(pixels))
    report = evaluate(copier(), [holed, *PAIRS], engine=ENGINE)
    assert "without a value" in report.fields[0]["reason"]
    assert report.summary["ssim"]["output"]["n"] == 2
    require_reasons(report.json)
    json.dumps(report.json, allow_nan=False)


def test_only_fields_with_holes_leave_a_report_without_figures(tmp_path: Path) -> None:
    pair = PAIRS[0]
    holed = replace(pair, source=pair.source.with_pixels(np.full_like(pair.source.pixels, np.nan)))
    report = evaluate(copier(), [holed], engine=ENGINE)
    assert report.summary["psnr_db"]["output"]["median"] is None
    require_reasons(report.json)
    report.save(tmp_path / "report")
    assert (tmp_path / "report" / "report.html").exists()


class Broken(nn.Module):
    """A network whose output has a hole."""

    stride = 2

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.where(image == image.max(), math.nan, image)


def test_what_a_network_leaves_without_a_value_is_listed_and_left_out() -> None:
    report = evaluate(replace(copier(), generator=Broken()), PAIRS, engine=ENGINE)
    assert all("network's output" in entry["reason"] for entry in report.fields)
    require_reasons(report.json)
    json.dumps(report.json, allow_nan=False)


def test_a_field_smaller_than_a_window_is_listed_and_left_out() -> None:
    tiny = replace(take_part(PAIRS[0], axis=0, start=0, stop=8), name="tiny")
    report = evaluate(copier(), [tiny, PAIRS[1]], engine=ENGINE)
    assert "smaller than 11 px" in report.fields[0]["reason"]
    assert report.summary["ssim"]["output"]["n"] == 1


def test_a_field_that_could_not_be_measured_has_no_rank() -> None:
    flat = pair_of("flat", np.full((160, 160), 9.0), np.full((160, 160), 5.0))
    report = evaluate(copier(), [flat, *PAIRS], engine=ENGINE)
    psnr = {entry["name"]: entry["psnr_db"]["output"] for entry in report.fields}
    assert psnr["flat"] is None
    ranks = {view.rank: view.name for view in report.views}
    assert set(ranks) == {"best", "worst"}
    assert psnr[ranks["best"]] > psnr[ranks["worst"]]


def test_a_view_keeps_no_more_than_it_shows() -> None:
    random = np.random.default_rng(1)
    wide = random.normal(100, 5, (32, VIEW_PX + 76))
    (view,) = evaluate(copier(), [pair_of("wide", wide, wide + 1)], engine=ENGINE).views
    for image in view.images.values():
        assert image.shape == (32, VIEW_PX)
        assert image.base is None


@pytest.mark.parametrize(("twin", "reason"), [(True, None), (False, "holds no step of a twin")])
def test_the_training_says_what_the_model_lacks(twin: bool, reason: str | None) -> None:
    line = {"step": 100, "phase": "warm", "validation": {"loss": 0.1, "psnr_db": 30.0}}
    model = replace(copier(twin=twin), log=(line,), training={"best_step": 100})
    training = evaluate(model, PAIRS[:1], engine=ENGINE).json["training"]
    assert training["twin_step"] == (100 if twin else None)
    assert (training.get("reason") or "").endswith(reason or "")


GOOD_LINE = {"step": 100, "phase": "warm", "validation": {"loss": 0.1, "psnr_db": 30.0}}


@pytest.mark.parametrize(
    "line",
    [
        {"step": 1},
        GOOD_LINE | {"step": "x"},
        GOOD_LINE | {"step": 10**400},
        GOOD_LINE | {"phase": ["warm"]},
        GOOD_LINE | {"validation": None},
        GOOD_LINE | {"validation": {"loss": "x"}},
        GOOD_LINE | {"shares": {"mse": [1]}},
        GOOD_LINE | {"shares": [1]},
    ],
)
def test_a_damaged_log_leaves_a_report_with_the_reason(line: dict[str, Any]) -> None:
    training = _training(replace(copier(twin=True), log=(GOOD_LINE, line)))
    assert training["log"] == []
    assert "damaged" in training["reason"]


@pytest.mark.parametrize(
    "curve",
    ["x", 3, [3], [{}], [{"pairs": 0, "psnr_db": 1.0}], [{"pairs": 1, "psnr_db": "x"}]],
)
def test_a_damaged_learning_curve_leaves_a_report_with_the_reason(curve: object) -> None:
    told = _learning_curve(replace(copier(), training={"learning_curve": curve}))
    assert told["learning_curve"] is None
    assert "damaged" in told["learning_curve_reason"]


def test_one_width_has_no_spread() -> None:
    width = _width([np.array([100.0, np.nan])])
    assert (width["median"], width["sd"], width["reason"]) == (100, None, "1 spot could be fitted")


def test_constant_and_empty_fields_leave_reasons(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    flat = pair_of("flat", np.full((160, 160), 9.0), np.full((160, 160), 5.0))
    empty = pair_of(
        "empty", random.poisson(5.0, (96, 128)) + 0.0, random.poisson(5.0, (96, 128)) + 0.0
    )
    report = evaluate(copier(), [flat, empty], engine=ENGINE)
    require_reasons(report.json)
    require_reasons_of_fields(report)
    json.dumps(report.json, allow_nan=False)
    report.save(tmp_path / "report")


def test_the_repeat_is_off_by_the_noise_of_both() -> None:
    random = np.random.default_rng(5)
    repeats = {
        name: image.with_pixels(
            (image.pixels + random.normal(0, 2, image.pixels.shape)).astype("f")
        )
        for name, image in TRUTH.items()
    }
    report = evaluate(copier(), PAIRS, repeat=repeats, engine=ENGINE)
    for entry in report.fields:
        noise_db = 20 * np.log10(entry["data_range"] / (2 * np.sqrt(2)))
        assert entry["psnr_db"]["repeat"] == pytest.approx(noise_db, abs=0.3)
    assert report.summary["frc_nm"]["target"]["median"] is not None
    with pytest.raises(PairError, match="no repeat of its name"):
        evaluate(copier(), PAIRS, repeat={}, engine=ENGINE)


def test_a_pair_without_pixel_size_takes_the_models_and_says_so() -> None:
    pair = PAIRS[0]
    bare = replace(
        pair,
        source_pixel_size_nm=None,
        source=replace(pair.source, pixel_size_nm=None),
        target=replace(pair.target, pixel_size_nm=None),
    )
    report = evaluate(copier(), [bare], engine=ENGINE)
    assert any(note.startswith("Without a pixel size") for note in report.summary["notes"])
    assert report.summary["fwhm_nm"]["target"]["median"] == pytest.approx(NM * TARGET_PX, rel=0.05)


def test_sample_and_background_are_told_apart(report: Report) -> None:
    for entry in report.fields:
        pixels = [entry[part]["pixels"] for part in ("sample", "background")]
        assert min(pixels) > 0
        assert sum(pixels) <= SIZE_PX**2
        # the input's light spreads: it is off on the sample, and hardly in the background
        assert entry["sample"]["nrmse"]["input"] > 3 * entry["background"]["nrmse"]["target"]


def test_blurred_again_the_target_explains_the_input(report: Report) -> None:
    rsp = report.summary["squirrel_rsp"]
    assert rsp["target"]["median"] > 0.99
    assert rsp["target"]["median"] > rsp["output"]["median"]  # the copy is blurred twice
