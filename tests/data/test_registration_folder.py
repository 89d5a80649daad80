"""Folders of pairs: what is done is kept, what has changed is done again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosscope as cs
from crosscope.data.errors import OutputError, PairError
from crosscope.data.files import resuming_folder
from crosscope.data.registered import read_registered
from crosscope.data.registration import folder as registration_folder
from crosscope.data.registration.folder import RegistrationPlan, register_files


def write_raw(folder: Path, pairs: int, seed: int = 3) -> tuple[Path, Path]:
    simulated = cs.simulate("confocal-sted", pairs=pairs, size_px=128, seed=seed)
    cs.write_simulation(simulated, folder)
    return folder / "source", folder / "target"


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs that are really done, in turn."""
    names: list[str] = []
    do = registration_folder._do

    def counted(job: Any, out: Path) -> Any:
        names.append(job.name)
        return do(job, out)

    monkeypatch.setattr(registration_folder, "_do", counted)
    return names


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path: Path, done: list[str]) -> None:
    raw, out = write_raw(tmp_path / "raw", 3), tmp_path / "out"

    def stop(share: float, name: str) -> None:
        assert 0 < share < 1
        if name == "0001":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register_files(*raw, out, watch=stop)
    assert not out.exists()
    assert done == ["0000", "0001"]
    register_files(*raw, out)
    assert done == ["0000", "0001", "0002"]
    assert len(read_registered(out)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


def test_what_is_done_is_done_again_only_where_something_changed(
    tmp_path: Path, done: list[str]
) -> None:
    raw, out = write_raw(tmp_path / "raw", 2), tmp_path / "out"
    first = register_files(*raw, out).pairs
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert register_files(*raw, out).pairs == first  # nothing to do, nothing touched
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    changed = cs.read_image(raw[0] / "0001.tif")
    cs.write_image(changed.with_pixels(changed.pixels + 1), raw[0] / "0001.tif", overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        register_files(*raw, out)
    register_files(*raw, out, overwrite=True)
    assert done == ["0000", "0001", "0001"]
    register_files(*raw, out, overwrite=True, plan=RegistrationPlan(rigid=True))
    assert done == ["0000", "0001", "0001", "0000", "0001"]


def test_side_by_side_gives_the_same(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", 2)
    one = register_files(*raw, tmp_path / "one", workers=1).pairs
    two = register_files(*raw, tmp_path / "two", workers=2).pairs
    assert one == two


def test_pairs_above_the_limit_are_left_out_or_kept_and_marked(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", 2)
    strict = RegistrationPlan(max_residual_px=1e-4)
    refused = register_files(*raw, tmp_path / "refused", plan=strict)
    assert refused.exit_code == 2
    assert all("above the limit" in pair["reason"] for pair in refused.pairs)
    assert all(pair["residual_px"] > 1e-4 for pair in refused.pairs)
    assert read_registered(tmp_path / "refused") == []
    keeping = RegistrationPlan(max_residual_px=1e-4, keep_all=True)
    kept = register_files(*raw, tmp_path / "kept", plan=keeping)
    assert kept.exit_code == 0
    assert not any(pair["accepted"] for pair in kept.pairs)
    pairs = read_registered(tmp_path / "kept")
    assert [pair.reason for pair in pairs] == [pair["reason"] for pair in kept.pairs]


def test_the_folder_holds_certificates_and_a_page(tmp_path: Path) -> None:
    raw, out = write_raw(tmp_path / "raw", 2), tmp_path / "out"
    pairs = register_files(*raw, out).pairs
    assert json.loads((out / "pairs.json").read_text())["pairs"] == pairs
    page = (out / "registration.html").read_text()
    for pair in pairs:
        assert pair["residual_px"] < pair["limit_px"]
        assert pair["residual_error_px"] > 0
        assert pair["local"]["residual_px"]
        assert f"{pair['residual_px']:.3f}" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert not (out / "done").exists()


def write_two_channels(folder: Path) -> tuple[Path, Path]:
    """Channel B is channel A's field, seen with a shift of its own."""
    (a,) = cs.simulate("confocal-sted", pairs=1, size_px=192, seed=5)
    (b,) = cs.simulate("confocal-sted", pairs=1, size_px=192, seed=6)
    channels = (cs.Channel("A"), cs.Channel("B/2"))
    for side in ("source", "target"):
        planes = np.stack([getattr(a, side).pixels, getattr(b, side).pixels])
        image = cs.Image(planes, "cyx", (30.0, 30.0), channels=channels)
        cs.write_image(image, folder / side / "cell.tif")
    return folder / "source", folder / "target"


def test_channels_are_registered_each_or_all_by_one(tmp_path: Path) -> None:
    raw = write_two_channels(tmp_path / "raw")
    each = register_files(*raw, tmp_path / "each", plan=RegistrationPlan(per_channel=True)).pairs
    assert [pair["name"] for pair in each] == ["cell_A", "cell_B-2"]
    assert [pair["channel"] for pair in each] == ["A", "B/2"]
    assert np.abs(np.subtract(each[0]["shift_px"], each[1]["shift_px"])).max() > 0.5
    by_one = register_files(*raw, tmp_path / "one", plan=RegistrationPlan(register_on="A")).pairs
    assert by_one[1]["transform"] == by_one[0]["transform"] == each[0]["transform"]
    with pytest.raises(PairError, match="A, B/2"):
        read_registered(tmp_path / "each")
    (pair,) = read_registered(tmp_path / "each", channel="B/2")
    assert pair.name == "cell_B-2"
    with pytest.raises(PairError, match="no channel 'C'"):
        register_files(*raw, tmp_path / "none", plan=RegistrationPlan(register_on="C"))


def test_two_runs_do_not_work_on_one_folder(tmp_path: Path) -> None:
    with (
        resuming_folder(tmp_path / "out"),
        pytest.raises(OutputError, match="another process"),
        resuming_folder(tmp_path / "out"),
    ):
        raise AssertionError
