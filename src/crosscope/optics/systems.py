"""System, sample, seed -> simulated raw pairs with known truth: the three systems of Wang et al.

Each pair: a sample in the target's frame; the source sees it through a warp.  Both microscopes
render it, both cameras add their noise; the truth is the target without noise.  In a time-lapse
everything stays where it is, and only its brightness changes (`traces`).

    confocal-sted   one stage, one scan: 30 nm both, a shift and nothing else
    widefield-20x   10x/0.4 NA at 650 nm, 20x/0.75 NA at 325 nm: shift, rotation, scale, elastic
    tirf-sim        TIRF 1.49 NA at 65 nm, linear SIM at 32.5 nm: shift, a little rotation

Pixel sizes and widths: doi 10.1038/s41592-018-0239-0.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt16
from scipy.spatial import KDTree

from crosscope.data.errors import InputError
from crosscope.data.files import write_json, writing_folder
from crosscope.data.images import Channel, Image, write_image
from crosscope.optics.camera import Camera, expected_grey, expose
from crosscope.optics.misregistration import Misregistration, Warp, draw_warp
from crosscope.optics.psf import (
    Otf,
    confocal_otf,
    fwhm_nm,
    sim_otf,
    sted_otf,
    tirf_otf,
    widefield_otf,
)
from crosscope.optics.rendering import Grid, margin_nm, render
from crosscope.optics.samples import Emitters, actin, beads, filaments, nuclei, pits
from crosscope.optics.traces import FRAME_S, bleach, live_and_die

_REFERENCE_PX, _REFERENCE_FIELDS = 256, 4  # of the target; the fields on which exposures are set


class Sample(Protocol):
    """A function of `samples`: a random stream and a field in, emitters out."""

    def __call__(
        self, rng: np.random.Generator, *, extent_nm: float, finest_nm: float
    ) -> Emitters: ...


SAMPLES: dict[str, Sample] = {
    "beads": beads,
    "filaments": filaments,
    "actin": actin,
    "nuclei": nuclei,
    "pits": pits,
}
CHANNELS = {  # emission in nm, colour, the sample that is usually stained so
    "dapi": (461.0, "#0000ff", "nuclei"),
    "fitc": (519.0, "#00ff00", "filaments"),
    "txred": (615.0, "#ff00ff", "actin"),
}
SYSTEMS = ("confocal-sted", "widefield-20x", "tirf-sim")


@dataclass(frozen=True, eq=False)
class Microscope:
    """One of the two instruments.

    Attributes
    ----------
    otf : Otf
    pixel_nm : float
    integrates : bool
        Whether its pixels collect light over their area (a camera) or at a point (a scan).
    camera : Camera
    """

    otf: Otf
    pixel_nm: float
    integrates: bool
    camera: Camera


@dataclass(frozen=True, eq=False)
class System:
    """Two microscopes that look at the same samples.

    Attributes
    ----------
    source, target : Microscope
    sample : str
        What is looked at if nothing is said.
    channels : tuple of Channel
        What the images say of themselves.
    misregistration : Misregistration
    photons, target_photons : float
        The usual peak of a typical object; see `simulate`.  The targets are averaged over many
        scans or frames, as in the slides (16 lines, 30 frames).
    """

    source: Microscope
    target: Microscope
    sample: str
    channels: tuple[Channel, ...]
    misregistration: Misregistration
    photons: float
    target_photons: float


@dataclass(frozen=True, eq=False)
class Truth:
    """All that is known of a simulated pair.

    Attributes
    ----------
    image : Image
        The target without noise, float32 grey values; axes "yx", or "tyx" of a time-lapse.
    emitters : Emitters
        In the target's frame, nm from the field's corner; some lie beyond the border.
    warp : Warp
        Where the source sees them.
    system, sample : str
    channel : str or None
    seed, pair : int
    photons, target_photons : float
        The peak of a typical object in source and target.
    source_camera, target_camera : Camera
    traces : (m, t) float, or None
        Of a time-lapse: the brightness of each of the m objects (of everything together where
        nothing is counted, m = 1) in each frame, as a part of what `emitters` say.
    """

    image: Image
    emitters: Emitters
    warp: Warp
    system: str
    sample: str
    channel: str | None
    seed: int
    pair: int
    photons: float
    target_photons: float
    source_camera: Camera
    target_camera: Camera
    traces: Float[np.ndarray, "m t"] | None = None


@dataclass(frozen=True, eq=False)
class SimulatedPair:
    """A raw pair and its truth; `name` is "0000", "0001" and so on."""

    name: str
    source: Image
    target: Image
    truth: Truth


def simulate(
    system: str,
    *,
    sample: str | None = None,
    channel: str | None = None,
    pairs: int = 8,
    size_px: int = 512,
    frames: int = 1,
    photons: float | None = None,
    target_photons: float | None = None,
    seed: int = 0,
    misregistration: Misregistration | None = None,
) -> Iterator[SimulatedPair]:
    """Simulate raw pairs, one at a time.

    Pair i has a random stream of its own, made of `seed` and i: it does not depend on how many
    pairs are asked for, nor its sample on the photons, the misregistration or the frames.

    Parameters
    ----------
    system : str
        "confocal-sted", "widefield-20x" or "tirf-sim".
    sample : str, optional
        "beads", "filaments", "actin", "nuclei" or "pits"; by default what the system is known for.
    channel : str, optional
        "dapi" (default), "fitc" or "txred", for the wide-field system only.
    size_px : int
        Side of the target; the source is smaller by the ratio of the pixel sizes.
    frames : int
        More than one make a time-lapse with axes "tyx", 3 s from frame to frame: pits grow, stay
        and vanish where they are, everything else bleaches (see `optics.traces`).  Both
        microscopes see the same frames through the same warp.
    photons, target_photons : float, optional
        Peak of a typical object above background in source and target: for beads and pits the
        median of the isolated ones, else the 99th percentile of the image.  The exposure is set
        once, on a few reference fields, so all pairs of a series share it.  By default the
        system's.  In a time-lapse: at full brightness.
    misregistration : Misregistration, optional
        Ranges of the warp; by default the system's, `ALIGNED` for none.  Objects are there up to a
        twentieth of the field beyond its border: a warp that reaches farther shows where they end.

    Raises
    ------
    InputError
        Unknown system, sample or channel; a number that makes no image.
    """
    chosen = _system(system, channel)
    channel = (channel or "dapi") if system == "widefield-20x" else None
    sample = sample or chosen.sample
    if sample not in SAMPLES:
        raise _unknown("sample", sample, SAMPLES)
    photons = chosen.photons if photons is None else photons
    target_photons = chosen.target_photons if target_photons is None else target_photons
    ratio = round(chosen.source.pixel_nm / chosen.target.pixel_nm)
    if size_px < 16 or size_px % ratio:
        raise InputError(
            f"size {size_px} px",
            f"{system} needs at least 16 px and a multiple of {ratio}",
            f"Choose {max(16, round(size_px / ratio) * ratio)} px",
        )
    if pairs < 1 or frames < 1 or seed < 0:
        raise InputError(
            f"{pairs} pairs, {frames} frames, seed {seed}",
            "there must be at least one pair and one frame, and the seed must not be negative",
            "Choose other numbers",
        )
    if not (0 < photons < np.inf and 0 < target_photons < np.inf):
        raise InputError(
            f"photons {photons:g}, {target_photons:g} in the target",
            "an image needs light",
            "Choose numbers above 0",
        )
    ranges = chosen.misregistration if misregistration is None else misregistration

    def generate() -> Iterator[SimulatedPair]:
        source_exposure, target_exposure = _typical_peaks(system, channel, sample)
        source_grid = _grid(chosen.source, size_px // ratio)
        target_grid = _grid(chosen.target, size_px)
        for pair in range(pairs):
            streams = np.random.default_rng([seed, pair]).spawn(5)
            emitters = _place(chosen, sample, target_grid.extent_nm, streams[0])
            warp = draw_warp(ranges, extent_nm=target_grid.extent_nm, rng=streams[1])
            traces = _traces(sample, emitters, frames, streams[4]) if frames > 1 else None
            seen = _film(
                replace(emitters, yx_nm=warp.to_source_nm(emitters.yx_nm)),
                traces,
                photons / source_exposure,
                microscope=chosen.source,
                grid=source_grid,
            )
            sharp = _film(
                emitters,
                traces,
                target_photons / target_exposure,
                microscope=chosen.target,
                grid=target_grid,
            )
            name = f"{pair:04d}"
            source = _image(_exposed(seen, chosen.source, streams[2]), chosen.source, chosen, name)
            target = _image(_exposed(sharp, chosen.target, streams[3]), chosen.target, chosen, name)
            perfect = np.stack([expected_grey(frame, chosen.target.camera) for frame in sharp])
            truth = Truth(
                image=_image(perfect, chosen.target, chosen, name),
                emitters=emitters,
                warp=warp,
                system=system,
                sample=sample,
                channel=channel,
                seed=seed,
                pair=pair,
                photons=float(photons),
                target_photons=float(target_photons),
                source_camera=chosen.source.camera,
                target_camera=chosen.target.camera,
                traces=traces,
            )
            yield SimulatedPair(name, source, target, truth)

    return generate()


def write_simulation(
    pairs: Iterable[SimulatedPair],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write raw pairs and their truth to a folder, which appears when it is complete.

    OUT/source/NAME.tif and OUT/target/NAME.tif; OUT/truth/NAME.tif is the target without noise,
    OUT/truth/NAME.json what was drawn (warp, settings, the objects inside the field in nm), and
    OUT/truth/NAME_emitters.npy an (n, 3) float32 array of y_nm, x_nm, weight in the target's frame.
    Of a time-lapse there is also OUT/truth/NAME_traces.npy, (m, t) float32: how bright each of the
    JSON's objects is in each frame, 1 being the most, in their order; or one row for everything
    where nothing is counted.

    Parameters
    ----------
    progress : callable, optional
        Told the number of pairs written so far.

    Returns
    -------
    int
        How many pairs were written.

    Raises
    ------
    OutputError
        `out` exists and `overwrite` is false, or the operating system refuses.
    """
    count = 0
    with writing_folder(out, overwrite=overwrite) as part:
        for folder in ("source", "target", "truth"):
            (part / folder).mkdir()
        for count, pair in enumerate(pairs, start=1):
            write_image(pair.source, part / "source" / f"{pair.name}.tif")
            write_image(pair.target, part / "target" / f"{pair.name}.tif")
            _write_truth(pair, part / "truth")
            if progress is not None:
                progress(count)
    return count


