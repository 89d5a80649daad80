"""A model file whose numbers were changed: it works, or says in one line what is wrong."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosscope as cs
from crosscope.model.generator import build_generator
from crosscope.prediction.bounds import Calibration
from crosscope.quality.claim import Claim
from crosscope.quality.disagreement import Usual
from crosscope.quality.domain import Domain
from crosscope.quality.forward import WIDEST_PX, Forward
from crosscope.quality.inspection import check, read_certificate
from crosscope.quality.quantities import Quantities
from crosscope.quality.reblur import HALO, Reblurrer
from crosscope.report.trust import describe_certificate

CERTIFICATE = cs.Model.load("confocal-sted-beads").certificate
HOSTILE = [10**400, 1e300, -1, None, "x"]
READERS = {
    "domain": Domain.from_json,
    "forward": Forward.from_json,
    "twin": Usual.from_json,
    "claim": Claim.from_json,
    "quantities": Quantities.from_json,
    "intervals": Calibration.from_json,
}
At = tuple[str | int, ...]


def numbers_of(value: Any, at: At = ()) -> Iterator[At]:
    """Yield where numbers are, of a list in its first and its last element."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers_of(part, (*at, key))
    elif isinstance(value, list | tuple):
        for n in sorted({0, len(value) - 1} if len(value) else ()):
            yield from numbers_of(value[n], (*at, n))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield at


def with_value(whole: Any, at: Sequence[str | int], value: object) -> Any:
    """Return a copy in which one place holds another value."""
    if not at:
        return value
    copy: Any = dict(whole) if isinstance(whole, dict) else list(whole)
    copy[at[0]] = with_value(whole[at[0]], at[1:], value)
    return copy


@pytest.fixture(scope="module")
def small(beads: cs.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the file of a model holds that is described as the shipped one, of few weights."""
    generator = build_generator("fast", 2)
    path = tmp_path_factory.mktemp("small") / "model.zip"
    replace(beads, base=2, generator=generator, twin=None, heads=None).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def save(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: str(value)[:6])
def test_any_number_of_a_description_is_used_or_told(
    small: dict[str, bytes], tmp_path: Path, value: object
) -> None:
    card = json.loads(small["model.json"])
    stored = {"plan", "training", "card"}  # and nothing is computed with them: all at once
    free = [at for at in numbers_of(card) if at[0] in stored]
    places = [[at] for at in numbers_of(card) if at[0] not in stored | {"certificate"}]
    names = {at[0] for (at,) in places}
    assert {"base", "reach", "source_scaling", "target_pixel_size_nm", "parameters"} <= names
    told = set()
    for group in [*places, free]:
        damaged = card
        for at in group:
            damaged = with_value(damaged, at, value)
        path = save(tmp_path / "model.zip", small | {"model.json": json.dumps(damaged).encode()})
        try:
            cs.Model.load(path)
        except cs.ModelError:
            told.add(group[0][0])
    may_be_below_0 = {"source_scaling", "target_scaling"} if value == -1 else set()
    assert told >= names - {"version"} - may_be_below_0


def reads(model: cs.Model, part: str) -> bool:
    """Read a part of a certificate and take the first step with it; False where it is told."""
    try:
        found = read_certificate(model, part, READERS[part])
    except cs.ModelError:
        return False
    if isinstance(found, Forward):
        reblurrer = Reblurrer(found, found.noise, 0.0)
        assert found.border * found.block_px <= reblurrer.halo_px < 2 * HALO * WIDEST_PX
    if isinstance(found, Usual):
        assert found.halo_px <= 3 * WIDEST_PX
    if isinstance(found, Domain):
        found.deep.distance(found.deep.centre[None])
    if isinstance(found, Claim | Quantities | Calibration):
        assert len(found.sentence) < 300
    return True


@pytest.mark.parametrize("part", READERS)
def test_any_number_of_a_certificate_is_used_or_told(beads: cs.Model, part: str) -> None:
    for at in numbers_of({part: CERTIFICATE[part]}):
        for value in HOSTILE:
            certificate = with_value(CERTIFICATE, at, value)
            model = replace(beads, certificate=certificate)
            read = reads(model, part)
            assert not (read and value in ("x", 1e300, 10**400)), (at, value)
            told = describe_certificate(model)["certificate"]
            for name in {part} & {"claim", "quantities"}:
                assert (told[name] is not None) == read


CHECKED: list[tuple[At, object]] = [
    (("domain", "middle"), [0.0] * 3),
    (("domain", "project", 0, 0), 10**400),
    (("domain", "deep", "reach", 0), 1e300),
    (("forward", "target_fwhm_px"), 1e9),
    (("forward", "target_fwhm_px"), WIDEST_PX - 20),
    (("forward", "zoom"), 1e9),
    (("forward", "zoom"), 1e-9),
    (("forward", "zoom"), 20.0),
    (("forward", "transfer"), [1.0] + [0.0] * 64),
    (("forward", "transfer"), [-2.0] * 65),
    (("forward", "noise", "read_noise"), 1e-300),
    (("forward", "gain"), 10**400),
    (("agreement", 0, "chi_square"), 10**400),
    (("agreement", 0, "beyond_share"), None),
    (("claim", "peak_grey"), 10**400),
    (("twin", "sigma_px"), 1e9),
    (("twin", "sigma_px"), 10**400),
]


@pytest.mark.parametrize(("at", "value"), CHECKED, ids=lambda value: str(value)[:40])
def test_a_check_ends_in_a_verdict_or_a_sentence(beads: cs.Model, at: At, value: object) -> None:
    grey = np.random.default_rng(0).poisson(20, (256, 256)).astype(np.uint16)
    grey[60:64, 60:64] += 300
    image = cs.Image(grey, "yx", (30.0, 30.0))
    output = image.with_pixels(grey.astype(np.float32))
    certificate = with_value(CERTIFICATE, at, value)
    told = f"its certificate is damaged: {at[0]}"
    try:
        found = check(replace(beads, certificate=certificate), image, output, level="full")
    except cs.ModelError as error:
        if not error.reason.startswith(told):
            raise
    else:
        assert found.verdict in ("good", "doubtful", "refused")


def test_a_domain_of_other_features_is_of_another_version(beads: cs.Model) -> None:
    older = with_value(CERTIFICATE, ("domain", "features", 0), "colour")
    with pytest.raises(cs.ModelError, match="of another version of crosscope") as caught:
        read_certificate(replace(beads, certificate=older), "domain", Domain.from_json)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("text", [b"1e999", b"NaN", b"-Infinity", b"[" * 40 + b"]" * 40])
@pytest.mark.parametrize("entry", ["model.json", "log.jsonl"])
def test_what_cannot_be_written_again_is_told(
    small: dict[str, bytes], tmp_path: Path, entry: str, text: bytes
) -> None:
    forged = {
        "model.json": small["model.json"].replace(b'"seconds":', b'"more": %b, "seconds":' % text),
        "log.jsonl": b'{"step": %b}\n' % text,
    }
    assert cs.Model.load(save(tmp_path / "whole.zip", small)).training
    path = save(tmp_path / "model.zip", small | {entry: forged[entry]})
    with pytest.raises(cs.ModelError, match="description is damaged"):
        cs.Model.load(path)
