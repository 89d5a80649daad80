"""What a sidecar says is enough to have the same pixels again, to the last bit."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import crosscope as cs

Crosscope = Callable[..., Any]
TORCH = ("--engine", "torch", "--threads", "1", "--precision", "float32")
OPTIONS: dict[str, tuple[str, ...]] = {
    "measured": (),
    "two threads": (*TORCH[:2], "--threads", "2"),
    "float32": TORCH,
    "bfloat16": (*TORCH[:4], "--precision", "bfloat16"),
    "tiles": (*TORCH, "--tile-px", "64"),
    "exact tiles": (*TORCH, "--tile-px", "64", "--exact"),
    "channel": (*TORCH, "--channel", "FITC"),
    "offset": (*TORCH, "--offset", "80.1"),
    "fidelity": (*TORCH, "--fidelity", "0.3"),
    "pixel size": (*TORCH, "--pixel-size-nm", "33.3"),
    "openvino": ("--engine", "openvino"),
    "slide": (*TORCH, "--tile-px", "70"),
    "rolling average": (*TORCH, "--rolling-average", "0.1"),
}
OWN = {"channel": "channels.tif", "rolling average": "lapse.tif"}
"""What is not made of the image that is larger than a tile."""
RERUN = """
import json, sys
from pathlib import Path
import crosscope as cs
model = cs.Model.load(sys.argv[1])
for sidecar in map(Path, sys.argv[2:]):
    (entry,) = json.loads(sidecar.read_text())["outputs"]
    assert model.sha256 == entry["model_sha256"]
    again = sidecar.with_name("again-" + Path(entry["output"]).name)
    cs.predict_files(model, Path(entry["input"]), again, plan=cs.PredictionPlan(**entry["plan"]))
"""


def write_inputs(image: Path, folder: Path) -> dict[str, Path]:
    """Write the image larger than a tile, as one channel of two, and as frames."""
    read = cs.read_image(image)
    large = read.with_pixels(np.tile(read.pixels, (2, 1)))
    cs.write_image(large, folder / "large.tif")
    channels = tuple(map(cs.Channel, ("DAPI", "FITC")))
    both = cs.Image(
        np.stack([read.pixels // 2, read.pixels]), "cyx", (30.0, 30.0), channels=channels
    )
    cs.write_image(both, folder / "channels.tif")
    frames = np.stack([read.pixels, read.pixels[::-1], read.pixels])
    cs.write_image(read.with_pixels(frames, axes="tyx"), folder / "lapse.tif")
    return {name: folder / OWN.get(name, "large.tif") for name in OPTIONS}


def pixels_of(path: Path) -> np.ndarray:
    with cs.open_slide(path) as slide:
        shape = slide.image.pixels.shape
        whole = [slice(0, n) for n in shape[-2:]]
        return np.stack([slide.read(place, *whole) for place in np.ndindex(*shape[:-2])])


def test_the_same_pixels_in_a_new_process(crosscope: Crosscope, walk: Any, tmp_path: Path) -> None:
    assert cs.Model.load(walk.model).twin is not None
    inputs, sidecars, plans = write_inputs(walk.image, tmp_path), {}, {}
    for name, options in OPTIONS.items():
        if name == "openvino" and find_spec("openvino") is None:
            continue
        out = tmp_path / f"{name}.{'ome.zarr' if name == 'slide' else 'tif'}"
        outcome = crosscope("predict", walk.model, inputs[name], out, *options, "--force", "--json")
        assert outcome.code == 0, outcome.err
        sidecars[name] = Path(f"{out}.json")
        (entry,) = json.loads(sidecars[name].read_text())["outputs"]
        plans[name] = asdict(cs.PredictionPlan(**entry["plan"]))
        assert None not in (plans[name][key] for key in ("engine", "threads", "precision"))
        assert entry["device"]["processor"]
    assert plans["fidelity"]["fidelity"] == 0.3
    assert plans["offset"]["offset"] == 80.1
    assert plans["rolling average"]["rolling_average"] == 0.1
    assert plans["channel"]["channel"] == "FITC"
    assert plans["pixel size"]["pixel_size_nm"] == 33.3
    assert plans["slide"]["tile_px"] == 80
    rerun = subprocess.run(
        [sys.executable, "-c", RERUN, walk.model, *sidecars.values()],
        capture_output=True,
        text=True,
    )
    assert rerun.returncode == 0, rerun.stderr
    made = {}
    for name, sidecar in sidecars.items():
        made[name] = pixels_of(sidecar.with_suffix(""))
        again = pixels_of(sidecar.with_name(f"again-{sidecar.stem}"))
        assert made[name].tobytes() == again.tobytes(), name
    for name in ("bfloat16", "offset", "fidelity", "pixel size"):
        assert not np.array_equal(made[name], made["float32"]), name
