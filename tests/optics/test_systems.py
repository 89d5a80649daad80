"""The three systems: sizes, determinism, brightness, and a truth that holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import KDTree

from crosscope.data.errors import InputError, OutputError
from crosscope.data.images import read_image
from crosscope.optics.camera import expected_grey
from crosscope.optics.misregistration import ALIGNED, Misregistration, Warp
from crosscope.optics.psf import confocal_otf, sted_otf
from crosscope.optics.rendering import Grid, render
from crosscope.optics.samples import Emitters
from crosscope.optics.systems import SAMPLES, SYSTEMS, SimulatedPair, simulate, write_simulation

SUMS = (593_015, 2_149_651)  # of a source's and a target's pixels before there were time-lapses


def one(system: str, **options: object) -> SimulatedPair:
    return next(iter(simulate(system, **{"size_px": 128, **options})))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("system", "source_nm", "target_nm"),
    [("confocal-sted", 30.0, 30.0), ("widefield-20x", 650.0, 325.0), ("tirf-sim", 65.0, 32.5)],
)
def test_sizes_and_pixel_sizes(system: str, source_nm: float, target_nm: float) -> None:
    pair = one(system)
    assert pair.target.pixels.shape == pair.truth.image.pixels.shape == (128, 128)
    assert pair.source.pixels.shape == (round(128 * target_nm / source_nm),) * 2
    assert pair.source.pixel_size_nm == (source_nm, source_nm)
    assert pair.target.pixel_size_nm == pair.truth.image.pixel_size_nm == (target_nm, target_nm)
    assert pair.source.pixels.dtype == pair.target.pixels.dtype == np.uint16
    assert pair.truth.image.pixels.dtype == np.float32
    assert pair.target.pixels.max() < 65535


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_pair_depends_on_the_seed_and_its_number_alone(system: str) -> None:
    three = list(simulate(system, pairs=3, size_px=64, seed=4))
    again = list(simulate(system, pairs=2, size_px=64, seed=4))
    for first, second in zip(three, again, strict=False):
        np.testing.assert_array_equal(first.source.pixels, second.source.pixels)
        np.testing.assert_array_equal(first.target.pixels, second.target.pixels)
        assert first.truth.warp == second.truth.warp
    assert [pair.name for pair in three] == ["0000", "0001", "0002"]
    assert (three[0].source.pixels != three[1].source.pixels).any()
    other = one(system, size_px=64, seed=5)
    assert (three[0].source.pixels != other.source.pixels).any()


def test_the_sample_is_the_same_whatever_the_photons_and_the_misregistration() -> None:
    usual = one("confocal-sted")
    aligned = one("confocal-sted", misregistration=ALIGNED, photons=1000.0)
    np.testing.assert_array_equal(usual.truth.emitters.yx_nm, aligned.truth.emitters.yx_nm)
    np.testing.assert_array_equal(usual.truth.image.pixels, aligned.truth.image.pixels)
    assert aligned.truth.warp.shift_yx_nm == (0, 0)


def test_truth_is_the_mean_of_the_noise() -> None:
    pair = one("confocal-sted", size_px=256)
    camera = pair.truth.target_camera
    photons = (pair.truth.image.pixels - camera.offset) / camera.gain
    score = (pair.target.pixels - pair.truth.image.pixels) / np.sqrt(photons + 1 / 12)
    assert abs(score.mean()) < 5 / 256
    assert score.var() == pytest.approx(1, abs=0.05)


def test_a_sted_image_of_beads_has_45_db_against_its_truth() -> None:
    psnr = []
    for pair in simulate("confocal-sted", pairs=6):
        truth = pair.truth.image.pixels
        error = np.sqrt(np.mean((pair.target.pixels - truth) ** 2))
        psnr.append(20 * np.log10((truth.max() - truth.min()) / error))
    assert 44 < np.mean(psnr) < 47


@pytest.mark.parametrize("photons", [100.0, 2000.0])
def test_photons_are_the_peak_of_the_usual_lone_bead(photons: float) -> None:
    pair = one("confocal-sted", size_px=512, photons=photons, misregistration=ALIGNED)
    emitters, camera = pair.truth.emitters, pair.truth.source_camera
    distance = np.hypot(*(emitters.yx_nm[:, None] - emitters.yx_nm).T)
    np.fill_diagonal(distance, np.inf)
    pixel = np.floor(emitters.yx_nm / 30).astype(int)
    lone = (distance.min(axis=0) > 600) & ((pixel >= 0) & (pixel < 512)).all(axis=1)
    grey = pair.source.pixels[tuple(pixel[lone].T)].astype(float)
    peak = np.median((grey - camera.offset) / camera.gain - camera.background)
    assert peak == pytest.approx(photons, rel=0.2)  # few lone beads, sigma 0.3


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_source_is_rendered_where_the_warp_says(system: str) -> None:
    """A point through a pair's own warp: its centroid is there within 0.02 px."""
    pair = one(system, size_px=256)
    pixel_nm = 30.0
    point = pair.truth.warp.to_source_nm(np.array([[1800.0, 2100.0]]))
    image = render(point, np.ones(1), otf=sted_otf(), grid=Grid(128, pixel_nm, False))
    centre = (np.arange(128) + 0.5) * pixel_nm
    share = image / image.sum()
    found = [(share.sum(axis=1) * centre).sum(), (share.sum(axis=0) * centre).sum()]
    assert np.abs(found - point).max() < 0.02 * pixel_nm


