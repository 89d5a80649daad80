"""Planes, pixel sizes and channels, with a model that only changes the scale of grey values."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from crosscope.data.errors import DomainError, ImageError, InputError, ModelError
from crosscope.data.grids import resample
from crosscope.data.images import Channel, Image
from crosscope.model.model import Model
from crosscope.prediction.images import (
    PredictionPlan,
    find_empty,
    fit_channels,
    fit_pixels,
    predict,
    predict_channels,
)

MakeScaler = Callable[..., Model]
PLAN = PredictionPlan(engine="torch", threads=1, precision="float32")
PLANE = np.random.default_rng(0).integers(100, 250, (24, 32)).astype(np.uint8)


def image_of(
    pixels: np.ndarray, axes: str = "yx", nm: float | None = 60.0, **more: object
) -> Image:
    size_nm = None if nm is None else (nm, nm)
    return Image(pixels, axes, size_nm, **more)  # type: ignore[arg-type]


def expected(plane: np.ndarray, *, gain: float = 1.0, zoom: float = 2.0) -> np.ndarray:
    return 2 * gain * (resample(plane, (zoom, zoom)) - 100) + 50


def close_to(pixels: np.ndarray) -> object:
    return pytest.approx(pixels, abs=0.02)


def test_the_target_grid_and_its_grey_values_come_out(make_scaler: MakeScaler) -> None:
    sharp = predict(make_scaler(), image_of(PLANE, name="a.tif"), plan=PLAN)
    assert sharp.pixels == close_to(expected(PLANE))
    assert sharp.pixels.dtype == np.float32
    assert (sharp.pixel_size_nm, sharp.name) == ((30, 30), "a.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_type_of_pixel_gives_the_same(make_scaler: MakeScaler, dtype: type) -> None:
    sharp = predict(make_scaler(), image_of(PLANE.astype(dtype)), plan=PLAN)
    assert sharp.pixels == close_to(expected(PLANE))


@pytest.mark.parametrize("axes", ["tzyx", "tyx", "zyx"])
def test_time_and_depth_go_plane_by_plane(make_scaler: MakeScaler, axes: str) -> None:
    shape = {"t": 2, "z": 3}
    planes = [PLANE // (n + 1) for n in range(math.prod(shape[a] for a in axes[:-2]))]
    lengths = [shape[a] for a in axes[:-2]]
    stack = np.stack(planes).reshape(*lengths, *PLANE.shape)
    sharp = predict(make_scaler(), image_of(stack, axes, z_step_nm=200.0), plan=PLAN)
    assert (sharp.axes, sharp.z_step_nm) == (axes, 200)
    assert sharp.pixels.shape == (*lengths, 48, 64)
    assert sharp.pixels.reshape(-1, 48, 64) == close_to(np.stack([expected(p) for p in planes]))


def test_progress_runs_once_from_0_to_1(make_scaler: MakeScaler) -> None:
    told: list[float] = []
    plan = replace(PLAN, tile_px=2 * max(PLANE.shape))  # of the target: one plane at a time
    predict(make_scaler(), image_of(np.stack([PLANE] * 4), "zyx"), plan=plan, watch=told.append)
    assert told == pytest.approx([0.25, 0.5, 0.75, 1])
    told.clear()
    channels = tuple(map(Channel, "ab"))
    image = image_of(np.stack([PLANE] * 2), "cyx", channels=channels)
    models = {"a": make_scaler(), "b": make_scaler()}
    predict_channels(models, image, plan=PLAN, watch=told.append)
    assert told == pytest.approx([0.5, 1])


def test_another_offset_is_subtracted_instead(make_scaler: MakeScaler) -> None:
    plan = PredictionPlan(offset=130.0, threads=1, precision="float32")
    sharp = predict(make_scaler(), image_of(PLANE), plan=plan)
    assert sharp.pixels == close_to(expected(PLANE) - 60)


def test_channels_meet_their_models_in_their_order(make_scaler: MakeScaler) -> None:
    stack = np.stack([np.stack([PLANE, PLANE // 2])] * 3)
    image = image_of(stack, "tcyx", channels=(Channel("DAPI", "#0000ff"), Channel("FITC")))
    models = {"FITC": make_scaler(gain=3.0), "DAPI": make_scaler()}
    sharp = predict_channels(models, image, plan=PLAN)
    assert (sharp.axes, sharp.pixels.shape) == ("tcyx", (3, 2, 48, 64))
    assert sharp.channels == (Channel("FITC"), Channel("DAPI", "#0000ff"))
    assert sharp.pixels[1, 0] == close_to(expected(PLANE // 2, gain=3.0))
    assert sharp.pixels[1, 1] == close_to(expected(PLANE))


def test_a_channel_is_found_whatever_its_case(make_scaler: MakeScaler) -> None:
    channels = (Channel("DAPI"), Channel("TXRED", "#ff0000"))
    image = image_of(np.stack([PLANE, PLANE // 2]), "cyx", channels=channels)
    sharp = predict_channels({"TxRed": make_scaler()}, image, plan=PLAN)
    assert sharp.channels == channels[1:]
    assert sharp.pixels[0] == close_to(expected(PLANE // 2))


def test_channels_that_fit_no_model_are_named_before_anything_is_done(
    make_scaler: MakeScaler,
) -> None:
    image = image_of(np.stack([PLANE] * 2), "cyx", channels=tuple(map(Channel, "ab")))
    told: list[float] = []
    for models, error, reason in (
        ({"a": make_scaler(), "x": make_scaler()}, ImageError, "no single channel 'x'.*a, b"),
        (
            {"a": make_scaler(), "b": make_scaler(source_nm=90.0)},
            DomainError,
            "channel b: .*--force",
        ),
    ):
        with pytest.raises(error, match=reason):
            predict_channels(models, image, plan=PLAN, watch=told.append)
    with pytest.raises(InputError, match="one channel is chosen"):
        fit_channels({"a": make_scaler()}, image, plan=PredictionPlan(channel="b"))
    assert not told
    fit = fit_channels({"a": make_scaler(source_nm=66.0)}, image, plan=PLAN)
    assert fit.domain == "near"
    assert fit.reasons[-1] == "channel b has no model and is left out"


def test_empty_planes_are_told_and_predicted(make_scaler: MakeScaler) -> None:
    stack = np.stack([PLANE, np.full_like(PLANE, 130), PLANE, np.full_like(PLANE, 0)])
    sharp = predict(make_scaler(), image_of(stack, "tyx"), plan=PLAN)
    assert sharp.pixels == close_to(np.stack([expected(plane) for plane in stack]))
    (sentence,) = find_empty(image_of(stack, "tyx"))
    assert sentence.startswith("2 of 4 planes are empty")
    assert "t 1, t 3, counted from 0" in sentence
    (sentence,) = find_empty(image_of(stack.reshape(2, 2, *PLANE.shape), "tcyx"))
    assert "t 0 c 1, t 1 c 1" in sentence
    assert find_empty(image_of(stack[1])) == ("it is empty: all its pixels are 130",)
    assert find_empty(image_of(PLANE)) == ()
    (sentence,) = find_empty(image_of(np.zeros((40, 4, 4), np.uint8), "zyx"))
    assert "z 9, and more, counted" in sentence


def test_models_of_unequal_grids_do_not_make_one_image(make_scaler: MakeScaler) -> None:
    image = image_of(np.stack([PLANE] * 2), "cyx", channels=tuple(map(Channel, "ab")))
    models = {"a": make_scaler(), "b": make_scaler(target_nm=60.0)}
    with pytest.raises(ModelError, match="one target pixel size"):
        predict_channels(models, image, plan=PLAN)


@pytest.mark.parametrize(
    ("factor", "domain"),
    [
        *[(1, None), (1.0199, None), (1 / 1.0199, None), (1.021, "near"), (1 / 1.021, "near")],
        *[(1.299, "near"), (1 / 1.299, "near"), (1.301, "outside"), (1 / 1.301, "outside")],
    ],
)
def test_pixel_sizes_are_kept_to_2_and_resampled_to_30_percent(
    make_scaler: MakeScaler, factor: float, domain: str | None
) -> None:
    model, image = make_scaler(), image_of(PLANE, nm=60.0 * factor)
    if domain == "outside":
        with pytest.raises(DomainError, match="made for 60 x 60 nm"):
            fit_pixels(model, image)
    fit = fit_pixels(model, image, force=True)
    assert fit.domain == domain
    assert bool(fit.reasons) == bool(domain)
    assert fit.zoom == pytest.approx((2 * factor if domain else 2,) * 2)
    assert fit.pixel_size_nm == pytest.approx((30 if domain else 30 * factor,) * 2)


def test_unequal_sides_of_a_pixel_are_each_looked_at(make_scaler: MakeScaler) -> None:
    image = Image(PLANE, "yx", (60.0, 66.0))
    fit = fit_pixels(make_scaler(), image)
    assert fit.domain == "near"
    assert fit.zoom == pytest.approx((2, 2.2))
    assert predict(make_scaler(), image, plan=PLAN).pixels.shape == (48, 70)


def test_what_cannot_be_used_is_refused(make_scaler: MakeScaler) -> None:
    refused = {
        "pixel size is not known": image_of(PLANE, nm=None),
        "NaN": image_of(np.full((8, 8), np.nan, np.float32)),
        "several channels": image_of(np.stack([PLANE] * 2), "cyx"),
    }
    for reason, image in refused.items():
        with pytest.raises(ImageError, match=reason):
            predict(make_scaler(), image, plan=PLAN)


@pytest.mark.parametrize(
    "numbers",
    [
        *[{"pixel_size_nm": 0.0}, {"pixel_size_nm": math.inf}, {"offset": math.nan}],
        *[{"tile_px": 0}, {"threads": 0}, {"precision": "int8"}],
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(numbers: dict[str, object]) -> None:
    with pytest.raises(InputError):
        PredictionPlan(**numbers)  # type: ignore[arg-type]
