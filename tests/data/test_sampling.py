import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosscope.data.errors import OutputError, PairError
from crosscope.data.images import Image
from crosscope.data.registered import RegisteredPair, Transform
from crosscope.data.sampling import (
    AS_IT_IS,
    Scaling,
    cut_patches,
    measure_scaling,
    open_patches,
    split_fields,
)


def make_pair(
    target: npt.NDArray[Any], name: str = "field", sha256: str | None = None
) -> RegisteredPair:
    image = Image(target, "yx", (30.0, 30.0), name=name)
    source = image.with_pixels(target.astype(np.float32))
    return RegisteredPair(
        name,
        source,
        image,
        Transform(np.eye(2, 3)),
        (5, 7),
        (30.0, 30.0),
        0.02,
        0.5,
        0.9,
        source_sha256=sha256,
    )


def bead_field(
    shape: tuple[int, int],
    places_yx: Any,
    *,
    peak: float = 500.0,
    level: float = 100.0,
    seed: int = 0,
    sigma_px: float = 1.6,
) -> npt.NDArray[np.uint16]:
    y, x = np.indices(shape)
    light = sum(
        np.exp(-((y - py) ** 2 + (x - px) ** 2) / (2 * sigma_px**2)) for py, px in places_yx
    )
    counts = np.random.default_rng(seed).poisson(peak * light + 4)
    return (level + counts).astype(np.uint16)


def numbered_field(height: int, width: int) -> npt.NDArray[np.uint16]:
    """Every pixel has a value of its own, so that parts can be compared pixel by pixel."""
    return np.arange(height * width, dtype=np.uint16).reshape(height, width)


# --- split ----------------------------------------------------------------------------------------


@given(st.integers(2, 12), st.floats(0, 1), st.integers(0, 5))
def test_every_field_is_in_one_part_and_no_part_is_empty(
    count: int, share: float, seed: int
) -> None:
    pairs = [make_pair(numbered_field(40, 40), f"{i}", f"{i}") for i in range(count)]
    split = split_fields(pairs, validation_share=share, guard_px=10, least_px=32, seed=seed)
    training = {pair.name for pair in split.training}
    validation = {pair.name for pair in split.validation}
    assert training
    assert validation
    assert not training & validation
    assert len(training) + len(validation) == count


def test_pairs_of_one_raw_file_stay_together() -> None:
    pairs = [make_pair(numbered_field(40, 40), f"{i}", "ab"[i % 2]) for i in range(6)]
    split = split_fields(pairs, validation_share=0.2, guard_px=10, least_px=32, seed=0)
    hashes = [{pair.source_sha256 for pair in part} for part in (split.training, split.validation)]
    assert hashes[0].isdisjoint(hashes[1])
    assert [len(split.training), len(split.validation)] == [3, 3]


def test_less_training_fields_are_a_part_of_more() -> None:
    pairs = [make_pair(np.full((40, 40), n, np.uint16), sha256=str(n)) for n in range(8)]

    def names(count: int | None) -> tuple[set[str | None], set[str | None]]:
        split = split_fields(
            pairs, validation_share=0.25, guard_px=0, least_px=32, seed=3, training_fields=count
        )
        parts = (split.training, split.validation)
        first, second = ({pair.source_sha256 for pair in part} for part in parts)
        return first, second

    few, more, every = names(2), names(4), names(None)
    assert (len(few[0]), len(more[0]), len(every[0])) == (2, 4, 6)
    assert few[0] < more[0] < every[0]
    assert few[1] == more[1] == every[1]


