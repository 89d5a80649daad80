"""Verdicts and trust maps: an output that was tampered with shows where."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import crosscope as cs
from crosscope.data.images import read_image, write_image
from crosscope.data.slides import open_slide
from crosscope.quality import inspection

SEEN = Any
PLAN = cs.PredictionPlan(engine="torch", threads=1, precision="float32")
WIDE = {"chi_square": 1.0, "beyond_share": 0.5, "sisters_beyond_share": 0.5}


def test_an_output_of_the_model_is_good(beads: cs.Model, seen: SEEN) -> None:
    found = cs.check(beads, seen.image, seen.output)
    assert (found.domain, found.verdict) == ("inside", "good")
    assert found.trust is not None
    assert found.trust.pixels.dtype == np.uint8
    assert found.trust.pixels.shape == seen.output.pixels.shape
    assert (found.trust.pixels > 50).mean() < 0.01
    assert found.numbers["rsp"] > 0.99
    assert {"chi_square", "rse", "beyond_share", "distance"} <= set(found.numbers)


def test_a_bead_that_was_deleted_shows_in_the_map(beads: cs.Model, seen: SEEN) -> None:
    pixels = seen.output.pixels.copy()
    inner = pixels[60:-60, 60:-60]
    y, x = (n + 60 for n in np.unravel_index(inner.argmax(), inner.shape))
    pixels[y - 6 : y + 7, x - 6 : x + 7] = np.median(pixels)
    found = cs.check(beads, seen.image, seen.output.with_pixels(pixels))
    assert found.trust is not None
    assert found.trust.pixels[y - 4 : y + 5, x - 4 : x + 5].max() > 100


def test_an_output_of_another_field_is_doubtful(beads: cs.Model, seen: SEEN) -> None:
    turned = seen.output.with_pixels(np.rot90(seen.output.pixels).copy())
    found = cs.check(beads, seen.image, turned)
    assert found.verdict == "doubtful"
    assert "contradict the input" in " ".join(found.reasons)
    assert "is it the output of another image?" in found.reasons[-1]


def with_usual(model: cs.Model, share: float | None) -> cs.Model:
    """Return a model of which it is known how often the twin is beyond the limit, or is not."""
    agreement = [dict(each) for each in model.certificate["agreement"]]
    for each in agreement:
        each.pop("sisters_beyond_share", None)
        if share is not None:
            each["sisters_beyond_share"] = share
    return replace(model, certificate={**model.certificate, "agreement": agreement})


def test_what_the_twin_shows_differently_reaches_the_verdict(beads: cs.Model, seen: SEEN) -> None:
    alike = with_usual(beads, 1e-4)
    usual = cs.check(alike, seen.image, seen.output, level="full")
    assert usual.verdict == "good"
    assert usual.numbers["level"] == "full"
    assert 0 <= usual.numbers["sisters_beyond_share"] < 5e-3
    fading = np.hanning(80)
    wave = fading * np.cos(2 * np.pi * np.arange(80) / 8)  # too fine for the blur to let through
    pixels = seen.output.pixels.copy()
    pixels[100:180, 100:180] += (3 * np.outer(fading, wave)).astype(np.float32)
    sharp = seen.output.with_pixels(pixels)
    doubted = cs.check(alike, seen.image, sharp, level="full")
    assert doubted.numbers["beyond_share"] < 5e-3
    assert doubted.verdict == "doubtful"
    (reason,) = doubted.reasons
    assert "another network that learnt the same" in reason
    for model, told in (
        (with_usual(beads, None), "was not certified"),
        (with_usual(beads, 0.5), ""),
    ):
        found = cs.check(model, seen.image, sharp, level="full")
        assert found.verdict == "good"
        assert told in " ".join(found.reasons)
        assert bool(found.reasons) == bool(told)
        assert found.numbers == doubted.numbers
    fast = cs.check(alike, seen.image, sharp)
    assert (fast.verdict, fast.numbers["level"]) == ("good", "fast")
    assert "sisters_beyond_share" not in fast.numbers


def test_every_plane_has_its_own_background(beads: cs.Model, seen: SEEN) -> None:
    frames = [seen.image.pixels + np.uint16(n) for n in (0, 3, 6)]
    stack = seen.image.with_pixels(np.stack(frames), axes="tyx")
    made = np.stack([seen.output.pixels] * 3)
    whole = cs.check(beads, stack, seen.output.with_pixels(made, axes="tyx"))
    alone = cs.check(beads, seen.image, seen.output)
    for name in ("chi_square", "rsp", "beyond_share"):
        assert whole.numbers[name] == pytest.approx(alone.numbers[name], rel=2e-3)
    assert whole.trust is not None
    assert alone.trust is not None
    change = whole.trust.pixels.astype(int) - alone.trust.pixels
    assert np.abs(change).max() <= 1


def without_brightest(output: cs.Image, count: int = 1) -> cs.Image:
    """Return an output that lacks its brightest beads."""
    pixels = output.pixels.copy()
    for _ in range(count):
        inner = pixels[60:-60, 60:-60]
        y, x = (n + 60 for n in np.unravel_index(inner.argmax(), inner.shape))
        pixels[y - 6 : y + 7, x - 6 : x + 7] = np.median(pixels)
    return output.with_pixels(pixels)


def test_a_wrong_plane_among_good_ones_is_named(beads: cs.Model, seen: SEEN) -> None:
    wrong = without_brightest(seen.output, 8).pixels
    frames = [wrong if n == 2 else seen.output.pixels for n in range(12)]
    stack = seen.image.with_pixels(np.stack([seen.image.pixels] * 12), axes="tyx")
    made = seen.output.with_pixels(np.stack(frames), axes="tyx")
    found = cs.check(beads, stack, made)
    assert found.verdict == "doubtful"
    (reason,) = found.reasons
    assert reason.startswith("in 1 of 12 planes (t 2), at most: blurred again, ")
    frames[7] = np.rot90(seen.output.pixels)
    swapped = cs.check(beads, stack, made.with_pixels(np.stack(frames)))
    assert "in 2 of 12 planes (t 2, t 7)" in swapped.reasons[0]
    assert "is it the output of another image?" in swapped.reasons[-1]
    assert swapped.numbers["claimed_resolution_nm"] is None
    assert "contradicts" in swapped.numbers["claimed_resolution_reason"]


def test_few_places_are_told_from_everywhere(beads: cs.Model, seen: SEEN) -> None:
    wide = replace(beads, certificate={**beads.certificate, "agreement": [WIDE]})
    (few,) = cs.check(wide, seen.image, without_brightest(seen.output)).reasons
    assert "by far in a few places: look at the trust map" in few
    softer = ndimage.gaussian_filter(seen.output.pixels, 1.5)
    (everywhere,) = cs.check(wide, seen.image, seen.output.with_pixels(softer)).reasons
    assert "nearly everywhere" in everywhere


def test_axes_of_one_plane_may_be_missing(beads: cs.Model, seen: SEEN) -> None:
    image = seen.image.with_pixels(seen.image.pixels[None], axes="cyx", channels=(cs.Channel("A"),))
    models = {"A": beads}
    made = cs.predict_channels(models, image, plan=PLAN)
    assert made.axes == "cyx"
    whole, flat = (cs.check(models, image, output) for output in (made, seen.output))
    assert whole.verdict == flat.verdict == "good"
    assert whole.numbers == flat.numbers
    assert flat.trust is not None
    assert flat.trust.pixels.shape == (384, 384)
    unnamed = replace(image, channels=())
    assert cs.check(beads, unnamed, seen.output).verdict == "good"


@pytest.mark.parametrize("factor", [1e12, 1e20, 1e30])
def test_what_is_beyond_all_reason_is_outside(
    beads: cs.Model, seen: SEEN, tmp_path: Path, factor: float
) -> None:
    bright = seen.image.with_pixels(seen.image.pixels[:192, :192] * factor)
    found = cs.check(beads, bright)
    assert found.domain == "outside"
    assert np.isfinite(found.numbers["distance"])
    rng = np.random.default_rng(1)
    noise = bright.with_pixels(rng.normal(size=(192, 192)) * factor)
    assert cs.check(beads, noise).verdict != "good"
    write_image(bright.with_pixels(bright.pixels.astype(np.float32)), tmp_path / "a.tif")
    plan = replace(PLAN, force=True)
    made = cs.predict_files(
        beads, tmp_path / "a.tif", tmp_path / "b.tif", plan=plan, inspector=cs.Inspector("full")
    )
    assert made.outputs[0]["verdict"] == "refused"


def in_two_channels(first: cs.Image, second: cs.Image) -> cs.Image:
    """Return images as the channels A and B."""
    pixels = np.stack([first.pixels, second.pixels])
    return first.with_pixels(pixels, axes="cyx", channels=(cs.Channel("A"), cs.Channel("B")))


def test_one_empty_channel_makes_the_image_doubtful(beads: cs.Model, seen: SEEN) -> None:
    rng = np.random.default_rng(0)
    empty = seen.image.with_pixels(rng.poisson(12, (384, 384)).astype(np.uint16))
    both = in_two_channels(seen.image, empty)
    models = {"A": beads, "B": beads}
    found = cs.check(models, both, cs.predict_channels(models, both, plan=PLAN))
    assert found.verdict == "doubtful"
    assert found.numbers["claimed_resolution_nm"] == [None, None]


def test_one_model_without_a_certificate_lets_the_others_judge(
    beads: cs.Model, seen: SEEN, tmp_path: Path
) -> None:
    (nuclei,) = cs.simulate("confocal-sted", sample="nuclei", pairs=1, size_px=384, seed=5300)
    both = in_two_channels(nuclei.source, seen.image)
    models = {"A": beads, "B": replace(beads, certificate={})}
    found = cs.check(models, both)
    assert (found.domain, found.verdict) == ("outside", "refused")
    assert any(reason.startswith("B: the model has no certificate") for reason in found.reasons)
    write_image(both, tmp_path / "a.tif")
    with pytest.raises(cs.DomainError):
        cs.predict_files(
            models, tmp_path / "a.tif", tmp_path / "b.tif", plan=PLAN, inspector=cs.Inspector()
        )
    alone = cs.check(models, in_two_channels(seen.image, seen.image))
    assert (alone.domain, alone.verdict) == (None, None)


def test_a_damaged_certificate_is_told_before_anything_is_written(
    beads: cs.Model, seen: SEEN, tmp_path: Path
) -> None:
    write_image(seen.image, tmp_path / "a.tif")
    damaged = replace(beads, certificate={**beads.certificate, "agreement": 3})
    with pytest.raises(cs.ModelError, match="damaged: agreement"):
        cs.predict_files(
            damaged, tmp_path / "a.tif", tmp_path / "b.tif", plan=PLAN, inspector=cs.Inspector()
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_no_earlier_sidecar_speaks_for_what_could_not_be_judged(
    beads: cs.Model, seen: SEEN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / "a.tif", tmp_path / "b.tif"
    write_image(seen.image, source)
    cs.predict_files(beads, source, output, plan=PLAN, inspector=cs.Inspector())
    assert (tmp_path / "b.tif.json").exists()

    def fail(*_: object, **__: object) -> None:
        raise cs.OutputError("b.trust.tif", "the disk is full", "Make room")

    monkeypatch.setattr(cs.Inspector, "inspect", fail)
    with pytest.raises(cs.OutputError, match="the disk is full"):
        cs.predict_files(beads, source, output, plan=PLAN, inspector=cs.Inspector(), overwrite=True)
    assert not (tmp_path / "b.tif.json").exists()
    assert not (tmp_path / "b.trust.tif").exists()


def test_pixels_of_another_size_are_doubted(beads: cs.Model, seen: SEEN) -> None:
    for nm, verdict in ((77.0, "doubtful"), (30.3, "good"), (None, "good")):
        size = (nm, nm) if nm else None
        found = cs.check(beads, seen.image, replace(seen.output, pixel_size_nm=size))
        assert found.verdict == verdict
        told = "its pixels are 77 x 77 nm, but of this image the model makes pixels of 30 x 30 nm"
        assert (told in " ".join(found.reasons)) == (nm == 77)


def test_nothing_is_claimed_of_what_the_model_was_not_made_for(beads: cs.Model, seen: SEEN) -> None:
    rng = np.random.default_rng(0)
    cases = {
        "nothing but noise": rng.poisson(12, (192, 192)).astype(np.uint16),
        "not made for": (seen.image.pixels[:192, :192] // 2) * 20,
    }
    for why, pixels in cases.items():
        image = seen.image.with_pixels(pixels)
        output = cs.predict(beads, image, plan=PLAN)
        found = cs.check(beads, image, output).numbers
        assert found["claimed_resolution_nm"] is None
        assert why in found["claimed_resolution_reason"]


def test_what_cannot_be_measured_has_its_reason(beads: cs.Model, seen: SEEN) -> None:
    flat = seen.image.with_pixels(np.full((96, 96), 12, np.uint16))
    found = cs.check(beads, flat, flat.with_pixels(np.full((96, 96), 12, np.float32))).numbers
    assert found["rsp"] is None
    assert "the same everywhere" in found["rsp_reason"]
    tiny = seen.image.with_pixels(seen.image.pixels[:8, :8])
    small = cs.check(beads, tiny, tiny.with_pixels(seen.output.pixels[:8, :8]))
    assert small.verdict != "good"
    for name in ("chi_square", "rsp", "rse", "beyond_share", "distance", "claimed_resolution_nm"):
        told = small.numbers[f"{name.removesuffix('_nm')}_reason"]
        assert small.numbers[name] is None
        assert "too small" in told


def test_the_twin_shows_what_only_one_of_them_has(beads: cs.Model, seen: SEEN) -> None:
    assert beads.twin is not None
    plain = cs.check(beads, seen.image, seen.output, level="full")
    pixels = seen.output.pixels.copy()
    middle = pixels.shape[0] // 2
    pixels[middle : middle + 3, middle : middle + 3] += 40
    other = cs.check(beads, seen.image, seen.output.with_pixels(pixels), level="full")
    assert plain.trust is not None
    assert other.trust is not None
    at = slice(middle, middle + 3)
    assert int(other.trust.pixels[at, at].min()) > int(plain.trust.pixels[at, at].max()) + 100


def with_members(model: cs.Model, *by: float) -> cs.Model:
    """Return a model with members whose weights are its own, made larger; usual as the twin."""
    members = [copy.deepcopy(model.generator) for _ in by]
    for member, more in zip(members, by, strict=True):
        with torch.no_grad():
            for weight in member.parameters():
                weight.mul_(1 + more)
    joined = cs.join_members(model, [replace(model, generator=member) for member in members])
    usual = [model.certificate["twin"] for _ in by]
    return replace(joined, certificate={**model.certificate, "members": usual})


def test_the_map_holds_the_largest_doubt_of_all_sisters(beads: cs.Model, seen: SEEN) -> None:
    plain, same, other = (
        cs.check(model, seen.image, seen.output, level="full").trust
        for model in (beads, with_members(beads, 0.0), with_members(beads, 0.0, 0.02))
    )
    assert plain is not None
    assert same is not None
    assert other is not None
    assert np.array_equal(plain.pixels, same.pixels)
    assert (other.pixels >= plain.pixels).all()
    assert int(other.pixels.max()) > int(plain.pixels.max()) + 50


def test_members_that_were_not_certified_are_told(beads: cs.Model, seen: SEEN) -> None:
    joined = with_members(beads, 0.0, 0.0)
    for certificate in (beads.certificate, {**joined.certificate, "members": [{}, {}]}):
        bare = replace(joined, certificate=certificate)
        with pytest.raises(cs.ModelError, match=r"certificate.*members"):
            cs.check(bare, seen.image, seen.output, level="full")
    one = replace(joined, members=joined.members[:1])
    with pytest.raises(cs.ModelError, match="of 1 members it has 2"):
        cs.check(one, seen.image, seen.output, level="full")


def test_parts_make_no_difference(
    beads: cs.Model, seen: SEEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_members(beads, 0.001)
    whole = cs.check(model, seen.image, seen.output, level="full")
    monkeypatch.setattr(inspection, "TILE_PX", 96)
    parts = cs.check(model, seen.image, seen.output, level="full")
    assert whole.trust is not None
    assert parts.trust is not None
    difference = whole.trust.pixels.astype(int) - parts.trust.pixels
    assert np.abs(difference).max() <= 1
    shares = (each.numbers["sisters_beyond_share"] for each in (parts, whole))
    assert next(shares) == pytest.approx(next(shares), abs=1e-4)
    for name in ("chi_square", "rsp", "rse", "beyond_share"):
        assert parts.numbers[name] == pytest.approx(whole.numbers[name], rel=1e-3)


def test_the_border_is_not_judged(beads: cs.Model, seen: SEEN) -> None:
    found = cs.check(beads, seen.image, seen.output)
    assert found.trust is not None
    assert found.trust.pixels[:8].max() == found.trust.pixels[:, -8:].max() == 0


def test_without_a_certificate_nothing_is_claimed(beads: cs.Model, seen: SEEN) -> None:
    bare = replace(beads, certificate={})
    found = cs.check(bare, seen.image, seen.output)
    assert (found.domain, found.verdict, found.trust) == (None, None, None)
    assert "no certificate" in " ".join(found.reasons)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("domain", {"features": 3}),
        ("domain", None),
        ("forward", {"transfer": "x"}),
        ("agreement", [{"chi_square": "x"}]),
        ("claim", {}),
        ("twin", {"floor": -1.0, "share": 0.0, "zero": 0.0, "sigma_px": 1.0}),
    ],
)
def test_a_damaged_certificate_is_told(
    beads: cs.Model, seen: SEEN, part: str, value: object
) -> None:
    damaged = replace(beads, certificate={**beads.certificate, part: value})
    with pytest.raises(cs.ModelError, match=f"certificate is damaged: {part}"):
        cs.check(damaged, seen.image, seen.output, level="full")


def test_of_a_blend_with_the_twin_nothing_is_claimed_nor_asked(beads: cs.Model, seen: SEEN) -> None:
    plan = replace(PLAN, fidelity=0.5)
    output = cs.predict(beads, seen.image, plan=plan)
    fast, full = (
        cs.check(beads, seen.image, output, plan=plan, level=level) for level in ("fast", "full")
    )
    assert fast.trust is not None
    assert full.trust is not None
    assert np.array_equal(fast.trust.pixels, full.trust.pixels)
    assert full.numbers["claimed_resolution_nm"] is None
    assert "fidelity" in full.numbers["claimed_resolution_reason"]
    assert full.verdict == "good"
    assert full.numbers["sisters_beyond_share"] is None
    assert "no other network to ask" in full.numbers["sisters_beyond_share_reason"]
    assert "compared with its input only" in full.reasons[0]
    claimed = cs.check(beads, seen.image, output).numbers
    assert claimed["claimed_resolution_nm"] == beads.certificate["claim"]["resolution_nm"]
    assert "claimed_resolution_reason" not in claimed


def test_certifying_anew_keeps_intervals_and_no_old_claims(beads: cs.Model) -> None:
    (raw,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5101)
    pair = cs.register(cs.RawPair(raw.name, raw.source, raw.target))
    found = cs.certify(beads, [pair], claims=False).certificate
    (agreement,) = found["agreement"]
    assert set(agreement) == {"chi_square", "beyond_share", "sisters_beyond_share"}
    assert 0 <= agreement["sisters_beyond_share"] < 0.02
    assert found["intervals"] == beads.certificate["intervals"]
    assert set(beads.certificate) - set(found) == {"claim", "quantities"}
    assert found["domain"] != beads.certificate["domain"]


def test_an_output_on_another_grid_is_told(beads: cs.Model, seen: SEEN) -> None:
    with pytest.raises(cs.InputError, match="the model makes"):
        cs.check(beads, seen.image, seen.output.with_pixels(seen.output.pixels[1:]))


@pytest.mark.parametrize("level", ["fast", "full"])
def test_files_and_slides_get_the_same_map(
    beads: cs.Model, seen: SEEN, tmp_path: Path, level: str
) -> None:
    write_image(seen.image, tmp_path / "a.tif")
    maps, entries = [], []
    for name in ("sharp.tif", "sharp.ome.zarr"):
        made = cs.predict_files(
            beads, tmp_path / "a.tif", tmp_path / name, plan=PLAN, inspector=cs.Inspector(level)
        )
        entries.append(made.outputs[0])
        trust = Path(entries[-1]["quality"]["trust"])
        assert trust.name == name.replace("sharp", "sharp.trust")
        if name.endswith("zarr"):
            with open_slide(trust) as slide:
                maps.append(slide.read((), slice(0, 384), slice(0, 384)))
        else:
            maps.append(read_image(trust).pixels)
    assert np.array_equal(maps[0], maps[1])
    assert [entry["verdict"] for entry in entries] == ["good", "good"]
    cs.predict_files(beads, tmp_path / "a.tif", tmp_path / "sharp.tif", plan=PLAN, overwrite=True)
    assert not (tmp_path / "sharp.trust.tif").exists()  # it was the earlier output's


def test_a_lapse_of_two_grids_is_judged_frame_by_frame() -> None:
    model = cs.Model.load("tirf-sim-pits")
    (pair,) = cs.simulate("tirf-sim", pairs=1, size_px=256, frames=2, seed=5100)
    output = cs.predict(model, pair.source, plan=PLAN)
    found = cs.check(model, pair.source, output)
    assert found.trust is not None
    assert found.trust.pixels.shape == output.pixels.shape
    assert found.verdict == "good"


@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_rolling_average_is_judged_as_one_and_doubted_where_frames_differ(level: str) -> None:
    model = cs.Model.load("tirf-sim-pits")
    (slow,) = cs.simulate("tirf-sim", pairs=1, size_px=256, frames=4, seed=5100)
    fast = [pair.source.pixels for pair in cs.simulate("tirf-sim", pairs=3, size_px=256, seed=5100)]
    found = {}
    for name, image, weight in (
        ("slow", slow.source, 0.1),
        ("fast", slow.source.with_pixels(np.stack(fast), axes="tyx"), 0.1),
        ("fast alone", slow.source.with_pixels(np.stack(fast), axes="tyx"), None),
    ):
        plan = replace(PLAN, rolling_average=weight)
        output = cs.predict(model, image, plan=plan)
        found[name] = cs.check(model, image, output, plan=plan, level=level)
    assert found["slow"].verdict == found["fast alone"].verdict == "good"
    assert found["fast"].verdict == "doubtful"
    assert found["fast"].numbers["beyond_share"] > 10 * found["slow"].numbers["beyond_share"]
    for name, claimed in (("slow", False), ("fast alone", True)):
        assert (found[name].numbers["claimed_resolution_nm"] is not None) == claimed
    assert "knows single frames" in found["slow"].numbers["claimed_resolution_reason"]
    if level == "full":  # the twin is averaged, too
        shares = [found[name].numbers["sisters_beyond_share"] for name in ("fast alone", "fast")]
        assert shares[1] < 2 * shares[0] + 1e-3


def test_a_model_is_certified_on_its_pairs(beads: cs.Model) -> None:
    assert beads.plan["seed"] is not None
    with pytest.raises(cs.PairError, match="no pairs"):
        cs.certify(beads, [])
