"""The slides' systems in full, and what the choices are worth -> results/systems.json.

    python benchmarks/systems.py [OUT] [--only NAME ...] [--jobs 2]

Every line of the tables is a job of its own with one thread, `--jobs` of them side by side. What is
done isn't done again, and a job that was cut off goes on where it was: together they take about
five core-hours. OUT keeps models and reports, by default in `systems`.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from scipy import fft, ndimage

import crosscope as cs
from crosscope.data.registered import crop_like
from crosscope.data.transforms import IDENTITY
from crosscope.metrics.error import fit_intensity, psnr_db
from crosscope.metrics.spectrum import radial_spectrum
from crosscope.metrics.ssim import ssim
from crosscope.model.engine import Engine
from crosscope.model.plan import paper_plan
from crosscope.optics.misregistration import Misregistration
from crosscope.optics.systems import SimulatedPair, simulate
from crosscope.prediction.tiling import sharpen
from crosscope.quality.forward import Forward
from crosscope.report.figures import find_sample

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import beads_confocal_to_sted
import nuclei_by_transfer
import tirf_to_sim_time_lapse
import widefield_three_channels
from beads_confocal_to_sted import BEADS
from nuclei_by_transfer import NUCLEI
from recipes import RARE, Size, View, figures_of, judge, spectrum_off, take, train
from tirf_to_sim_time_lapse import FILAMENTS, PITS
from widefield_three_channels import CHANNELS

RESULT = Path(__file__).parent / "results" / "systems.json"
FULL = Size(threads=1)
HALF = replace(FULL, steps=FULL.steps // 2)  # of what tells how to take pairs
SEED, SEEDS = 1000, (1000, 1001, 1002)
STED_FILAMENTS = View("confocal-sted", "filaments")
PIXEL_NM = 30.0
PIXELS_20X_NM = (325.0, 325.0)  # y, x
PAPER_STEPS = 650  # of base 16: what the ablations' budget allows
LEAST_PX = 1000  # inside structures, and outside, for a ratio of signal to noise
PERFECT_PER_UM = (0.6, 0.77, 1.0, 1.2)  # the source's pixels of 0.65 um end at 0.77
DEVELOPMENT_SEED = 900  # what else might bring wide-field nearer is tried here
MORE: dict[str, dict[str, Any]] = {
    "dapi longer": {"steps": RARE * FULL.steps},
    "fitc longer": {"steps": RARE * FULL.steps},
    "fitc wider": {"base": 48, "steps": 10_000, "warm_share": 1.0},
    "txred longer": {"steps": RARE * FULL.steps},
}
HELD = "0.7 %, spectrum held"
HOLDING: dict[str, Any] = {
    "warm_share": 0.7,
    "adversarial_rate": 2e-4,
    "mse_share": 0.04,
    "ssim_share": 0.003,
    "spectrum_share": 0.95,
}
# of an adversary that is to fill wide-field's spectrum
SHARES = {
    "dapi": ("default", "1 %", "10 %", "50 %", "90 %"),
    "fitc": ("default", "10 %", HELD),
    "txred": ("default", "10 %", HELD),
}
LINES = 16  # averages that the simulated STED has by default
# so that the discriminator has learnt to tell, and the share matters: by default it has little time
ADVERSARY: dict[str, Any] = {"warm_share": 0.5, "discriminator_rate": 4e-4}
# of the truth's power, that a filter brings the twin's to where it is less; 0 leaves it
FILTERED = (0.0, 0.5, 0.9, 1.0)

Job = Callable[[Path], dict[str, Any]]
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]  # twin, truth and target


def share_of_adversary(percent: float) -> dict[str, Any]:
    """Return the plan's changes that give the adversarial term this share of L(G; D).

    The rest is divided between MSE and SSIM as by default.
    """
    usual = cs.TrainingPlan()
    scale = (1 - percent / 100) / (usual.mse_share + usual.ssim_share)
    return {"mse_share": scale * usual.mse_share, "ssim_share": scale * usual.ssim_share}


PAPER = {key: value for key, value in asdict(paper_plan(base=16)).items() if key != "seed"}
ABLATIONS: dict[str, dict[str, Any]] = {
    "MSE and SSIM only": {"warm_share": 1.0},
    **{
        f"adversarial {percent} %": ADVERSARY | share_of_adversary(percent)
        for percent in (1, 5, 10, 50, 90)
    },
    "paper": PAPER | {"minutes": None, "steps": PAPER_STEPS, "threads": 1},
}
VIEWS = {
    "confocal-sted-beads": BEADS,
    "confocal-sted-nuclei": NUCLEI,
    **{f"widefield-20x-{channel}": view for channel, view in CHANNELS.items()},
    "tirf-sim-pits": PITS,
    "tirf-sim-filaments": FILAMENTS,
}


def jobs() -> dict[str, Job]:
    """Name everything that is measured."""
    return {
        **{f"beads-{seed}": partial(recipe, beads_confocal_to_sted, seed=seed) for seed in SEEDS},
        "widefield-1000": partial(recipe, widefield_three_channels, seed=SEED),
        "tirf-1000": partial(recipe, tirf_to_sim_time_lapse, seed=SEED),
        "nuclei-1000": partial(recipe, nuclei_by_transfer, seed=SEED),
        **{name: partial(ablate, name) for name in ABLATIONS},
        **{f"{lines} line averages": partial(average, lines) for lines in (1, 4, LINES)},
        "another start": partial(average, LINES, member=1),
        **{f"{px} px misregistered": partial(misregister, px) for px in (0.0, 0.1, 0.3, 1.0)},
        **{f"beads with {view.sample}": partial(mix, view) for view in (NUCLEI, STED_FILAMENTS)},
        "perfect wide-field": perfect,
        "filtered wide-field": filtered,
        **{name: partial(try_more, name.split()[0], **plan) for name, plan in MORE.items()},
        **{
            f"{channel} adversarial {share}": partial(try_adversary, channel, share)
            for channel, shares in SHARES.items()
            for share in shares
        },
        "dapi adversarial 1 %, as its recipe": partial(try_adversary, "dapi", "1 %", seed=SEED),
        "signal to noise": signal_to_noise,
        "half precision": compare_precisions,
    }


def recipe(module: Any, out: Path, seed: int) -> dict[str, Any]:
    """Walk a recipe of `examples/`."""
    figures: dict[str, Any] = module.walk(out, FULL, seed)
    return figures


def ablate(name: str, out: Path) -> dict[str, Any]:
    """Train the bead model with another objective, or the paper's network and plan."""
    return trained_on(beads(), out, FULL, **ABLATIONS[name])