def _write_truth(pair: SimulatedPair, folder: Path) -> None:
    truth, emitters = pair.truth, pair.truth.emitters
    assert truth.image.pixel_size_nm is not None
    field_yx_nm = np.array(truth.image.pixels.shape[-2:]) * truth.image.pixel_size_nm
    write_image(truth.image, folder / f"{pair.name}.tif")
    table = np.column_stack([emitters.yx_nm, emitters.weight]).astype(np.float32)
    np.save(folder / f"{pair.name}_emitters.npy", table, allow_pickle=False)
    objects = emitters.objects_yx_nm
    inside = np.all((objects >= 0) & (objects < field_yx_nm), axis=1)
    lapse = {}
    if truth.traces is not None:
        lapse = {"frames": truth.traces.shape[1], "time_step_s": truth.image.time_step_s}
        traces = truth.traces[inside] if len(objects) else truth.traces
        np.save(folder / f"{pair.name}_traces.npy", traces.astype(np.float32), allow_pickle=False)
    write_json(
        folder / f"{pair.name}.json",
        {
            "system": truth.system,
            "sample": truth.sample,
            "channel": truth.channel,
            "seed": truth.seed,
            "pair": truth.pair,
            "photons": truth.photons,
            "target_photons": truth.target_photons,
            "source_camera": asdict(truth.source_camera),
            "target_camera": asdict(truth.target_camera),
            "warp": truth.warp.to_json(),
            "objects_yx_nm": objects[inside].round(3).tolist(),
            **lapse,
        },
    )