def test_the_split_is_that_of_the_seed() -> None:
    pairs = [make_pair(numbered_field(40, 40), f"{i}", f"{i}") for i in range(10)]

    def names(seed: int) -> list[str]:
        split = split_fields(pairs, validation_share=0.3, guard_px=0, least_px=32, seed=seed)
        return [pair.name for pair in split.validation]

    assert names(1) == names(1)
    assert len({tuple(names(seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("shape", [(200, 120), (120, 200)])
@pytest.mark.parametrize("guard_px", [0, 48])
def test_a_single_field_is_cut_along_its_longer_side_with_the_guard_band_between(
    shape: tuple[int, int], guard_px: int
) -> None:
    whole = numbered_field(*shape)
    split = split_fields(
        [make_pair(whole)], validation_share=0.25, guard_px=guard_px, least_px=32, seed=0
    )
    (training,), (validation,) = split.training, split.validation
    for part in (training, validation):
        top, left = np.subtract(part.origin_yx_px, (5, 7))  # the whole's origin
        height, width = part.target.pixels.shape
        np.testing.assert_array_equal(
            part.target.pixels, whole[top : top + height, left : left + width]
        )
        np.testing.assert_array_equal(part.source.pixels, part.target.pixels)
    shared = np.intersect1d(training.target.pixels, validation.target.pixels)
    assert shared.size == 0
    unused = whole.size - training.target.pixels.size - validation.target.pixels.size
    assert unused == guard_px * min(shape)
    assert f"{guard_px} before them for neither" in split.how


def test_two_pairs_of_one_raw_file_are_cut_at_the_same_place() -> None:
    whole = numbered_field(200, 120)
    first, second = make_pair(whole, "a", "x"), make_pair(whole[30:], "b", "x")
    second = replace(second, origin_yx_px=(35, 7))
    split = split_fields([first, second], validation_share=0.25, guard_px=20, least_px=32, seed=0)
    learnt = np.concatenate([pair.target.pixels.ravel() for pair in split.training])
    held_out = np.concatenate([pair.target.pixels.ravel() for pair in split.validation])
    assert np.intersect1d(learnt, held_out).size == 0


def test_a_field_too_small_to_cut_says_how_large_it_must_be() -> None:
    with pytest.raises(PairError, match=r"90 px long.*at least 164 px"):
        split_fields(
            [make_pair(numbered_field(90, 80))],
            validation_share=0.1,
            guard_px=100,
            least_px=32,
            seed=0,
        )


def test_no_pair_is_an_error() -> None:
    with pytest.raises(PairError, match="none to learn from"):
        split_fields([], validation_share=0.1, guard_px=0, least_px=32, seed=0)


# --- patches --------------------------------------------------------------------------------------


def test_patches_are_cut_at_the_same_places_of_both_images_with_their_grey_values() -> None:
    pairs = [make_pair(numbered_field(100, 90)), make_pair(numbered_field(64, 64))]
    patches = cut_patches(pairs, patch_px=32, background_share=0.5, seed=3)
    np.testing.assert_array_equal(patches.source, patches.target)
    assert patches.source.dtype == patches.target.dtype == np.float32
    assert set(patches.field) == {0, 1}
    for patch, field in zip(patches.target, patches.field, strict=True):
        width = pairs[field].target.pixels.shape[1]
        top, left = divmod(int(patch[0, 0]), width)
        np.testing.assert_array_equal(
            patch, pairs[field].target.pixels[top : top + 32, left : left + 32]
        )


def test_patches_on_the_disk_are_those_in_memory(tmp_path: Path) -> None:
    places = np.random.default_rng(0).uniform(0, 128, (9, 2))
    pairs = [make_pair(bead_field((128, 128), places, seed=seed)) for seed in range(3)]
    options: dict[str, Any] = {"patch_px": 32, "background_share": 0.2, "seed": 1}
    options["scalings"] = Scaling(100.0, 500.0), Scaling(104.0, 250.0)
    memory, disk = cut_patches(pairs, **options), cut_patches(pairs, **options, folder=tmp_path)
    assert isinstance(disk.source, np.memmap)
    assert isinstance(disk.target, np.memmap)
    for part in ("source", "target", "field", "has_signal"):
        np.testing.assert_array_equal(getattr(disk, part), getattr(memory, part))
        few = getattr(cut_patches(pairs, **options, most=5), part)
        np.testing.assert_array_equal(few, getattr(memory, part)[:5])
    raw = cut_patches(pairs, **options | {"scalings": (AS_IT_IS, AS_IT_IS)})
    np.testing.assert_array_equal(memory.target, options["scalings"][1].apply(raw.target))
    np.testing.assert_array_equal(open_patches(tmp_path)[1], memory.target)


def test_cutting_to_the_disk_needs_no_more_memory_for_more_fields(tmp_path: Path) -> None:
    places = np.random.default_rng(0).uniform(0, 192, (40, 2))
    pairs = [make_pair(bead_field((192, 192), places, seed=seed)) for seed in range(12)]

    def peak_bytes(count: int) -> int:
        tracemalloc.start()
        try:
            cut_patches(
                pairs[:count],
                patch_px=32,
                background_share=0.1,
                seed=0,
                folder=tmp_path / str(count),
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    more_bytes = peak_bytes(12) - peak_bytes(3)
    assert more_bytes < 0.1 * (tmp_path / "12" / "source.npy").stat().st_size


def test_a_disk_without_room_for_the_patches_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    pair = make_pair(bead_field((128, 128), [(40, 40)]))
    with pytest.raises(OutputError, match="are free"):
        cut_patches([pair], patch_px=32, background_share=0.1, seed=0, folder=tmp_path / "patches")
    assert not list(tmp_path.iterdir())


def test_origins_depend_on_the_seed_alone() -> None:
    pairs = [make_pair(bead_field((128, 128), [(40, 40), (90, 80)]))]
    cuts = [cut_patches(pairs, patch_px=32, background_share=0.5, seed=s).target for s in (0, 0, 1)]
    np.testing.assert_array_equal(cuts[0], cuts[1])
    assert cuts[0].shape != cuts[2].shape or not np.array_equal(cuts[0], cuts[2])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_nearly_empty_patches_make_up_the_asked_share(share: float) -> None:
    places = np.random.default_rng(0).uniform(0, 256, (12, 2))
    pairs = [make_pair(bead_field((256, 256), places, peak=40, seed=s)) for s in range(3)]
    patches = cut_patches(pairs, patch_px=32, background_share=share, seed=0)
    empty = np.count_nonzero(~patches.has_signal)
    assert empty / len(patches.target) <= share
    assert (empty + 1) / (len(patches.target) + 1) > share


def test_patches_with_a_bead_have_signal_and_those_without_have_none() -> None:
    places = [(40.0, 40.0), (200.0, 120.0)]
    pair = make_pair(bead_field((256, 256), places, peak=30))
    patches = cut_patches([pair], patch_px=32, background_share=0.9, seed=0)
    assert patches.target[patches.has_signal].max(axis=(1, 2)).min() > 110
    assert 8 <= np.count_nonzero(patches.has_signal) <= 12  # each bead is in about 4 patches


def test_a_hot_pixel_is_no_structure() -> None:
    field = bead_field((128, 128), [(100.0, 100.0)])
    field[20, 20] = 60000
    patches = cut_patches([make_pair(field)], patch_px=32, background_share=0.9, seed=0)
    assert not patches.has_signal[patches.target.max(axis=(1, 2)) > 50000].any()
    assert patches.has_signal.any()


def test_images_of_floats_without_background_are_understood() -> None:
    y, x = np.indices((256, 256))
    beads = np.exp(-((y - 50.0) ** 2 + (x - 60.0) ** 2) / 5).astype(np.float32)
    patches = cut_patches([make_pair(beads)], patch_px=32, background_share=0.0, seed=0)
    assert 1 <= len(patches.target) <= 9


def test_hardly_any_patch_of_a_dense_field_is_dropped() -> None:
    random = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(0, 256, 24), np.arange(0, 256, 24)), -1).reshape(-1, 2)
    field = bead_field((256, 256), places + random.normal(0, 3, places.shape), sigma_px=8)
    patches = cut_patches([make_pair(field)], patch_px=64, background_share=0.0, seed=0)
    assert len(patches.target) >= 36


def test_fields_without_structure_are_an_error() -> None:
    noise = np.random.default_rng(0).poisson(50, (128, 128)).astype(np.uint16)
    with pytest.raises(PairError, match="more than background and noise"):
        cut_patches([make_pair(noise)], patch_px=32, background_share=0.1, seed=0)


def test_a_field_smaller_than_a_patch_is_an_error() -> None:
    with pytest.raises(PairError, match="less than a patch of 64 px"):
        cut_patches([make_pair(numbered_field(100, 50))], patch_px=64, background_share=0.1, seed=0)


# --- intensity ------------------------------------------------------------------------------------


@given(st.floats(-1000, 1000), st.floats(1e-3, 1e4))
def test_undo_takes_back_apply(offset: float, scale: float) -> None:
    grey = np.linspace(0, 65535, 100, dtype=np.float32)
    scaling = Scaling(offset, scale)
    np.testing.assert_allclose(scaling.undo(scaling.apply(grey)), grey, rtol=1e-6, atol=0.05)


@pytest.mark.parametrize("beads", [1, 3, 60])
def test_background_becomes_0_and_beads_about_1_however_sparse(beads: int) -> None:
    places = np.random.default_rng(1).uniform(10, 246, (beads, 2))
    fields = [bead_field((256, 256), places, peak=500, seed=s) for s in range(3)]
    scaling = measure_scaling(fields)
    assert scaling.offset == pytest.approx(104, abs=1)
    assert 250 < scaling.scale < 1000


def test_hot_pixels_do_not_change_the_scale() -> None:
    field = bead_field((128, 128), [(30.0, 30.0), (90.0, 70.0)])
    hot = field.copy()
    hot[::50, ::50] = 65535
    assert measure_scaling([hot]).scale == pytest.approx(measure_scaling([field]).scale, rel=0.02)


def test_all_fields_share_one_scale_and_empty_ones_do_not_pull_it() -> None:
    bright = [bead_field((128, 128), [(30.0, 30.0), (90.0, 70.0)], seed=s) for s in range(3)]
    empty = bead_field((128, 128), [(30.0, 30.0)], peak=0.0)
    with_empty, without = measure_scaling([*bright, empty]), measure_scaling(bright)
    assert with_empty.scale == pytest.approx(without.scale, rel=0.05)


@pytest.mark.parametrize("value", [0, 7])
def test_the_scale_is_never_0(value: int) -> None:
    scaling = measure_scaling([np.full((32, 32), value, np.uint16)])
    assert scaling.offset == pytest.approx(value)
    assert scaling.scale > 0
    assert np.abs(scaling.apply(np.full((4, 4), value))).max() < 1e-6