def test_bright_points_are_found_where_the_warp_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images themselves: centroids in source and target, against the warp."""

    def lattice(rng: np.random.Generator, *, extent_nm: float, finest_nm: float) -> Emitters:
        ticks = np.arange(1_000.0, extent_nm, 3_000.0)
        points = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
        points = points + rng.uniform(0, finest_nm, points.shape)
        return Emitters(points, np.ones(len(points)), points)

    monkeypatch.setitem(SAMPLES, "lattice", lattice)
    pair = one(
        "confocal-sted",
        sample="lattice",
        size_px=512,
        photons=20_000.0,
        target_photons=20_000.0,
        misregistration=Misregistration(150.0, 1.0, 0.01, 60.0, 3_000.0),
    )
    points = pair.truth.emitters.objects_yx_nm
    points = points[((points > 900) & (points < 512 * 30 - 900)).all(axis=1)]
    assert len(points) >= 16
    for image, expected in [
        (pair.target.pixels, points),
        (pair.source.pixels, pair.truth.warp.to_source_nm(points)),
    ]:
        error_px = np.array([_centroid_nm(image, place) - place for place in expected]) / 30
        assert np.sqrt(np.mean(error_px**2)) < 0.02


def _centroid_nm(image: np.ndarray, near_nm: np.ndarray) -> np.ndarray:
    """Centroid under a Gaussian window that follows it, repeated until it rests."""
    corner = np.floor(near_nm / 30).astype(int) - 14
    crop = image[corner[0] : corner[0] + 29, corner[1] : corner[1] + 29] - 12.0  # the background
    y, x = ((corner[axis] + np.arange(29) + 0.5) * 30.0 for axis in (0, 1))
    place = near_nm + 20.0
    for _ in range(60):
        window = np.exp(-((y[:, None] - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * 80.0**2))
        share = crop * window / (crop * window).sum()
        place = np.array([share.sum(axis=1) @ y, share.sum(axis=0) @ x])
    return place


def test_the_source_is_the_rendered_warped_sample() -> None:
    """Rebuilt from the truth alone: emitters, warp from JSON, optics, camera."""
    pair = one("confocal-sted", misregistration=Misregistration(300.0, 2.0, 0.02, 60.0, 2_000.0))
    warp = Warp.from_json(json.loads(json.dumps(pair.truth.warp.to_json())))
    emitters, camera = pair.truth.emitters, pair.truth.source_camera
    image = render(
        warp.to_source_nm(emitters.yx_nm),
        emitters.weight,
        otf=confocal_otf(),
        grid=Grid(128, 30.0, False),
    )
    light = pair.source.pixels - expected_grey(np.zeros((128, 128)), camera)
    exposure = (light * image).sum() / (image**2).sum()
    expected = image * exposure + camera.background
    score = (pair.source.pixels - camera.offset - expected) / np.sqrt(expected + 1 / 12)
    assert score.var() == pytest.approx(1, abs=0.05)


def test_the_wide_field_channels_carry_their_names() -> None:
    for channel, name in [("dapi", "DAPI"), ("fitc", "FITC"), ("txred", "TXRED")]:
        pair = one("widefield-20x", channel=channel, sample="beads", size_px=64)
        assert pair.source.channels[0].name == pair.target.channels[0].name == name
        assert pair.truth.channel == channel


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"system": "airyscan"}, "confocal-sted, widefield-20x, tirf-sim"),
        ({"system": "tirf-sim", "sample": "cats"}, "beads, filaments, actin, nuclei, pits"),
        ({"system": "widefield-20x", "channel": "cy5"}, "dapi, fitc, txred"),
        ({"system": "tirf-sim", "channel": "dapi"}, "only one"),
        ({"system": "tirf-sim", "size_px": 129}, "Choose 128 px"),
        ({"system": "confocal-sted", "size_px": 0}, "Choose 16 px"),
        ({"system": "confocal-sted", "pairs": 0}, "at least one pair"),
        ({"system": "tirf-sim", "frames": 0}, "one frame"),
        ({"system": "confocal-sted", "seed": -1}, "negative"),
        ({"system": "confocal-sted", "photons": 0.0}, "light"),
        ({"system": "confocal-sted", "photons": float("nan")}, "light"),
    ],
)
def test_what_cannot_be_simulated_is_refused_at_once(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        simulate(**options)  # type: ignore[arg-type]


def test_a_written_simulation_holds_images_and_truth(tmp_path: Path) -> None:
    out = tmp_path / "sim"
    told: list[int] = []
    pairs = list(simulate("tirf-sim", pairs=2, size_px=64))
    assert write_simulation(pairs, out, progress=told.append) == 2
    assert told == [1, 2]
    for pair in pairs:
        for folder, image in [
            ("source", pair.source),
            ("target", pair.target),
            ("truth", pair.truth.image),
        ]:
            back = read_image(out / folder / f"{pair.name}.tif")
            np.testing.assert_array_equal(back.pixels, image.pixels)
            assert back.pixel_size_nm == pytest.approx(image.pixel_size_nm)
        truth = json.loads((out / "truth" / f"{pair.name}.json").read_text())
        assert Warp.from_json(truth["warp"]) == pair.truth.warp
        assert truth["sample"] == "pits"
        objects = np.array(truth["objects_yx_nm"]).reshape(-1, 2)
        assert ((objects >= 0) & (objects <= 64 * 32.5)).all()
        table = np.load(out / "truth" / f"{pair.name}_emitters.npy", allow_pickle=False)
        np.testing.assert_allclose(table[:, :2], pair.truth.emitters.yx_nm, atol=0.01)
    with pytest.raises(OutputError, match="exists"):
        write_simulation(pairs, out)


# --- time-lapses ----------------------------------------------------------------------------------


def test_one_frame_is_what_it_always_was() -> None:
    pair = one("tirf-sim", seed=3, frames=1)
    assert (pair.source.axes, pair.source.time_step_s, pair.truth.traces) == ("yx", None, None)
    assert (int(pair.source.pixels.sum()), int(pair.target.pixels.sum())) == SUMS


def test_a_time_lapse_is_the_same_field_through_the_same_warp() -> None:
    still, lapse = one("tirf-sim", size_px=64), one("tirf-sim", size_px=64, frames=4)
    for image in (lapse.source, lapse.target, lapse.truth.image):
        assert (image.axes, len(image.pixels), image.time_step_s) == ("tyx", 4, 3.0)
    assert lapse.truth.warp == still.truth.warp
    np.testing.assert_array_equal(lapse.truth.emitters.yx_nm, still.truth.emitters.yx_nm)
    assert lapse.truth.traces is not None
    assert lapse.truth.traces.shape == (len(lapse.truth.emitters.objects_yx_nm), 4)
    assert (lapse.source.pixels[0] != lapse.source.pixels[1]).any()  # noise of its own


@pytest.mark.parametrize("sample", ["pits", "beads"])
def test_a_lone_object_is_as_bright_as_its_trace_says(sample: str) -> None:
    lapse = one("tirf-sim", size_px=256, frames=12, sample=sample)
    objects, traces = lapse.truth.emitters.objects_yx_nm, lapse.truth.traces
    assert traces is not None
    pixel = np.floor(objects / 32.5).astype(int)
    nearest = KDTree(objects).query(objects, k=2)[0][:, 1]
    lone = (nearest > 500) & ((pixel > 3) & (pixel < 252)).all(axis=1)
    assert lone.sum() > 10
    dark = lapse.truth.target_camera.offset
    dark += lapse.truth.target_camera.gain * lapse.truth.target_camera.background
    y, x = pixel[lone].T
    seen = lapse.truth.image.pixels[:, y, x].T - dark  # object, frame
    full = (seen * traces[lone]).sum(axis=1) / (traces[lone] ** 2).sum(axis=1)
    assert (full > 0).all()
    assert np.abs(seen / full[:, None] - traces[lone]).max() < 0.05


def test_filaments_bleach_together() -> None:
    lapse = one("tirf-sim", size_px=64, frames=3, sample="filaments")
    assert lapse.truth.traces is not None
    assert lapse.truth.traces.shape == (1, 3)
    dark = lapse.truth.target_camera.offset
    dark += lapse.truth.target_camera.gain * lapse.truth.target_camera.background
    light = (lapse.truth.image.pixels - dark).sum(axis=(1, 2))
    assert light / light[0] == pytest.approx(lapse.truth.traces[0], rel=1e-3)


@pytest.mark.parametrize("sample", ["pits", "filaments"])
def test_a_written_time_lapse_holds_its_traces(tmp_path: Path, sample: str) -> None:
    lapse = one("tirf-sim", size_px=64, frames=3, sample=sample)
    write_simulation([lapse], tmp_path / "sim")
    for folder in ("source", "target", "truth"):
        back = read_image(tmp_path / "sim" / folder / "0000.tif")
        assert (back.axes, back.time_step_s) == ("tyx", 3.0)
    truth = json.loads((tmp_path / "sim" / "truth" / "0000.json").read_text())
    assert (truth["frames"], truth["time_step_s"]) == (3, 3.0)
    traces = np.load(tmp_path / "sim" / "truth" / "0000_traces.npy", allow_pickle=False)
    objects = np.array(truth["objects_yx_nm"]).reshape(-1, 2)
    assert traces.shape == (len(objects) or 1, 3)
    assert lapse.truth.traces is not None
    if len(objects):
        every = lapse.truth.emitters.objects_yx_nm
        _, which = KDTree(every).query(objects)
        np.testing.assert_allclose(traces, lapse.truth.traces[which], atol=1e-6)
    else:
        np.testing.assert_allclose(traces, lapse.truth.traces, atol=1e-6)


def test_a_single_image_writes_no_traces(tmp_path: Path) -> None:
    write_simulation([one("tirf-sim", size_px=64)], tmp_path / "sim")
    names = sorted(path.name for path in (tmp_path / "sim" / "truth").iterdir())
    assert names == ["0000.json", "0000.tif", "0000_emitters.npy"]
    assert "frames" not in json.loads((tmp_path / "sim" / "truth" / "0000.json").read_text())


def test_a_simulation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> object:
        yield one("confocal-sted", size_px=32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_simulation(failing(), tmp_path / "sim")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