@cache
def _system(name: str, channel: str | None) -> System:
    if name not in SYSTEMS:
        raise _unknown("system", name, SYSTEMS)
    if name == "widefield-20x":
        if channel is not None and channel not in CHANNELS:
            raise _unknown("channel", channel, CHANNELS)
        return _widefield_20x(channel or "dapi")
    if channel is not None:
        raise InputError(
            f"channel {channel}", f"{name} has only one", "Leave it out, or choose widefield-20x"
        )
    return _confocal_sted() if name == "confocal-sted" else _tirf_sim()


def _confocal_sted() -> System:
    # photon counting: one grey value a photon, no read noise, a small electronic offset
    counter = Camera(offset=10.0, gain=1.0, read_noise=0.0, background=2.0)
    return System(
        source=Microscope(confocal_otf(), 30.0, integrates=False, camera=counter),
        target=Microscope(sted_otf(), 30.0, integrates=False, camera=counter),
        sample="beads",
        channels=(),
        misregistration=Misregistration(shift_nm=180.0),
        photons=300.0,
        target_photons=170.0,
    )


def _widefield_20x(channel: str) -> System:
    emission_nm, colour, sample = CHANNELS[channel]
    scmos = Camera(offset=100.0, gain=2.0, read_noise=3.0, background=20.0)  # 1.5 e read noise
    low = widefield_otf(na=0.4, emission_nm=emission_nm)
    high = widefield_otf(na=0.75, emission_nm=emission_nm)
    return System(
        source=Microscope(low, 650.0, integrates=True, camera=scmos),
        target=Microscope(high, 325.0, integrates=True, camera=scmos),
        sample=sample,
        channels=(Channel(channel.upper(), colour),),
        misregistration=Misregistration(
            shift_nm=650.0,
            rotation_deg=1.0,
            scale=0.01,
            elastic_nm=1.5 * 325.0,
            elastic_length_nm=100 * 325.0,
        ),
        photons=1000.0,
        target_photons=3000.0,
    )


