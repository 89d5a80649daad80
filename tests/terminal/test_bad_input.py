"""What cannot be used is told in one line with file, reason and remedy; nothing is touched."""

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import crosscope as cs

Crosscope = Callable[..., Any]
QUICK = ("--threads", "1", "--precision", "float32")
FAST = ("--steps", "1", "--base", "4", "--no-claims", *QUICK)
NOISE = np.random.default_rng(0).integers(0, 500, (96, 96)).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, axes: str = "yx", nm: float | None = 30.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size_nm = None if nm is None else (nm, nm)
    cs.write_image(cs.Image(pixels, axes, size_nm), path)


def contents(*folders: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, walk: Any) -> Path:
    """A folder of things that cannot be used."""
    bad = tmp_path_factory.mktemp("bad")
    (bad / "text.tif").write_text("this is no image")
    (bad / "empty.tif").touch()
    (bad / "cut.tif").write_bytes(walk.image.read_bytes()[:900])
    tifffile.imwrite(bad / "colour.tif", np.zeros((32, 32, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(bad / "axes.tif", np.zeros((2, 3, 4, 5, 32, 32), np.uint8))
    write(bad / "sizeless.tif", NOISE[:32, :32], nm=None)  # small: every magnification is tried
    write(bad / "tiny.tif", NOISE[32:64, :32])
    write(bad / "nan.tif", np.full((64, 64), np.nan, np.float32))
    write(bad / "stack.tif", np.stack([NOISE, NOISE]), "zyx")
    write(bad / "channels.tif", np.stack([NOISE, NOISE]), "cyx")
    write(bad / "far.tif", NOISE, nm=45.0)
    write(bad / "constant.tif", np.full((96, 96), 7, np.uint16))
    (bad / "nothing").mkdir()
    (bad / "model.zip").write_text("this is no model")
    with zipfile.ZipFile(bad / "other.zip", "w") as archive:
        archive.writestr("data.pkl", b"\x80\x04.")
    (bad / "cut.zip").write_bytes(walk.model.read_bytes()[:5000])
    for name in ("a", "b"):
        write(bad / "named" / f"{name}.tif", NOISE + ord(name))
    for name in ("b", "c", "d"):
        write(bad / "others" / f"{name}.tif", NOISE[::-1] + ord(name))
    write(bad / "unrelated.tif", np.random.default_rng(1).integers(0, 9, (96, 96)).astype("u2"))
    write(bad / "small.tif", NOISE[:20, :20])
    (bad / "unregistered" / "source").mkdir(parents=True)
    shutil.copytree(walk.pairs, bad / "broken")
    (bad / "broken" / "pairs.json").write_text('{"pairs": [{"accepted": true}]}')
    shutil.copytree(walk.pairs, bad / "refused")
    (bad / "refused" / "pairs.json").write_text('{"pairs": []}')
    return bad


PREDICT = ("predict", "MODEL", "BAD", "OUT.tif", *QUICK)
REGISTER = ("register", "BAD", "IMAGE", "OUT")
CASES: dict[str, tuple[tuple[str, ...], str, int]] = {
    "none.tif": (PREDICT, "does not exist", 2),
    "text.tif": (PREDICT, "not a TIFF", 2),
    "empty.tif": (PREDICT, "is empty", 2),
    "cut.tif": (PREDICT, "Copy it anew", 2),
    "colour.tif": (PREDICT, "colour picture", 2),
    "axes.tif": (PREDICT, "axes that are not t, c, z, y, x", 2),
    "sizeless.tif": (PREDICT, "--pixel-size-nm", 2),
    "nan.tif": (PREDICT, "pixels are NaN", 2),
    "channels.tif": (PREDICT, "several channels", 2),
    "far.tif": (PREDICT, "made for 30 x 30 nm", 3),
    "nothing": (PREDICT, "has no images", 2),
    "none.zip": (("predict", "BAD", "IMAGE", "OUT.tif"), "no such file", 2),
    "model.zip": (("predict", "BAD", "IMAGE", "OUT.tif"), "not a model file", 2),
    "other.zip": (("predict", "BAD", "IMAGE", "OUT.tif"), "not a crosscope model", 2),
    "cut.zip": (("info", "BAD"), "not a model file", 2),
    "text.tif ": (("info", "BAD"), "not a TIFF", 2),
    "nothing ": (("info", "BAD"), "has no images", 2),
    "none": (REGISTER, "does not exist", 2),
    "stack.tif": (REGISTER, "where one plane is needed", 2),
    "constant.tif": (REGISTER, "nothing to see", 2),
    "unrelated.tif": (REGISTER, "don't match", 2),
    "small.tif": (REGISTER, "common field", 2),
    "sizeless.tif ": (("register", "BAD", "TINY", "OUT"), "--source-pixel-size-nm", 2),
    "named": (("register", "BAD", "OTHERS", "OUT"), "without a partner", 2),
    "nothing  ": (("register", "BAD", "OTHERS", "OUT"), "has no images", 2),
    "others": (("register", "BAD", "IMAGE", "OUT"), "is a folder", 2),
    "unregistered": (("train", "BAD", "OUT", *FAST), "not a folder of registered pairs", 2),
    "broken": (("train", "BAD", "OUT", *FAST), "not a list of registered pairs", 2),
    "refused": (("train", "BAD", "OUT", *FAST), "no accepted pair", 2),
    "refused ": (("evaluate", "MODEL", "BAD", "OUT"), "no accepted pair", 2),
    "model.zip ": (("evaluate", "BAD", "PAIRS", "OUT"), "not a model file", 2),
    "nothing   ": (("evaluate", "MODEL", "PAIRS", "OUT", "--truth", "BAD"), "has no images", 2),
    "model.zip  ": (("train", "PAIRS", "OUT", *FAST, "--init", "BAD"), "not a model file", 2),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_used_is_told_in_one_line(
    crosscope: Crosscope, walk: Any, bad: Path, tmp_path: Path, name: str
) -> None:
    arguments, reason, code = CASES[name]
    out = tmp_path / "OUT"
    places = {"MODEL": walk.model, "IMAGE": walk.image, "PAIRS": walk.pairs, "OUT": out}
    places |= {"OUT.tif": out, "BAD": bad / name.strip(), "OTHERS": bad / "others"}
    places |= {"TINY": bad / "tiny.tif"}
    before = contents(bad, walk.raw, walk.pairs)
    if arguments is PREDICT or "OUT.tif" in arguments:
        places["OUT.tif"] = tmp_path / "OUT.tif"
    outcome = crosscope(*(places.get(part, part) for part in arguments))
    assert outcome.code == code, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith("crosscope: ")
    assert line.endswith(".")
    assert reason in line
    assert name.strip().split(".")[0] in line
    assert outcome.out == ""
    assert not list(tmp_path.iterdir())
    assert contents(bad, walk.raw, walk.pairs) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("simulate", "electron", "OUT"), "electron"),
        (("simulate", "tirf-sim", "OUT", "--size-px", "101"), "multiple of 2"),
        (("simulate", "confocal-sted", "OUT", "--channel", "dapi"), "only one"),
        (("simulate", "confocal-sted", "OUT", "--photons", "nan"), "needs light"),
        (("train", "PAIRS", "OUT", "--steps", "0"), "at least 1"),
        (("train", "PAIRS", "OUT", "--steps", "5", "--minutes", "1"), "exclude each other"),
        (("train", "PAIRS", "OUT", "--resume", *FAST), "no checkpoint"),
        (("train", "PAIRS", "OUT", "--set", "mse_share"), "is not NAME=VALUE"),
        (("train", "PAIRS", "OUT", "--set", "mse_shar=0.9"), "The nearest is mse_share"),
        (("train", "PAIRS", "OUT", "--set", "zebra=1"), "There are adversarial_rate, "),
        (("train", "PAIRS", "OUT", "--set", "batch=4.5"), "is not a whole number"),
        (("train", "PAIRS", "OUT", "--set", "training_fields=all"), "is not a whole number"),
        (("train", "PAIRS", "OUT", "--set", "decay=maybe"), "is not true or false"),
        (("train", "PAIRS", "OUT", "--set", "warm_share=nan"), "is not a number"),
        (("train", "PAIRS", "OUT", "--set", "warm_share=2"), "at most 1"),
        (("train", "PAIRS", "OUT", *FAST, "--set", "steps=5"), "Use --steps"),
        (("train", "PAIRS", "OUT", "--set", "network=paper"), "Use --preset"),
        (("train", "PAIRS", "OUT", "--set", "batch=2", "--set", "batch=3"), "given twice"),
        (("predict", "MODEL", "IMAGE", "OUT.png"), "End it in .ome.tif"),
        (("predict", "MODEL", "IMAGE", "OUT.tif", "--offset", "nan"), "offset must be finite"),
        (
            ("predict", "MODEL", "IMAGE", "OUT.tif", "--channel", "DAPI", *QUICK),
            "no single channel",
        ),
        (("predict", "DAPI=,", "IMAGE", "OUT.tif"), "DAPI=a.zip,FITC=b.zip"),
        (("predict", "MODEL", "IMAGE", "."), "which must stay"),
    ],
)
def test_options_that_make_no_sense_are_told_in_one_line(
    crosscope: Crosscope,
    walk: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"MODEL": walk.model, "IMAGE": walk.image, "PAIRS": walk.pairs}
    outcome = crosscope(*(places.get(part, part) for part in arguments))
    assert outcome.code == 2
    said = [line for line in outcome.err.splitlines() if line.startswith("crosscope: ")]
    assert len(said) == 1
    assert reason in said[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "MODEL", "IMAGE", "IMAGE"),
        ("predict", "MODEL", "IMAGE", "SOURCE"),
        ("predict", "MODEL", "SOURCE", "SOURCE"),
        ("predict", "MODEL", "SOURCE", "RAW"),
        ("register", "SOURCE", "TARGET", "RAW"),
        ("register", "SOURCE", "TARGET", "SOURCE"),
        ("train", "PAIRS", "PAIRS"),
        ("train", "PAIRS", "RUN", "--init", "MODEL"),
        ("evaluate", "MODEL", "PAIRS", "PAIRS"),
        ("evaluate", "MODEL", "PAIRS", "RUN"),
        ("evaluate", "MODEL", "PAIRS", "RAW", "--truth", "TRUTH"),
    ],
)
def test_inputs_are_never_overwritten_by_overwrite_neither(
    crosscope: Crosscope, walk: Any, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    for folder in (walk.raw, walk.pairs):
        shutil.copytree(folder, tmp_path / folder.name)
    (tmp_path / "run").mkdir()
    shutil.copy(walk.model, tmp_path / "run")
    raw, run = tmp_path / "raw", tmp_path / "run"
    places = {"RAW": raw, "PAIRS": tmp_path / "pairs", "RUN": run, "MODEL": run / "model.zip"}
    places |= {"SOURCE": raw / "source", "TARGET": raw / "target", "TRUTH": raw / "truth"}
    places |= {"IMAGE": raw / "source" / "0000.tif"}
    before = contents(tmp_path)
    outcome = crosscope(*(places.get(part, part) for part in arguments), "--overwrite")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "which must stay" in line
    assert contents(tmp_path) == before


def refuse_to_write(_: int) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("command", ["simulate", "register", "train", "evaluate", "predict"])
def test_a_read_only_disk_is_told_in_one_line(
    crosscope: Crosscope,
    walk: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    out = tmp_path / "out.tif"
    arguments: dict[str, tuple[str | Path, ...]] = {
        "simulate": ("confocal-sted", out, "--pairs", "1", "--size-px", "64"),
        "register": (walk.raw / "source", walk.raw / "target", out),
        "train": (walk.pairs, out, *FAST),
        "evaluate": (walk.model, walk.pairs, out),
        "predict": (walk.model, walk.image, out, *QUICK),
    }
    monkeypatch.setattr("crosscope.data.files.os.fsync", refuse_to_write)
    outcome = crosscope(command, *arguments[command])
    assert outcome.code == 2
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("crosscope: "))
    assert "Read-only file system" in line
    assert str(tmp_path) in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("command", ["simulate", "register", "train", "evaluate", "predict"])
def test_an_output_below_a_file_is_told_in_one_line(
    crosscope: Crosscope, walk: Any, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "out.tif"
    arguments: dict[str, tuple[str | Path, ...]] = {
        "simulate": ("confocal-sted", out, "--pairs", "1", "--size-px", "64"),
        "register": (walk.raw / "source", walk.raw / "target", out),
        "train": (walk.pairs, out, *FAST),
        "evaluate": (walk.model, walk.pairs, out),
        "predict": (walk.model, walk.image, out, *QUICK),
    }
    outcome = crosscope(command, *arguments[command])
    assert outcome.code == 2
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("crosscope: "))
    assert str(tmp_path / "file") in line
    assert contents(tmp_path) == {tmp_path / "file": b"mine"}


def test_register_does_what_can_be_done_and_lists_the_rest(
    crosscope: Crosscope, walk: Any, tmp_path: Path
) -> None:
    shutil.copytree(walk.raw, tmp_path / "raw")
    source, target = tmp_path / "raw" / "source", tmp_path / "raw" / "target"
    (source / "0001.tif").write_text("this is no image")
    out = tmp_path / "pairs"
    outcome = crosscope("register", source, target, out, "--json")
    assert outcome.code == 2
    assert [pair["accepted"] for pair in outcome.json["pairs"]] == [True, False, True]
    assert "not a TIFF" in outcome.json["pairs"][1]["reason"]
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("crosscope: "))
    assert "0001.tif" in line
    assert sorted(file.name for file in (out / "source").iterdir()) == ["0000.tif", "0002.tif"]


def test_register_with_no_pair_left_is_2(crosscope: Crosscope, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for n in range(4):
        folder = tmp_path / ("source" if n < 2 else "target")
        write(folder / f"{n % 2}.tif", random.integers(0, 9, (96, 96)).astype(np.uint16))
    out = tmp_path / "pairs"
    outcome = crosscope("register", tmp_path / "source", tmp_path / "target", out)
    assert outcome.code == 2
    assert "0 of 2 pairs registered" in outcome.out
    train = crosscope("train", out, tmp_path / "run", *FAST)
    assert train.code == 2
    assert "no accepted pair" in train.err
