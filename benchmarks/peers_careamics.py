"""CAREamics' CARE, run by a Python of its own for `peers.py`, which says how to make one.

    python peers_careamics.py train PAIRS.npz OUT --cpu-s S --seed N
    python peers_careamics.py predict OUT IMAGES.npz RESULT.npz
    python peers_careamics.py cost OUT IMAGE.npy --runs N [--tile-px N]

Each takes --threads and prints a JSON object as its last line.  PAIRS.npz holds training-source-00,
training-target-00, ..., validation-source-00, ...; OUT keeps the checkpoint that was best on the
validation fields.

Settings were chosen on the seed 1800, 120 CPU-s of one thread each, by the PSNR of the two fields
held out: mean absolute error, the default, with batches of 16, 8 and 4: 43.7, 44.7 and 43.0 dB;
with 8, an input added to the output 45.0, epochs of 50 steps with half the rate after two that
brought nothing 45.9, mean square error 46.5; these three together 46.6, and the lowest validation
loss. A training of 8 CPU-min has the patience of five such epochs. In bfloat16 a step takes 0.6 of
the time in float32. All else is as the library has it: U-net of 32 channels and depth 2 with batch
norm, Adam at 1e-3, flips and turns, mean and standard deviation as scale.
"""

import argparse
import json
import shutil
import time
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from machine import cpu_seconds, measure_cost
from torch import library as operators

NEVER = 10**6
TILE_PX = 256
LOSS = "mse"
SETTINGS: dict[str, Any] = {
    "data_type": "array",
    "axes": "YX",
    "patch_size": [64, 64],
    "batch_size": 8,
    "num_epochs": NEVER,  # the processor time ends it
    "num_steps": 50,
    "num_workers": 0,
    "model_params": {"residual": True},
    "lr_scheduler_params": {"patience": 5, "factor": 0.5},
    "trainer_params": {
        "accelerator": "cpu",
        "precision": "bf16-mixed",
        "enable_model_summary": False,
    },
    # by default it ends after three epochs without a better validation loss
    "early_stopping_params": {"monitor": "val_loss", "mode": "min", "patience": NEVER},
}
PARTS = {
    "training-source": "train_data",
    "training-target": "train_data_target",
    "validation-source": "val_data",
    "validation-target": "val_data_target",
}
VERSIONS = ("careamics", "torch", "lightning", "torchvision", "numpy")
VISION = operators.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    train_it = commands.add_parser("train")
    train_it.set_defaults(work=train)
    train_it.add_argument("pairs", type=Path)
    train_it.add_argument("out", type=Path)
    train_it.add_argument("--cpu-s", type=float, required=True)
    train_it.add_argument("--seed", type=int, required=True)
    predict_it = commands.add_parser("predict")
    predict_it.set_defaults(work=predict)
    predict_it.add_argument("out", type=Path)
    predict_it.add_argument("images", type=Path)
    predict_it.add_argument("result", type=Path)
    cost_it = commands.add_parser("cost")
    cost_it.set_defaults(work=cost)
    cost_it.add_argument("out", type=Path)
    cost_it.add_argument("image", type=Path)
    cost_it.add_argument("--runs", type=int, required=True)
    cost_it.add_argument("--tile-px", type=int)
    for each in commands.choices.values():
        each.add_argument("--threads", type=int, required=True)
    asked = vars(parser.parse_args())
    torch.set_num_threads(asked.pop("threads"))
    name_operators()
    print("\n" + json.dumps(asked.pop("work")(**asked)))


def name_operators() -> None:
    """Let torchvision be imported where what it has compiled cannot be.

    CAREamics imports it for networks that CARE has no part in. Its plain package is compiled for
    CUDA, which the CPU build of PyTorch lacks, and then misses the names of two operators.
    """
    vision = find_spec("torchvision")
    if vision is None or vision.origin is None:
        raise SystemExit("torchvision is not installed in this environment: see peers.py")
    try:
        torch.ops.load_library(str(Path(vision.origin).with_name("_C.so")))  # type: ignore[no-untyped-call]
    except OSError:
        for name in ("nms", "qnms"):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            VISION.define(schema)  # type: ignore[no-untyped-call]


def train(pairs: Path, out: Path, cpu_s: float, seed: int) -> dict[str, Any]:
    """Train until the processor time is spent, and validate once more."""
    configure = import_module("careamics.config.factories").create_advanced_care_config
    callback = import_module("lightning.pytorch.callbacks").LambdaCallback
    config = configure(experiment_name="care", seed=seed, **SETTINGS)
    config.algorithm_config.loss = LOSS  # its factory has no word for it
    steps = 0

    def after_step(trainer: Any, *_: object) -> None:
        nonlocal steps
        steps += 1
        if steps % 100 == 0:
            print(f"step {steps}, {cpu_seconds() - cpu:.0f} of {cpu_s:.0f} CPU-s", flush=True)
        trainer.should_stop = cpu_seconds() - cpu >= cpu_s

    care = import_module("careamics").CAREamist(
        config,
        work_dir=out,
        callbacks=[callback(on_train_batch_end=after_step)],
        enable_progress_bar=False,
    )
    with np.load(pairs) as stored:
        images = {
            part: [stored[name] for name in sorted(stored) if name.startswith(part)]
            for part in PARTS
        }
    cpu, wall = cpu_seconds(), time.perf_counter()
    care.train(**{argument: images[part] for part, argument in PARTS.items()})
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    kept = care.trainer.checkpoint_callback
    shutil.copy(kept.best_model_path, out / "best.ckpt")
    return {
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "steps": steps,
        "epochs": care.trainer.current_epoch,
        "best": Path(kept.best_model_path).name,
        "validation_loss": float(kept.best_model_score),
        "parameters": sum(weight.numel() for weight in care.model.parameters()),
        "versions": {name: version(name) for name in VERSIONS},
        "settings": care.config.model_dump(mode="json"),
    }


def predict(out: Path, images: Path, result: Path) -> dict[str, Any]:
    """Predict images by what was kept, in tiles, since their sides are no multiples of four."""
    with np.load(images) as stored:
        planes = {name: stored[name] for name in sorted(stored)}
    sharp = apply(load(out), list(planes.values()), TILE_PX)
    np.savez(result, **dict(zip(planes, sharp, strict=True)))
    return {"images": len(sharp), "tile_px": TILE_PX}


def cost(out: Path, image: Path, runs: int, tile_px: int | None) -> dict[str, Any]:
    """Load what was kept and predict one image so often; return what the last time took."""
    care, plane = load(out), np.load(image)
    return measure_cost(
        lambda: apply(care, [plane], tile_px), megapixels=plane.size / 1e6, runs=runs
    )


def load(out: Path) -> Any:
    return import_module("careamics").CAREamist(
        checkpoint_path=out / "best.ckpt", work_dir=out, enable_progress_bar=False
    )


def apply(
    care: Any, planes: list[npt.NDArray[Any]], tile_px: int | None
) -> list[npt.NDArray[np.float32]]:
    """Return grey values of the target; whole planes where no side of a tile is given."""
    tile = None if tile_px is None else (tile_px, tile_px)
    sharp, _ = care.predict(planes, tile_size=tile, batch_size=1)
    return [
        np.asarray(image, np.float32).reshape(plane.shape)
        for image, plane in zip(sharp, planes, strict=True)
    ]


if __name__ == "__main__":
    main()
