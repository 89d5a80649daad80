"""What one image costs by ours, and by scikit-image's Richardson-Lucy, in a process of its own.

    python peers_cost.py ours MODEL IMAGE.npy --precision P --threads N --runs N
    python peers_cost.py lucy-richardson IMAGE.npy --kernel-px W --iterations N --runs N

Prints a JSON object.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num
from machine import measure_cost
from skimage import restoration

import crosscope as cs
from crosscope.data.background import measure_background
from crosscope.deconvolution import gaussian_kernel


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    methods = parser.add_subparsers(dest="method", required=True)
    ours = methods.add_parser("ours")
    ours.add_argument("model", type=Path)
    ours.add_argument("--precision", required=True)
    ours.add_argument("--threads", type=int, required=True)
    theirs = methods.add_parser("lucy-richardson")
    theirs.add_argument("--kernel-px", type=float, required=True)
    theirs.add_argument("--iterations", type=int, required=True)
    for each in methods.choices.values():
        each.add_argument("image", type=Path)
        each.add_argument("--runs", type=int, required=True)
    asked = parser.parse_args()
    plane = np.load(asked.image)
    if asked.method == "ours":
        model = cs.Model.load(asked.model)
        image = cs.Image(plane, "yx", model.source_pixel_size_nm)
        plan = cs.PredictionPlan(threads=asked.threads, precision=asked.precision)

        def work() -> object:
            return cs.predict(model, image, plan=plan)
    else:

        def work() -> object:
            return lucy_richardson(plane, kernel_px=asked.kernel_px, iterations=asked.iterations)

    print(json.dumps(measure_cost(work, megapixels=plane.size / 1e6, runs=asked.runs)))


def lucy_richardson(
    source: Num[np.ndarray, "y x"], *, kernel_px: float, iterations: int
) -> Float[np.ndarray, "y x"]:
    """Deconvolve by scikit-image, in single precision, the faster one.

    `kernel_px` is the width of the blur between the modalities. The level of an empty region is
    subtracted, and the image mirrored beyond its border: what zeros beyond it do to the rim costs
    2 dB.
    """
    kernel = gaussian_kernel(kernel_px).astype(np.float32)
    above = np.maximum(source - measure_background(source).level, 0).astype(np.float32)
    rim = len(kernel) // 2
    sharp: Float[np.ndarray, "y x"] = restoration.richardson_lucy(
        np.pad(above, rim, mode="symmetric"), kernel, num_iter=iterations, clip=False
    )
    return sharp[rim:-rim, rim:-rim]


if __name__ == "__main__":
    main()
