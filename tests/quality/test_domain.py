"""The bead model takes beads, and nothing else; where little is known, little is refused."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt16
from scipy import ndimage
from typer.testing import CliRunner

import crosscope as cs
from crosscope.data.grids import resample
from crosscope.data.slides import slide_of
from crosscope.data.transforms import Transform
from crosscope.model.generator import build_generator
from crosscope.optics.camera import expose
from crosscope.optics.psf import Otf, confocal_otf
from crosscope.optics.rendering import Grid, render
from crosscope.optics.systems import SimulatedPair
from crosscope.quality.certificate import find_phases
from crosscope.quality.domain import (
    LEAST_PX,
    Domain,
    count_independent,
    cover,
    is_covered,
    learn_domain,
    place_crops,
    pool_bottleneck,
)
from crosscope.quality.features import (
    NAMES,
    STILL,
    Phase,
    make_whole,
    measure_features,
    measure_smoothed_noise,
    saturated_share,
)
from crosscope.quality.inspection import _find_moves, open_views
from crosscope.terminal.commands import app


@pytest.fixture(scope="module")
def field() -> cs.Image:
    """Beads that the model has not seen."""
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5200)
    return pair.source


@pytest.fixture(scope="module")
def nuclei() -> cs.Image:
    """What the bead model was not made for."""
    (pair,) = cs.simulate("confocal-sted", sample="nuclei", pairs=1, size_px=256, seed=5200)
    return pair.source


def refusal(model: cs.Model, image: cs.Image, **plan: float) -> str:
    """Return what is said where an image is refused."""
    with pytest.raises(cs.DomainError) as refused:
        cs.Inspector().admit(model, slide_of(image), cs.PredictionPlan(**plan))  # type: ignore[arg-type]
    return str(refused.value)


@pytest.mark.parametrize("seed", [5200, 5201, 5202])
def test_held_out_beads_are_inside(beads: cs.Model, seed: int) -> None:
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=seed)
    found = cs.check(beads, pair.source)
    assert (found.domain, found.verdict) == ("inside", "good")
    assert found.numbers["distance"] < 1.15


def test_a_field_is_inside_raw_and_registered(beads: cs.Model) -> None:
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5201)
    registered = cs.register(cs.RawPair("beads", pair.source, pair.target))
    raw = cs.check(beads, pair.source)
    moved = cs.check(beads, registered.source)
    assert (raw.domain, moved.domain) == ("inside", "inside")
    assert moved.numbers["distance"] == pytest.approx(raw.numbers["distance"], abs=0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample": "nuclei"}, "wider than in training"),
        ({"sample": "filaments"}, "times more area"),
        ({"photons": 75.0}, "less light"),
    ],
)
def test_other_samples_and_less_light_are_outside_and_told_in_words(
    beads: cs.Model, changes: dict[str, object], words: str
) -> None:
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5200, **changes)  # type: ignore[arg-type]
    found = cs.check(beads, pair.source)
    assert (found.domain, found.verdict) == ("outside", "refused")
    assert words in " ".join(found.reasons)


def test_saturation_is_told(beads: cs.Model) -> None:
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5200)
    clipped = pair.source.with_pixels(np.minimum(pair.source.pixels, 150))
    assert saturated_share(pair.source.pixels) == 0
    assert saturated_share(clipped.pixels) > 0.05
    found = cs.check(beads, clipped)
    assert found.domain == "outside"
    assert "saturated" in " ".join(found.reasons)


def test_noise_alone_is_no_signal(beads: cs.Model, rng: np.random.Generator) -> None:
    empty = cs.Image(rng.poisson(12, (256, 256)).astype(np.uint16), "yx", (30.0, 30.0))
    found = cs.check(beads, empty)
    assert (found.domain, found.verdict, found.numbers["signal"]) == ("inside", "doubtful", False)
    assert "no signal" in " ".join(found.reasons)


@pytest.mark.parametrize("shape", [(1, 1), (15, 17), (64, 200), (3, 256)])
def test_images_of_any_size_are_judged(
    beads: cs.Model, rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    image = cs.Image(rng.poisson(12, shape).astype(np.uint16), "yx", (30.0, 30.0))
    assert cs.check(beads, image).domain in ("inside", "near", "outside")


def test_a_domain_survives_json_and_damage_is_noticed(beads: cs.Model) -> None:
    value = json.loads(json.dumps(beads.certificate["domain"], allow_nan=False))
    assert len(json.dumps(value)) < 60_000
    assert Domain.from_json(value).to_json() == value
    damages: tuple[dict[str, object], ...] = (
        {"features": ["colour"]},
        {"middle": [1.0]},
        {"classical": value["deep"]},
        {"deep": value["deep"] | {"reach": [0.0, 1.0, 1.0]}},
        {"blur": value["deep_blur"]},
        {"deep_blur": value["deep_blur"] | {"weights": [1.0]}},
        {"phases": [[0.7, 0.0, 0.0, 0.0]]},
        {"phases": [[0.0, 0.0, 0.0, 1.1]]},
        {"phases": [[0.0, 0.0]]},
        {"phases": []},
        {"deep": value["deep"] | {"centre": [float("nan")] * 8}},
    )
    for damage in damages:
        with pytest.raises(ValueError, match=r"feature|not a number from"):
            Domain.from_json(value | damage)


def through_wider(pair: SimulatedPair, wider: float, rng: np.random.Generator) -> cs.Image:
    """Return what an objective whose blur is so many times as wide shows of the same sample."""
    truth, camera, sharp = pair.truth, pair.truth.source_camera, confocal_otf()
    other = Otf(sharp.frequency_per_nm / wider, sharp.value)
    places_nm = truth.warp.to_source_nm(truth.emitters.yx_nm)
    grid = Grid(len(pair.source.pixels), 30.0, integrates=False)
    usual, seen = (
        render(places_nm, truth.emitters.weight, otf=otf, grid=grid) for otf in (sharp, other)
    )
    light = (pair.source.pixels - camera.offset) / camera.gain - camera.background
    exposed = expose(seen * light.mean() / usual.mean(), camera, rng=rng)
    return pair.source.with_pixels(exposed)


def test_another_objective_is_told_by_the_texture_of_nuclei(rng: np.random.Generator) -> None:
    model = cs.Model.load("confocal-sted-nuclei")
    for pair in cs.simulate("confocal-sted", sample="nuclei", pairs=2, size_px=512, seed=5310):
        same = cs.check(model, pair.source)
        other = cs.check(model, through_wider(pair, 1.2, rng))
        assert (same.domain, other.domain) == ("inside", "outside")
        assert "wider than in training: another objective?" in " ".join(other.reasons)


def test_what_a_certificate_tells_a_blur_by_rises_with_it(
    beads: cs.Model, rng: np.random.Generator
) -> None:
    # six fields of 16 crops each, with something in all: enough to learn from
    simulated = cs.simulate("confocal-sted", sample="filaments", pairs=7, size_px=528, seed=5312)
    *known, unseen = simulated
    pairs = [
        cs.register(cs.RawPair(pair.name, pair.source, pair.target), rigid=True) for pair in known
    ]
    # a network of few channels, which knows nothing: what it makes of a crop changes all the same
    torch.manual_seed(0)
    model = replace(beads, base=4, generator=build_generator("fast", 4), twin=None, heads=None)
    certificate = cs.certify(model, pairs, claims=False).certificate
    domain = Domain.from_json(certificate["domain"])
    told, deep = [], []
    for wider in (1 / 1.2, 1.0, 1.2):
        grey = through_wider(unseen, wider, rng).pixels.astype(np.float32)
        crops = model.source_scaling.apply(np.stack([grey[at] for at in place_crops(grey.shape)]))
        told.append((measure_features(crops).values @ domain.blur.weights).mean())
        channels = pool_bottleneck(model.generator, crops)
        deep.append((channels @ domain.deep_blur.weights).mean())
    for numbers in (told, deep):
        assert np.diff(numbers).min() > 1  # standard deviations of a crop


def test_raw_crops_are_resampled_where_registering_resampled() -> None:
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5201)
    registered = cs.register(cs.RawPair("beads", pair.source, pair.target), rigid=True)
    (phase,) = set(find_phases([registered]))
    assert max(map(abs, phase.start_px)) > 0.02
    assert phase.drift_px == pytest.approx((0, 0), abs=1e-9)
    moved = resample(pair.source.pixels, (1.0, 1.0), phase.start_px)
    (first,) = registered.to_source(np.array([registered.origin_yx_px], float)) - phase.start_px
    y, x = np.rint(first).astype(int)
    height, width = registered.source.pixels.shape
    seen = moved[y : y + height, x : x + width]
    assert seen[4:-4, 4:-4] == pytest.approx(registered.source.pixels[4:-4, 4:-4], abs=0.5)


@pytest.mark.parametrize("shift_px", [0.0, 1.0, -0.3])
def test_on_a_finer_grid_the_phase_is_counted_from_where_raw_images_lie(shift_px: float) -> None:
    (pair,) = cs.simulate("tirf-sim", pairs=1, size_px=256, seed=5201)
    registered = cs.register(cs.RawPair("pits", pair.source, pair.target))
    # two target pixels lie a quarter of a source pixel to each side of one
    matrix = np.array([[0.5, 0.0, -0.25 + shift_px], [0.0, 0.5, -0.25]])
    known = replace(registered, transform=Transform(matrix), origin_yx_px=(0, 0))
    phases = find_phases([known])
    apart = shift_px - round(shift_px)
    assert phases[0].start_px == pytest.approx((apart, 0.0), abs=1e-3)
    assert (phases == (STILL,)) == (apart == 0)


def test_what_turns_within_a_crop_is_told_as_a_drift_to_and_fro() -> None:
    (pair,) = cs.simulate("tirf-sim", pairs=1, size_px=512, seed=5201)
    registered = cs.register(cs.RawPair("pits", pair.source, pair.target))
    # a crop is 128 px long: turned by this, its far end lies 0.64 source px aside
    turned = np.array([[0.5, 0.005, -0.25], [-0.005, 0.5, -0.25]])
    known = replace(registered, transform=Transform(turned), origin_yx_px=(0, 0))
    phases = find_phases([known])
    assert np.abs([phase.drift_px for phase in phases]) == pytest.approx(0.64, abs=1e-3)
    assert {tuple(np.sign(phase.drift_px)) for phase in phases} == {(1, -1), (-1, 1)}
    spread = [measure_smoothed_noise((2.0, 2.0), phase) for phase in phases]
    assert spread == sorted(spread)


@pytest.mark.parametrize(
    "matrix", [[[1, 0], [0, -1]], [[0, 1], [-1, 0]], [[0.5, 0], [0, 0.5]], [[0, 0.5], [-0.5, 0]]]
)
def test_what_is_mirrored_or_turned_by_quarters_does_not_drift(matrix: list[list[float]]) -> None:
    (pair,) = cs.simulate("tirf-sim", pairs=1, size_px=512, seed=5201)
    registered = cs.register(cs.RawPair("pits", pair.source, pair.target))
    transform = Transform(np.column_stack([np.array(matrix, float), [0.1, 0.1]]))
    known = replace(registered, transform=transform, source_pixel_size_nm=None)
    phases = find_phases([known])
    assert np.abs([phase.drift_px for phase in phases]).max() < 1e-9


@pytest.mark.parametrize("start", [0, 300])
def test_a_crop_drifts_from_where_it_begins_to_where_it_ends(start: int) -> None:
    ramp = np.add.outer(1000 * np.arange(400.0), np.arange(400.0))
    model = cs.Model.load("widefield-20x-dapi")
    image = cs.Image(ramp, "yx", (650.0, 650.0))
    (view,) = open_views(model, slide_of(image), cs.PredictionPlan())
    at = slice(start, start + 129)  # one more than a crop, whose far corner that is
    still, moved = (
        view.read((), at, at, move=move) for move in (STILL, Phase((0.25, -0.5), (1.0, -0.5)))
    )
    along = np.arange(129) / 128
    farther_px = np.add.outer(1000 * (0.25 + along), -0.5 - 0.5 * along)
    inner = slice(5, -5)  # the border's pixels are repeated beyond it
    assert (moved - still)[inner, inner] == pytest.approx(farther_px[inner, inner], abs=1e-6)


@pytest.mark.parametrize("side_px", [180, 256, 293])
def test_crops_are_moved_away_from_the_border_of_what_was_taken(side_px: int) -> None:
    model = cs.Model.load("widefield-20x-dapi")
    image = cs.Image(np.zeros((side_px, side_px)), "yx", (650.0, 650.0))
    (view,) = open_views(model, slide_of(image), cs.PredictionPlan())
    spots = list(cover(view.shape))
    domain = Domain.from_json(model.certificate["domain"])
    phases, moves = _find_moves(view, spots, domain.phases)
    assert phases != [STILL] * len(spots)
    ends = []
    for spot, phase, move in zip(spots, phases, moves, strict=True):
        for at, asked, start, drift in zip(
            spot, phase.start_px, move.start_px, move.drift_px, strict=True
        ):
            first = at.start / 2 + start  # from where the image begins, in its pixels
            assert (first - asked + 0.5) % 1 == pytest.approx(0.5, abs=2e-3)
            ends += [first, first + (at.stop - at.start) / 2 + drift]
    assert min(ends) > -1e-3
    assert max(ends) < side_px + 1e-3


@pytest.mark.parametrize("side_px", [256, 500, 593])
def test_noise_is_no_signal_wherever_crops_begin(side_px: int, rng: np.random.Generator) -> None:
    """On a grid twice as fine every second crop may begin in the middle of a source pixel."""
    dark = 100 + 2 * rng.poisson(20, (side_px, side_px)) + rng.normal(0, 3, (side_px, side_px))
    image = cs.Image(dark.astype(np.uint16), "yx", (650.0, 650.0))
    found = cs.check(cs.Model.load("widefield-20x-txred"), image)
    assert (found.verdict, found.numbers["signal"]) == ("doubtful", False)


@pytest.mark.parametrize("side_px", [512, 582])
def test_pairs_that_were_not_moved_are_still_wherever_crops_begin(side_px: int) -> None:
    (pair,) = cs.simulate("tirf-sim", pairs=1, size_px=side_px, seed=5201)
    registered = cs.register(cs.RawPair("pits", pair.source, pair.target))
    fine = registered.source.with_pixels(np.zeros((side_px, side_px), np.float32))
    matrix = np.array([[0.5, 0.0, -0.25], [0.0, 0.5, -0.25]])
    known = replace(
        registered, source=fine, target=fine, transform=Transform(matrix), origin_yx_px=(0, 0)
    )
    assert find_phases([known]) == (STILL,)
    moved = find_phases([replace(known, origin_yx_px=(1, 0))])
    assert moved != (STILL,)
    assert {abs(px) for phase in moved for px in phase.start_px} == {0.0, 0.5}


@pytest.mark.parametrize(("fields", "learns"), [(3, False), (5, False), (8, True)])
def test_what_tells_a_blur_is_learnt_where_there_is_enough_to_learn_from(
    beads: cs.Model, fields: int, learns: bool
) -> None:
    simulated = cs.simulate("confocal-sted", pairs=fields, size_px=512, seed=5301)
    sources = [pair.source.pixels.astype(np.float32) for pair in simulated]
    blurred = [ndimage.gaussian_filter(source, 1.0) for source in sources]
    scaling = beads.source_scaling
    domain = learn_domain(beads.generator, sources, scaling, blurred=blurred)
    alone = learn_domain(beads.generator, sources, scaling)
    for found, knows in ((domain, learns), (alone, False)):
        assert (np.count_nonzero(found.blur.weights) > 1) == knows
        assert found.deep_blur.weights.any() == knows


def test_a_network_that_is_dead_leaves_a_domain_that_can_be_read(beads: cs.Model) -> None:
    simulated = cs.simulate("confocal-sted", pairs=8, size_px=512, seed=5301)
    sources = [pair.source.pixels.astype(np.float32) for pair in simulated]
    blurred = [ndimage.gaussian_filter(source, 1.0) for source in sources]
    dead = copy.deepcopy(beads.generator)
    for weights in dead.parameters():
        weights.data *= 1e-3
    domain = learn_domain(dead, sources, beads.source_scaling, blurred=blurred)
    assert not domain.deep_blur.weights.any()
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5201)
    read = replace(beads, generator=dead, certificate={"domain": domain.to_json()})
    assert cs.check(read, pair.source).domain == "inside"


def test_crops_are_spread_over_the_image() -> None:
    places = list(place_crops((1000, 600)))
    assert len(places) == 16
    assert (places[0][0].start, places[-1][0].stop) == (0, 1000)
    assert (places[0][1].start, places[-1][1].stop) == (0, 600)
    assert list(place_crops((50, 40))) == [(slice(0, 50), slice(0, 40))]


def test_features_are_numbers_whatever_the_crop(rng: np.random.Generator) -> None:
    crops = np.stack([np.zeros((128, 128)), rng.normal(size=(128, 128)), np.eye(128)])
    found = measure_features(crops.astype(np.float32))
    assert found.values.shape == (3, len(NAMES))
    assert np.isfinite(found.values).all()
    assert found.signal.tolist()[:2] == [False, False]
    assert make_whole(np.ones((5, 100))).shape == (128, 128)


def test_other_planes_of_a_place_are_no_other_crops(beads: cs.Model, field: cs.Image) -> None:
    alone = cs.check(beads, field).numbers["distance"]
    for planes in (2, 5):
        stack = field.with_pixels(np.stack([field.pixels] * planes), axes="zyx")
        assert cs.check(beads, stack).numbers["distance"] == pytest.approx(alone, rel=1e-9)


def test_a_lapse_is_no_farther_than_its_frames() -> None:
    model = cs.Model.load("tirf-sim-pits")
    (pair,) = cs.simulate("tirf-sim", pairs=1, size_px=256, frames=4, seed=9600)
    whole = cs.check(model, pair.source)
    frames = [
        cs.check(model, pair.source.with_pixels(frame, axes="yx")) for frame in pair.source.pixels
    ]
    assert (whole.domain, {each.domain for each in frames}) == ("inside", {"inside"})
    assert whole.numbers["distance"] < max(each.numbers["distance"] for each in frames)


@pytest.mark.parametrize("more", [5, -4])
def test_another_background_is_named_and_its_remedy_helps(
    beads: cs.Model, field: cs.Image, more: int
) -> None:
    moved = field.with_pixels((field.pixels.astype(int) + more).astype(np.uint16))
    found = cs.check(beads, moved)
    assert found.domain == "outside"
    than = "higher" if more > 0 else "lower"
    assert found.reasons == (
        f"the background is {abs(more)} grey values {than} than in training: give --offset, or "
        "subtract it",
    )
    assert "Give --offset" in refusal(beads, moved)
    offset = beads.source_scaling.offset + more
    assert cs.check(beads, moved, plan=cs.PredictionPlan(offset=offset)).domain == "inside"


def test_of_dense_fields_the_darkest_place_tells_the_background(nuclei: cs.Image) -> None:
    moved = nuclei.with_pixels((nuclei.pixels + 100).astype(np.uint16))
    (reason,) = cs.check(cs.Model.load("confocal-sted-nuclei"), moved).reasons
    assert 85 < float(reason.split()[3]) < 120
    assert "higher than in training: give --offset" in reason


def test_noise_as_in_other_fields_of_the_kind_is_no_reason() -> None:
    """Such fields are as noisy when raw; in training they had been resampled."""
    model = cs.Model.load("confocal-sted-nuclei")
    (pair,) = cs.simulate("confocal-sted", sample="nuclei", pairs=1, size_px=256, seed=9704)
    found = cs.check(model, pair.source)
    assert found.domain == "outside"
    assert found.reasons == ("the network sees other structures than in training",)


@pytest.mark.parametrize(
    ("name", "size_px"),
    [("confocal-sted-beads", 256), ("tirf-sim-pits", 160), ("widefield-20x-fitc", 160)],
)
def test_noise_is_no_signal_whatever_the_zoom(name: str, size_px: int) -> None:
    model, rng = cs.Model.load(name), np.random.default_rng(3)
    for level in (12, 120):
        empty = rng.poisson(level, (size_px, size_px)).astype(np.uint16)
        found = cs.check(model, cs.Image(empty, "yx", model.source_pixel_size_nm))
        assert (found.domain, found.numbers["signal"]) == ("inside", False)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("tirf-sim-pits", {"photons": 75.0}),
        ("tirf-sim-filaments", {"sample": "filaments"}),
        ("widefield-20x-dapi", {"sample": "nuclei", "channel": "dapi"}),
        ("widefield-20x-fitc", {"sample": "filaments", "channel": "fitc"}),
    ],
)
def test_dim_sparse_and_dense_fields_have_signal(name: str, asked: dict[str, object]) -> None:
    system = name[: name.rindex("-")]
    (pair,) = cs.simulate(system, pairs=1, size_px=128, seed=9702, **asked)  # type: ignore[arg-type]
    assert cs.check(cs.Model.load(name), pair.source).numbers["signal"]


def test_of_large_empty_images_no_more_is_said_than_was_seen(
    beads: cs.Model, rng: np.random.Generator
) -> None:
    def say(shape: tuple[int, ...], axes: str) -> tuple[str, ...]:
        empty = rng.poisson(12, shape).astype(np.uint16)
        return cs.check(beads, cs.Image(empty, axes, (30.0, 30.0))).reasons

    words = "no signal: it shows nothing but noise"
    assert say((255, 200), "yx") == say((2, 128, 128), "zyx") == (words,)
    assert say((640, 640), "yx") == (f"{words} in the 16 parts looked at",)
    assert say((6, 128, 128), "tyx") == (f"{words} in the 4 parts looked at",)


def test_who_has_no_certificate_is_not_judged(
    beads: cs.Model, field: cs.Image, tmp_path: Path
) -> None:
    bare = replace(beads, certificate={})
    found = cs.check(bare, field)
    assert (found.domain, found.verdict) == (None, None)
    assert "no certificate" in found.reasons[0]
    assert cs.check(bare, field, plan=cs.PredictionPlan(pixel_size_nm=60.0)).verdict == "refused"
    model, image, sharp = (tmp_path / name for name in ("bare.zip", "a.tif", "sharp.tif"))
    bare.save(model)
    cs.write_image(field, image)
    cs.write_image(field.with_pixels(field.pixels.astype(np.float32)), sharp)
    asked = ["check", model, image, sharp, "--map", tmp_path / "doubt.tif"]
    outcome = CliRunner().invoke(app, [str(each) for each in asked])
    assert outcome.exit_code == 0
    assert "not judged" in outcome.stdout
    assert "no trust map was written" in outcome.stderr
    assert not (tmp_path / "doubt.tif").exists()


def test_a_pixel_size_that_was_given_is_a_reason_and_no_other_objective(
    beads: cs.Model, field: cs.Image
) -> None:
    found = cs.check(beads, field, plan=cs.PredictionPlan(pixel_size_nm=41.0))
    assert (found.domain, found.verdict) == ("outside", "refused")
    assert found.reasons[0].startswith("its pixels are 41 x 41 nm")
    assert "wider than in training" in found.reasons[1]
    assert "objective" not in " ".join(found.reasons)
    said = refusal(beads, field, pixel_size_nm=36.0)
    assert "its pixels are 36 x 36 nm" in said
    assert "Check its pixel size (--pixel-size-nm), or use --force" in said


def test_all_of_a_small_image_is_looked_at(
    beads: cs.Model, field: cs.Image, nuclei: cs.Image
) -> None:
    small = field.pixels[:200, :200]
    assert cs.check(beads, field.with_pixels(small)).domain == "inside"
    mixed = nuclei.pixels[:200, :200].copy()
    mixed[:128, :128] = small[:128, :128]
    assert cs.check(beads, field.with_pixels(mixed)).domain == "outside"


@pytest.mark.parametrize(
    ("shape", "count"), [((200, 300), 3.125), ((128, 129), 1.0078125), ((255, 512), 7.96875)]
)
def test_short_sides_are_covered_and_counted_as_what_they_hold(
    shape: tuple[int, int], count: float
) -> None:
    seen = np.zeros(shape, bool)
    for at in cover(shape):
        assert seen[at].shape == (128, 128)
        seen[at] = True
    assert seen.all(axis=0).any()
    assert seen.all() == is_covered(shape)
    assert count_independent(shape) == count


@pytest.mark.parametrize("shape", [(256, 256), (300, 1000), (4096, 512)])
def test_of_large_images_the_crops_are_those_that_are_learnt_from(shape: tuple[int, int]) -> None:
    assert list(cover(shape)) == list(place_crops(shape))
    assert count_independent(shape) == len(list(cover(shape)))


@pytest.mark.parametrize(("step", "more"), [(16, 0), (40, 0), (16, 5)])
def test_left_aligned_bits_are_told(beads: cs.Model, field: cs.Image, step: int, more: int) -> None:
    pixels: UInt16[np.ndarray, "y x"] = (field.pixels * step + more).astype(np.uint16)
    shifted = field.with_pixels(pixels)
    found = cs.check(beads, shifted)
    assert found.domain == "outside"
    assert found.reasons == (
        f"grey values come in steps of {step}: fewer bits, stored left-aligned? divide by {step}",
    )
    assert f"Divide its grey values by {step}, or use --force" in refusal(beads, shifted)
    given = cs.check(beads, shifted, plan=cs.PredictionPlan(offset=step * 11.9 + more))
    assert given.reasons == found.reasons


def test_who_learnt_from_left_aligned_bits_is_not_told_to_divide(
    beads: cs.Model, field: cs.Image
) -> None:
    scaling = replace(
        beads.source_scaling,
        offset=16 * beads.source_scaling.offset,
        scale=16 * beads.source_scaling.scale,
    )
    learnt = replace(beads, source_scaling=scaling)
    found = cs.check(learnt, field.with_pixels(field.pixels * np.uint16(16)))
    assert (found.domain, found.reasons) == ("inside", ())


def test_the_advice_is_chosen_by_the_reason(
    beads: cs.Model, field: cs.Image, nuclei: cs.Image
) -> None:
    clipped = field.with_pixels(np.minimum(field.pixels, 150))
    assert "Take it again with less light, or use --force" in refusal(beads, clipped)
    assert "another objective" not in refusal(beads, clipped)
    both = clipped.with_pixels(clipped.pixels * np.uint16(16))
    wanted = "Divide its grey values by 16 and take it again with less light"
    assert wanted in refusal(beads, both)
    assert "Fine-tune it with about 8 pairs (train --init)" in refusal(beads, nuclei)


@pytest.mark.parametrize("side_px", [20, LEAST_PX - 1])
def test_what_is_too_small_is_doubtful_and_nothing_is_made_up(
    beads: cs.Model, field: cs.Image, side_px: int
) -> None:
    found = cs.check(beads, field.with_pixels(field.pixels[60 : 60 + side_px, 60:200]))
    assert (found.domain, found.verdict) == ("near", "doubtful")
    words = f"{side_px} px of at least {LEAST_PX} on the output's grid"
    assert found.reasons == (f"it is too small to be judged: {words}",)
    assert found.numbers["distance"] is None


def test_just_large_enough_is_judged(beads: cs.Model, field: cs.Image) -> None:
    found = cs.check(beads, field.with_pixels(field.pixels[:LEAST_PX, :LEAST_PX]))
    assert (found.domain, found.verdict) == ("inside", "good")


def test_a_lapse_in_which_pits_come_and_go_is_of_the_models_kind() -> None:
    (pair,) = cs.simulate("tirf-sim", sample="pits", pairs=1, size_px=256, frames=30, seed=5100)
    assert cs.check(cs.Model.load("tirf-sim-pits"), pair.source).domain == "inside"


def test_images_that_a_model_serves_are_of_its_kind(beads: cs.Model) -> None:
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=256, seed=5101)
    dense, sparse = pair.source.pixels, pair.source.pixels.copy()
    sparse[:, :192] = np.median(dense)
    learnt = cs.register(cs.RawPair(pair.name, pair.source, pair.target))
    served = [pair.source.with_pixels(np.stack([sparse, sparse.T]), axes="tyx")]
    plain, wider = (
        cs.check(
            cs.certify(beads, [learnt], claims=False, served=images),
            pair.source.with_pixels(sparse[::-1].copy()),
        ).numbers["distance"]
        for images in ((), served)
    )
    assert wider < 0.5 * plain


@pytest.mark.parametrize(
    ("name", "sample", "others"),
    [
        ("tirf-sim-filaments", "filaments", ("beads", "nuclei")),
        ("tirf-sim-pits", "pits", ("nuclei", "filaments")),
    ],
)
def test_half_of_one_field_is_enough_to_take_the_other_and_refuse_other_samples(
    name: str, sample: str, others: tuple[str, ...]
) -> None:
    model = cs.Model.load(name)

    def raw(of: str) -> cs.Image:
        (pair,) = cs.simulate("tirf-sim", sample=of, pairs=1, size_px=512, seed=5300)
        return pair.source

    field = raw(sample)
    half = field.pixels.shape[1] // 2
    left = resample(field.pixels[:, :half], (2.0, 2.0)).astype(np.float32)
    domain = learn_domain(model.generator, [left], model.source_scaling)
    learnt = replace(model, certificate={"domain": domain.to_json()})
    found = [cs.check(learnt, field.with_pixels(field.pixels[:, half:]))]
    found += [cs.check(learnt, raw(other)) for other in others]
    assert [each.domain for each in found] == ["inside", *("outside" for _ in others)]


def test_of_little_the_reach_is_farther(beads: cs.Model) -> None:
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=512, seed=5300)
    reaches = []
    for source in (pair.source.pixels, pair.source.pixels[:128, :128]):
        domain = learn_domain(beads.generator, [source.astype(np.float32)], beads.source_scaling)
        reaches.append(domain.classical.reach)
    assert reaches[1][-1] > 2 * reaches[0][-1]