def average(lines: int, out: Path, **plan: Any) -> dict[str, Any]:
    """Train on targets of fewer line averages: each photon of a pixel came in one of the lines."""
    rng = np.random.default_rng([SEED, lines])
    pairs = []
    for each in raw_beads():
        camera = each.truth.target_camera
        photons = np.rint((each.target.pixels - camera.offset) / camera.gain).astype(int)
        kept = camera.offset + camera.gain * rng.binomial(photons, lines / LINES)
        target = each.target.with_pixels(kept.astype(each.target.pixels.dtype))
        raw = cs.RawPair(each.name, each.source, target)
        pairs.append(cs.register(raw, rigid=True))
    return trained_on(pairs, out, **plan)


def misregister(px: float, out: Path) -> dict[str, Any]:
    """Train on pairs that were left so many target px apart, RMS, and not registered."""
    # each component is uniform within plus or minus this
    left = Misregistration(shift_nm=px * PIXEL_NM * np.sqrt(1.5))
    pairs = [
        cs.RegisteredPair(
            name=each.name,
            source=each.source.with_pixels(each.source.pixels.astype(np.float32), axes="yx"),
            target=each.target,
            transform=IDENTITY,
            origin_yx_px=(0, 0),
            source_pixel_size_nm=each.source.pixel_size_nm,
            residual_px=None,
            correlation_before=None,
            correlation_after=None,
        )
        for each in raw_beads(misregistration=left)
    ]
    return trained_on(pairs, out)


