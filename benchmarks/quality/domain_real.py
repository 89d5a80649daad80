"""The gate on real images: learnt on a part of one field -> results/quality/domain_real.json.

    python benchmarks/quality/domain_real.py [--steps 30]

A model is trained briefly on one part of a real pair. It should accept the raw image of the field's
other part, and refuse the sources of the other sets, their pixels taken as if they had the size
that it was made for. Sets of `../shared/data` that are absent are left out, and named.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fields import PLAN, RESULTS
from machine import describe_machine
from recipes import DATA

import crosscope as cs
from crosscope.quality.domain import learn_domain


@dataclass(frozen=True)
class Set:
    """A real pair: files in a folder of `../shared/data`, pixel sizes, and how it is parted."""

    source: str
    target: str
    source_nm: float | None = None
    target_nm: float | None = None
    axis: int = 0


PAIRED = {
    "microtubule_widefield_sim": Set("widefield.tif", "sim.tif", 30.0),
    "microtubule_widefield_storm": Set(
        "microtubule_widefield.tif", "microtubule_STORM.tif", 96.8, 19.36, axis=1
    ),
    "pinhole_confocal": Set("FRC_GaAsP_AU20.nd2", "FRC_GaAsP_AU04.nd2"),
}
UNPAIRED = {
    "beads_two_colour": "channel_align_test_green_bead.ome.tif",
    "bpae_three_channel": "BPAE_actin.tif",
    "ht29_three_channel": "AS_09125_050116030001_D03f00d0.tif",
    "u2os_three_channel": "IXMtest_A02_s9.tif",
}


def main() -> None:
    """Train on each real pair, and let its model judge all sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    names = {name: each.source for name, each in PAIRED.items()} | UNPAIRED
    absent = [name for name, file in names.items() if not (DATA / name / file).exists()]
    if absent:
        print("left out, not in ../shared/data:", *absent)
    images = {
        name: plane_of(DATA / name / file) for name, file in names.items() if name not in absent
    }
    found: dict[str, Any] = {}
    for name, each in PAIRED.items():
        if name not in absent:
            found[name] = judge_all(name, each, images, steps)
            print(name, {kind: (v["domain"], v["distance"]) for kind, v in found[name].items()})
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"machine": describe_machine(), "steps": steps, "absent": absent, "models": found}
    (RESULTS / "domain_real.json").write_text(json.dumps(result, indent=1) + "\n")


def plane_of(path: Path) -> cs.Image:
    """Read the first plane of the first channel."""
    image = cs.read_image(path)
    pixels = image.pixels.reshape(-1, *image.pixels.shape[-2:])[0]
    return image.with_pixels(pixels, axes="yx", channels=())


def judge_all(
    name: str, each: Set, images: Mapping[str, cs.Image], steps: int
) -> dict[str, dict[str, Any]]:
    """Train on the first half of a field; judge its raw second half, and the other sets."""
    folder = DATA / name
    (raw,) = cs.read_pairs(
        folder / each.source,
        folder / each.target,
        source_pixel_size_nm=each.source_nm,
        target_pixel_size_nm=each.target_nm,
    )
    pair = cs.register(raw)
    half = pair.source.pixels.shape[each.axis] // 2
    learnt = cs.take_part(pair, axis=each.axis, start=0, stop=half)
    model = cs.train([learnt], cs.TrainingPlan(steps=steps, threads=1))
    domain = learn_domain(model.generator, [learnt.source.pixels], model.source_scaling)
    model = replace(model, certificate={"domain": domain.to_json()})
    shown = {"same field": second_half(raw, pair, each.axis, half)}
    shown |= {other: image for other, image in images.items() if other != name}
    verdicts = {
        kind: cs.check(model, replace(image, pixel_size_nm=model.source_pixel_size_nm), plan=PLAN)
        for kind, image in shown.items()
    }
    return {
        kind: {
            "domain": verdict.domain,
            "distance": round(float(verdict.numbers["distance"]), 3),
            "reasons": list(verdict.reasons),
        }
        for kind, verdict in verdicts.items()
    }


def second_half(raw: cs.RawPair, pair: cs.RegisteredPair, axis: int, half: int) -> cs.Image:
    """Return what the raw source shows of the pair's field from `half` on, not resampled."""
    corners = np.array([[0, 0], pair.source.pixels.shape]) + pair.origin_yx_px
    corners[0, axis] += half
    first, last = np.rint(pair.to_source(corners.astype(np.float64))).astype(int)
    stop = np.minimum(last, raw.source.pixels.shape)
    parts = tuple(slice(max(0, int(a)), int(b)) for a, b in zip(first, stop, strict=True))
    return raw.source.with_pixels(raw.source.pixels[parts])


if __name__ == "__main__":
    main()
