"""The bead model takes beads, and nothing else; where little is known, little is refused."""

import json

import numpy as np
import pytest

import crosscope as cs
from crosscope.quality.domain import Domain, place_crops
from crosscope.quality.features import NAMES, make_whole, measure_features, saturated_share


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
    damages = (
        {"features": ["colour"]},
        {"middle": [1.0]},
        {"classical": value["deep"]},
        {"deep": value["deep"] | {"reach": [0.0, 1.0, 1.0]}},
        {"deep": value["deep"] | {"centre": [float("nan")] * 8}},
    )
    for damage in damages:
        with pytest.raises(ValueError, match=r"feature|not a number from"):
            Domain.from_json(value | damage)


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
