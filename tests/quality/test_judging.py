"""A pair's output is judged as an image's is: what was put into it shows."""

from dataclasses import replace

import numpy as np
import pytest

import crosscope as cs
from crosscope.prediction.tiling import sharpen
from crosscope.quality.judging import judge_pair

ENGINE = cs.Engine(1, "float32")


@pytest.fixture(scope="module")
def pair() -> cs.RegisteredPair:
    (raw,) = cs.simulate("confocal-sted", pairs=1, size_px=288, seed=5200)
    return cs.register(cs.RawPair("beads", raw.source, raw.target))


@pytest.fixture(scope="module")
def made(beads: cs.Model, pair: cs.RegisteredPair) -> dict[str, np.ndarray]:
    networks = {"output": beads.generator, "twin": beads.twin}
    return {
        name: sharpen(beads, pair.source.pixels[None], engine=ENGINE, network=network)[0]
        for name, network in networks.items()
    }


def test_what_the_model_makes_of_a_pair_is_good(
    beads: cs.Model, pair: cs.RegisteredPair, made: dict[str, np.ndarray]
) -> None:
    found = judge_pair(beads, pair, made["output"])
    assert (found.domain, found.verdict, found.reasons) == ("inside", "good", ())
    assert {"distance", "signal", "chi_square", "rsp", "rse", "beyond_share"} <= set(found.numbers)
    assert found.trust is not None
    assert found.trust.pixels.shape == pair.source.pixels.shape
    assert (found.trust.pixels > 50).mean() < 0.01


def test_an_object_put_into_the_output_is_doubtful_and_shows_where(
    beads: cs.Model, pair: cs.RegisteredPair, made: dict[str, np.ndarray]
) -> None:
    output, middle = made["output"].copy(), slice(120, 140)
    output[middle, middle] += 5 * beads.target_scaling.scale
    found = judge_pair(beads, pair, output)
    assert found.verdict == "doubtful"
    assert "contradict the input" in " ".join(found.reasons)
    assert found.trust is not None
    assert found.trust.pixels[125:135, 125:135].min() > 100
    assert (found.trust.pixels[:80, :80] > 50).mean() < 0.01


def test_the_twins_doubt_is_added_where_it_is_larger(
    beads: cs.Model, pair: cs.RegisteredPair, made: dict[str, np.ndarray]
) -> None:
    output, at = made["output"].copy(), slice(143, 146)
    output[at, at] += 40
    alone, both = (judge_pair(beads, pair, output, sisters=given) for given in ([], [made["twin"]]))
    assert alone.trust is not None
    assert both.trust is not None
    assert (both.trust.pixels >= alone.trust.pixels).all()
    assert int(both.trust.pixels[at, at].min()) > int(alone.trust.pixels[at, at].max())
    assert both.numbers == alone.numbers


def test_registered_sources_are_judged_as_they_lie_and_raw_ones_where_training_lay(
    beads: cs.Model, pair: cs.RegisteredPair, made: dict[str, np.ndarray]
) -> None:
    domain = {**beads.certificate["domain"], "phases": [[0.5, 0.5, 0.0, 0.0]]}
    other = replace(beads, certificate={**beads.certificate, "domain": domain})
    here, there = (judge_pair(m, pair, made["output"]).numbers for m in (beads, other))
    assert here["distance"] == there["distance"]
    raw, moved = (cs.check(model, pair.source).numbers for model in (beads, other))
    assert raw["distance"] != moved["distance"]


def test_rounding_is_no_disagreement(beads: cs.Model, pair: cs.RegisteredPair) -> None:
    twice = replace(beads, twin=beads.generator)  # as a twin is that was kept a step before
    nearly = {**beads.certificate["twin"], "floor": 1e-6, "share": 0.0}
    model = replace(twice, certificate={**beads.certificate, "twin": nearly})
    engines = cs.Engine(1, "bfloat16"), ENGINE
    rounded, exact = (sharpen(model, pair.source.pixels[None], engine=e)[0] for e in engines)
    assert not np.array_equal(rounded, exact)
    alone = judge_pair(model, pair, rounded)
    both = judge_pair(model, pair, rounded, sisters=[exact])
    assert alone.trust is not None
    assert both.trust is not None
    assert (both.trust.pixels > 30).mean() <= (alone.trust.pixels > 30).mean() + 1e-3
    assert (both.trust.pixels > 50).mean() == (alone.trust.pixels > 50).mean()


def test_without_a_certificate_there_is_but_the_reason(
    beads: cs.Model, pair: cs.RegisteredPair, made: dict[str, np.ndarray]
) -> None:
    found = judge_pair(replace(beads, certificate={}), pair, made["output"])
    assert (found.domain, found.verdict, found.trust) == (None, None, None)
    assert "no certificate" in found.reasons[0]


@pytest.mark.parametrize("part", ["domain", "forward", "agreement", "twin", "claim"])
def test_a_damaged_certificate_is_told(
    beads: cs.Model, pair: cs.RegisteredPair, made: dict[str, np.ndarray], part: str
) -> None:
    damaged = replace(beads, certificate={**beads.certificate, part: {"nonsense": 1}})
    with pytest.raises(cs.ModelError, match=f"certificate is damaged: {part}"):
        judge_pair(damaged, pair, made["output"], sisters=[made["twin"]])