def mix(other: View, out: Path) -> dict[str, Any]:
    """Train on as many pairs, half of them of another sample."""
    half = HALF.training // 2
    others, _ = take(other, pairs=half, size_px=HALF.size_px, seed=2 * SEED)
    return trained_on(beads()[half:] + others, out)


def perfect(_: Path) -> dict[str, Any]:
    """Say what PSNR a wide-field image has that is perfect up to a frequency and empty beyond."""
    return {channel: perfect_of(view) for channel, view in CHANNELS.items()}


def perfect_of(view: View) -> dict[str, float]:
    """Return the medians over the recipe's test fields, in dB, by the frequency."""
    found: dict[str, list[float]] = {f"{end} per um": [] for end in PERFECT_PER_UM}
    for pair in simulate(
        view.system,
        sample=view.sample,
        channel=view.channel,
        pairs=FULL.test,
        size_px=FULL.size_px,
        seed=2 * SEED + 1,
    ):
        truth = pair.truth.image.pixels.astype(np.float64)
        spectrum, span = fft.rfft2(truth), float(np.ptp(truth))
        y, x = (side / 1000 for side in PIXELS_20X_NM)
        f_per_um = np.hypot(fft.fftfreq(len(truth), y)[:, None], fft.rfftfreq(truth.shape[1], x))
        for end, values in zip(PERFECT_PER_UM, found.values(), strict=True):
            seen = fft.irfft2(spectrum * (f_per_um <= end), truth.shape)
            values.append(psnr_db(seen, truth, data_range=span))
    return {end: float(np.median(values)) for end, values in found.items()}


def filtered(_: Path) -> dict[str, Any]:
    """Bring the power of the twins' images to a share of the truth's, by a filter."""
    return {channel: filtered_of(channel) for channel in CHANNELS}


def filtered_of(channel: str) -> dict[str, dict[str, Any]]:
    """Return PSNR, SSIM and the spectrum's error, by the share.

    Of all images of some power on a ring of frequencies the one nearest to the least squares' is
    that itself, made stronger there (Cauchy-Schwarz), and the expected error is that of the least
    squares' and the distance to it. So insofar as the twin is the mean of what the source leaves
    open, nothing of such power has a smaller error. The powers are of the fields of an even seed,
    what is judged is of an odd one.
    """
    model = cs.Model.load(f"widefield-20x-{channel}")
    known, judged = (
        twin_and_truth(model, CHANNELS[channel], 2 * DEVELOPMENT_SEED + odd) for odd in (0, 1)
    )
    frequency, power, power_of_truth, _ = mean_spectra(known)
    found = {}
    for share in FILTERED:
        gain = np.sqrt(np.maximum(1.0, share * power_of_truth / power))
        shown = [(amplify(twin, frequency, gain), truth, target) for twin, truth, target in judged]
        psnr, similar = zip(*(nearness(image, truth) for image, truth, _ in shown), strict=True)
        found[f"{share:.0%}"] = {
            "psnr_db": float(np.median(psnr)),
            "ssim": float(np.median(similar)),
            "spectrum": spectrum_off(*mean_spectra(shown)),
        }
    return found


def twin_and_truth(model: cs.Model, view: View, seed: int) -> list[Triple]:
    """Return the twin's image of each field, fitted to the truth, the truth, and the target."""
    pairs, images = take(view, pairs=FULL.test, size_px=FULL.size_px, seed=seed)
    found = []
    for pair in pairs:
        truth = crop_like(images[pair.name], pair).pixels.astype(np.float64)
        source = pair.source.pixels.astype(np.float32)[None]
        twin = sharpen(model, source, engine=Engine(1, "float32"), network=model.twin)[0]
        found.append((fitted(twin.astype(np.float64), truth), truth, pair.target.pixels))
    return found


def mean_spectra(fields: list[Triple]) -> list[np.ndarray]:
    """Return frequencies per um, and the mean radial power of each of the three images."""
    spectra = [
        [radial_spectrum(image.astype(np.float64), pixel_size_nm=PIXELS_20X_NM) for image in field]
        for field in fields
    ]
    shortest = min((row[0].frequency_per_um for row in spectra), key=len)
    powers = [[np.interp(shortest, f.frequency_per_um, f.power) for f in row] for row in spectra]
    return [shortest, *np.mean(powers, axis=0)]


