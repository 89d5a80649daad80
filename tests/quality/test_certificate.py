"""A certificate may hold anything: what it says is used, or refused in plain words."""

import copy
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosscope as cs
from crosscope.model.catalogue import SHIPPED
from crosscope.quality.claim import Claim
from crosscope.quality.disagreement import Usual
from crosscope.quality.domain import Domain
from crosscope.quality.forward import Forward
from crosscope.quality.inspection import read_certificate
from crosscope.quality.quantities import Quantities
from crosscope.quality.reblur import Reblurrer
from crosscope.report.trust import describe_certificate

FORGED: list[Any] = [10**400, 1e300, -1e300, float("inf"), float("nan"), -1, 0, None, "x", [], {}]
GREY = np.add.outer(np.arange(96.0), np.arange(96.0)).astype(np.float32)
Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Yield where the numbers are; of a long list the first and the last."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from places(each, (*at, name))
    elif isinstance(value, list | tuple):
        for n in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from places(value[n], (*at, n))
    elif isinstance(value, int | float):
        yield at


def forge(value: Any, at: Place, forged: Any) -> Any:
    """Return a copy with another value at a place."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = forged
    return changed


@pytest.fixture(scope="module")
def whole(beads: cs.Model) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(beads.certificate))
    return found


def compare(forward: Forward) -> None:
    reblurrer = Reblurrer(forward, forward.noise, 0.0)
    assert reblurrer.halo_px < 1e5
    reblurrer.compare(GREY, GREY)


USED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "domain": (Domain.from_json, lambda domain: domain.fineness.distance(np.ones((4, 1)))),
    "forward": (Forward.from_json, compare),
    "twin": (Usual.from_json, lambda usual: usual.disagreement(GREY, GREY)),
    "claim": (Claim.from_json, lambda claim: claim.sentence),
    "quantities": (Quantities.from_json, lambda quantities: quantities.sentence),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers that are large, but finite
@pytest.mark.parametrize("part", USED)
def test_a_forged_number_is_used_or_refused(
    beads: cs.Model, whole: dict[str, Any], part: str
) -> None:
    read, use = USED[part]
    refused = 0
    for at in places(whole[part]):
        for forged in FORGED:
            certificate = {**whole, part: forge(whole[part], at, forged)}
            model = replace(beads, certificate=certificate)
            try:
                use(read_certificate(model, part, read))
            except cs.ModelError:
                refused += 1
            describe_certificate(model)
    assert refused > 10


@pytest.mark.parametrize(
    "forged", [10**400, float("nan"), -1.0, "x", None], ids=["huge", "nan", "below 0", "x", "none"]
)
@pytest.mark.parametrize("name", ["chi_square", "beyond_share"])
def test_a_forged_agreement_is_refused(beads: cs.Model, name: str, forged: Any) -> None:
    agreement = [{"chi_square": 1.0, "beyond_share": 0.0, name: forged}]
    model = replace(beads, certificate={**beads.certificate, "agreement": agreement})
    image = cs.Image(np.zeros((64, 64), np.uint16), "yx", beads.source_pixel_size_nm)
    output = cs.Image(np.zeros((64, 64), np.float32), "yx", beads.target_pixel_size_nm)
    with pytest.raises(cs.ModelError, match="agreement"):
        cs.check(model, image, output)


def test_a_domain_of_another_network_is_told(beads: cs.Model, whole: dict[str, Any]) -> None:
    domain = copy.deepcopy(whole["domain"])
    domain["middle"] = domain["middle"][:3]
    domain["project"] = [row[:3] for row in domain["project"]]
    model = replace(beads, certificate={**whole, "domain": domain})
    (pair,) = cs.simulate("confocal-sted", pairs=1, size_px=128, seed=5102)
    with pytest.raises(cs.ModelError, match="another network"):
        cs.check(model, pair.source)


@pytest.mark.parametrize(
    "forged", [10**400, float("inf"), float("nan")], ids=["huge", "infinite", "nan"]
)
def test_a_forged_number_in_a_file_is_told(tmp_path: Path, forged: Any) -> None:
    with zipfile.ZipFile(SHIPPED / "confocal-sted-beads.zip") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(entries["model.json"])
    for at in (
        ("source_scaling", "offset"),
        ("target_scaling", "scale"),
        ("source_pixel_size_nm", 0),
        ("reach", "halo_px"),
        ("certificate", "forward", "gain"),
        ("training", "seconds"),
    ):
        path = tmp_path / "forged.zip"
        entries["model.json"] = json.dumps(forge(about, at, forged)).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        if forged == 10**400 and at[0] in ("certificate", "training"):
            assert cs.Model.load(path).certificate  # told where it is used
            continue
        with pytest.raises(cs.ModelError, match="description is damaged"):
            cs.Model.load(path)