def _tirf_sim() -> System:
    scmos = Camera(offset=100.0, gain=2.0, read_noise=3.0, background=10.0)
    return System(
        source=Microscope(tirf_otf(), 65.0, integrates=True, camera=scmos),
        target=Microscope(sim_otf(), 32.5, integrates=True, camera=scmos),
        sample="pits",
        channels=(),
        misregistration=Misregistration(shift_nm=3 * 32.5, rotation_deg=0.3),
        photons=300.0,
        target_photons=300.0,
    )


def _place(system: System, sample: str, extent_nm: float, rng: np.random.Generator) -> Emitters:
    """Fill the field and what shines in from around it, wherever a common warp takes it."""
    margin = margin_nm(system.source.otf) + 0.05 * extent_nm
    wide = SAMPLES[sample](
        rng, extent_nm=extent_nm + 2 * margin, finest_nm=fwhm_nm(system.target.otf)
    )
    return wide.shifted(-margin)


def _traces(
    sample: str, emitters: Emitters, frames: int, rng: np.random.Generator
) -> Float[np.ndarray, "m t"]:
    objects = len(emitters.objects_yx_nm)
    if sample == "pits":
        return live_and_die(rng, objects=objects, frames=frames)
    return bleach(objects=max(1, objects), frames=frames)


def _film(
    emitters: Emitters,
    traces: Float[np.ndarray, "m t"] | None,
    exposure: float,
    *,
    microscope: Microscope,
    grid: Grid,
) -> Float[np.ndarray, "t y x"]:
    """Render every frame; without traces there is one."""
    weight = emitters.weight * exposure
    owner = 0 if emitters.owner is None else emitters.owner
    weights = [weight] if traces is None else (weight * trace[owner] for trace in traces.T)
    return np.stack(
        [render(emitters.yx_nm, each, otf=microscope.otf, grid=grid) for each in weights]
    )


def _exposed(
    film: Float[np.ndarray, "t y x"], microscope: Microscope, rng: np.random.Generator
) -> UInt16[np.ndarray, "t y x"]:
    return np.stack([expose(frame, microscope.camera, rng=rng) for frame in film])


def _image(
    pixels: UInt16[np.ndarray, "t y x"] | Float32[np.ndarray, "t y x"],
    microscope: Microscope,
    system: System,
    name: str,
) -> Image:
    """Return a time-lapse, or the one frame that there is."""
    single = len(pixels) == 1
    return Image(
        pixels[0] if single else pixels,
        "yx" if single else "tyx",
        (microscope.pixel_nm, microscope.pixel_nm),
        time_step_s=None if single else FRAME_S,
        channels=system.channels,
        name=name,
    )


@cache
def _typical_peaks(system: str, channel: str | None, sample: str) -> tuple[float, float]:
    """Return the peak in source and target of a typical object, as the samples weigh it."""
    chosen = _system(system, channel)
    extent_nm = _REFERENCE_PX * chosen.target.pixel_nm
    # several places, so that there is something to see in one of them
    fields = [
        _place(chosen, sample, extent_nm, np.random.default_rng([2018, place]))
        for place in range(_REFERENCE_FIELDS)
    ]
    return _typical_peak(fields, chosen.source, extent_nm), _typical_peak(
        fields, chosen.target, extent_nm
    )


def _typical_peak(fields: list[Emitters], microscope: Microscope, extent_nm: float) -> float:
    grid = _grid(microscope, round(extent_nm / microscope.pixel_nm))
    images = [render(field.yx_nm, field.weight, otf=microscope.otf, grid=grid) for field in fields]
    if not any(len(field.objects_yx_nm) for field in fields):
        return float(np.percentile(images, 99))
    peaks = [
        _isolated_peaks(image, field.objects_yx_nm, microscope)
        for image, field in zip(images, fields, strict=True)
    ]
    return float(np.median(np.concatenate(peaks)))


def _isolated_peaks(
    image: Float[np.ndarray, "y x"], objects_yx_nm: Float[np.ndarray, "n 2"], microscope: Microscope
) -> Float[np.ndarray, "m"]:
    """Return the image's values at the objects that have no neighbour within two widths."""
    pixel = np.floor(objects_yx_nm / microscope.pixel_nm).astype(int)
    inside = np.all((pixel >= 0) & (pixel < image.shape), axis=1)
    nearest, _ = KDTree(objects_yx_nm).query(objects_yx_nm, k=2)
    alone = nearest[:, 1] > 2 * fwhm_nm(microscope.otf)
    return image[tuple(pixel[inside & alone].T)]


def _grid(microscope: Microscope, size_px: int) -> Grid:
    return Grid(size_px, microscope.pixel_nm, microscope.integrates)


def _unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    return InputError(f"{what} {name}", "there is none of that name", f"Choose {', '.join(known)}")