def amplify(image: np.ndarray, frequency_per_um: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return an image made so many times as strong at these frequencies.

    By cosines, which mirror it at its border: a step there would ring far into the image.
    """
    y, x = (
        1000 * np.arange(n) / (2 * n * size_nm)
        for n, size_nm in zip(image.shape, PIXELS_20X_NM, strict=True)
    )
    times = np.interp(np.hypot(y[:, None], x), frequency_per_um, gain)
    stronger: np.ndarray = fft.idctn(fft.dctn(image, norm="ortho") * times, norm="ortho")
    return stronger


def nearness(image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return PSNR in dB and SSIM, after a fit of the intensities."""
    span, near = float(np.ptp(truth)), fitted(image, truth)
    return psnr_db(near, truth, data_range=span), ssim(near, truth, data_range=span)


def fitted(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return an image with the gain and offset that bring it nearest to the truth."""
    return fit_intensity(image, truth).apply(image)


def try_more(channel: str, out: Path, **plan: Any) -> dict[str, dict[str, float]]:
    """Train on three times the fields, longer or a wider network; PSNR in dB, medians.

    "Turned" is what the better network makes of the eight ways to turn and flip a field, averaged.
    """
    view, size = CHANNELS[channel], replace(FULL, training=RARE * FULL.training)
    pairs, _ = take(view, pairs=size.training, size_px=size.size_px, seed=2 * DEVELOPMENT_SEED)
    model = train(pairs, size, DEVELOPMENT_SEED, out / "run", **plan)
    learnt = judge(model, view, size, DEVELOPMENT_SEED)
    psnr = learnt.report.summary["psnr_db"]
    nearest = max(("output", "twin"), key=lambda name: psnr.get(name, {"median": 0.0})["median"])
    network = model.twin if nearest == "twin" else None
    turned = []
    for pair in learnt.test:
        truth = crop_like(learnt.truth[pair.name], pair).pixels.astype(np.float64)
        image = turn_all(model, pair.source.pixels, network).astype(np.float64)
        turned.append(psnr_db(fitted(image, truth), truth, data_range=float(np.ptp(truth))))
    kept = ("lucy_richardson", "output", "twin")
    return {
        "psnr_db": {name: psnr[name]["median"] for name in kept if name in psnr}
        | {"turned": float(np.median(turned))}
    }


def try_adversary(
    channel: str, share: str, out: Path, *, seed: int = DEVELOPMENT_SEED
) -> dict[str, Any]:
    """Train with a stronger adversary, or as by default; PSNR in dB, and the spectrum's error."""
    plan = HOLDING if share == HELD else ABLATIONS.get(f"adversarial {share}", {})
    view = CHANNELS[channel]
    pairs, _ = take(view, pairs=FULL.training, size_px=FULL.size_px, seed=2 * seed)
    model = train(pairs, FULL, seed, out / "run", **plan)
    figures = figures_of(judge(model, view, FULL, seed))
    return {name: figures[name] for name in ("psnr_db", "spectrum", "training")}


def turn_all(model: cs.Model, source: np.ndarray, network: torch.nn.Module | None) -> np.ndarray:
    """Return the mean of what a network makes of a field, turned and flipped in eight ways."""
    made = []
    for turns, flip in itertools.product(range(4), (1, -1)):
        seen = np.ascontiguousarray(np.rot90(source[:, ::flip], turns), np.float32)
        output = sharpen(model, seen[None], engine=Engine(1, "float32"), network=network)[0]
        made.append(np.rot90(output, -turns)[:, ::flip])
    return np.mean(made, axis=0)


def signal_to_noise(_: Path) -> dict[str, Any]:
    """Measure (s - b) / n of input, output and target, with the models of the program."""
    return {name: signal_to_noise_of(cs.Model.load(name), view) for name, view in VIEWS.items()}


def signal_to_noise_of(model: cs.Model, view: View) -> dict[str, float]:
    """Return the medians over the recipe's test fields.

    s is the 99th percentile inside structures, the background what is farther from any than the
    source's blur reaches, b and n its level and SD; fields without one are left out.
    """
    reach_px = Forward.from_json(model.certificate["forward"]).source_fwhm_px
    test, truth = take(view, pairs=FULL.test, size_px=FULL.size_px, seed=2 * SEED + 1)
    found: dict[str, list[float]] = {}
    for pair in test:
        inside = find_sample(crop_like(truth[pair.name], pair).pixels)
        outside = ndimage.distance_transform_edt(~inside) > reach_px
        if min(inside.sum(), outside.sum()) < LEAST_PX:
            continue
        source = pair.source.pixels.astype(np.float32)
        images = {
            "input": source,
            "output": sharpen(model, source[None], engine=Engine(1, "float32"))[0],
            "target": pair.target.pixels,
        }
        for name, image in images.items():
            rise = np.percentile(image[inside], 99) - image[outside].mean()
            found.setdefault(name, []).append(float(rise / image[outside].std()))
    return {name: float(np.median(ratios)) for name, ratios in found.items()}


def compare_precisions(out: Path) -> dict[str, Any]:
    """Judge a bead model as it was trained, and as its file at half precision gives it back."""
    plan = cs.TrainingPlan(steps=HALF.steps // 2, threads=1, seed=SEED)
    model = cs.train(beads(), plan, say=print)
    model.save(out / "half.zip", overwrite=True, half=True)
    models = {"float32": model, "float16": cs.Model.load(out / "half.zip")}
    return {name: figures_of(judge(one, BEADS, HALF, SEED)) for name, one in models.items()}


def beads() -> list[cs.RegisteredPair]:
    """Return the registered pairs that the bead recipe trains on."""
    return take(BEADS, pairs=FULL.training, size_px=FULL.size_px, seed=2 * SEED)[0]


def raw_beads(**simulation: Any) -> Iterator[SimulatedPair]:
    """Return the same before they are registered."""
    size, seed = FULL.size_px, 2 * SEED
    return simulate(
        BEADS.system,
        sample=BEADS.sample,
        pairs=FULL.training,
        size_px=size,
        seed=seed,
        **simulation,
    )


def trained_on(
    pairs: list[cs.RegisteredPair], out: Path, size: Size = HALF, **plan: Any
) -> dict[str, Any]:
    """Train on these pairs, by half the budget, and judge on the bead recipe's test fields."""
    return figures_of(judge(train(pairs, size, SEED, out / "run", **plan), BEADS, size, SEED))


def main() -> None:
    """Do what is not done, and gather what is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("systems"))
    parser.add_argument("--only", nargs="*", help="names, or how they begin")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    names = [name for name in jobs() if not asked.only or name.startswith(tuple(asked.only))]
    with ProcessPoolExecutor(
        asked.jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        running = {pool.submit(do, name, asked.out): name for name in names}
        for done in as_completed(running):
            done.result()
            gather(asked.out)


def do(name: str, out: Path) -> None:
    """Do one job, unless it is done, and write what it found beside what it made."""
    folder = out / name.replace(" %", "").replace(",", "").replace(" ", "-")
    result = folder / "result.json"
    if result.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", buffering=1) as log, redirect_stdout(log):
        began = time.process_time()
        figures = jobs()[name](folder)
    took = {"name": name, "cpu_s_since_last_start": time.process_time() - began}
    part = result.with_suffix(".part")
    part.write_text(json.dumps(took | {"figures": figures}))
    part.replace(result)


def gather(out: Path) -> None:
    """Write results/systems.json from all that is done; what is not keeps its earlier figures."""
    earlier = json.loads(RESULT.read_text())["jobs"] if RESULT.exists() else {}
    found = earlier | {result["name"]: result for result in results(out)}
    ordered = {name: found[name] for name in jobs() if name in found}
    RESULT.write_text(json.dumps({"machine": describe_machine(), "jobs": ordered}, indent=1) + "\n")


def results(out: Path) -> Iterator[dict[str, Any]]:
    """Yield what was written by every job."""
    for path in out.glob("*/result.json"):
        yield json.loads(path.read_text())


if __name__ == "__main__":
    main()
