"""Real microtubules, wide-field to STORM: learnt on the left of one field, judged on the right.

    python examples/real_storm.py [OUT] [--minutes 3] [--seed N]

Takes `../shared/data/microtubule_widefield_storm`; where that folder is absent it says so and
stops. The STORM image shows a part of the wide-field one, five times as fine: registration finds
it. Then a model from nothing and one that starts from simulated filaments, `tirf-sim-filaments`,
have the same time to learn.

A STORM image is made of single molecules: much of it is chance, and no PSNR against it is high.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes import DATA, compare_starts, run_on_real

import crosscope as cs

FIELD = "microtubule_widefield_storm"
NEEDS = (FIELD,)
SOURCE_NM, TARGET_NM = 96.8, 19.36  # the files say nothing


def walk(_: Path, minutes: float, **plan: Any) -> dict[str, Any]:
    """Register, train from both starts, and return the figures of the right half.

    `plan` are further fields of the training's plan, its seed for one.
    """
    folder = DATA / FIELD
    (raw,) = cs.read_pairs(
        folder / "microtubule_widefield.tif",
        folder / "microtubule_STORM.tif",
        source_pixel_size_nm=SOURCE_NM,
        target_pixel_size_nm=TARGET_NM,
    )
    pair = cs.register(raw)
    columns = pair.target.pixels.shape[1]
    left = replace(cs.take_part(pair, axis=1, start=0, stop=columns // 2), name="left half")
    right = replace(cs.take_part(pair, axis=1, start=columns // 2, stop=columns), name="right half")
    return {
        "shift_px": pair.shift_px,
        "residual_px": pair.residual_px,
        "starts": compare_starts(left, right, start="tirf-sim-filaments", minutes=minutes, **plan),
    }


if __name__ == "__main__":
    run_on_real(walk, __doc__, "real_storm", needs=NEEDS)
