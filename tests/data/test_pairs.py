"""Files are paired by name or by order, never by a guess between the two."""

from pathlib import Path

import numpy as np
import pytest

from crosscope.data.errors import ImageError, PairError
from crosscope.data.images import Channel, Image, write_image
from crosscope.data.pairs import MatchedFiles, match_files, read_pair, read_pairs

REAL = Path(__file__).parents[3] / "shared" / "data"


def _folders(path: Path, sources: list[str], targets: list[str]) -> tuple[Path, Path]:
    for folder, names in (("source", sources), ("target", targets)):
        (path / folder).mkdir()
        for name in names:
            (path / folder / name).write_text(f"{folder} {name}")
    return path / "source", path / "target"


def _write(path: Path, *, value: float = 1, size_nm: float | None = 50.0, names: str = "") -> Path:
    plane = np.float32(value) * np.arange(12, dtype=np.float32).reshape(3, 4)
    channels = tuple(Channel(name) for name in names)
    pixels = np.stack([plane + i for i in range(len(names))]) if names else plane
    axes = "cyx" if names else "yx"
    size = None if size_nm is None else (size_nm, size_nm)
    write_image(Image(pixels, axes, size, channels=channels), path)
    return path


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        (["b.tif", "a.tif"], ["a.nd2", "b.ome.tif"]),
        (["cell_confocal_01.tif", "cell_confocal_2.tif"], ["cell_sted_01.tif", "cell_sted_2.tif"]),
        (["1-c1.tif", "2-c1.tif", "10-c1.tif"], ["1-c2.tif", "2-c2.tif", "10-c2.tif"]),
        (["confocal_a.tif", "confocal_b.tif"], ["a.tif", "b.tif"]),
        (["cell 1 wide.tif"], ["cell 1 sim.tif"]),
    ],
)
def test_names_find_their_partners(tmp_path: Path, sources: list[str], targets: list[str]) -> None:
    matched = match_files(*_folders(tmp_path, sources, targets))
    assert {files.matched_by for files in matched} == {"name"}
    partner = {files.source.name: files.target.name for files in matched}
    assert partner == dict(zip(sorted(sources), sorted(targets), strict=True))


def test_order_is_natural_where_no_name_matches(tmp_path: Path) -> None:
    matched = match_files(*_folders(tmp_path, ["img10.tif", "img2.tif"], ["x9.tif", "x11.tif"]))
    assert [(f.name, f.source.name, f.target.name, f.matched_by) for f in matched] == [
        ("img2", "img2.tif", "x9.tif", "order"),
        ("img10", "img10.tif", "x11.tif", "order"),
    ]


@pytest.mark.parametrize(
    ("sources", "targets", "alone"),
    [
        (["1.tif", "2.tif"], ["2.tif", "3.tif"], "source/1.tif, target/3.tif"),
        (["1.tif", "2.tif", "3.tif"], ["1.tif", "3.tif"], "source/2.tif"),
        (["1_wf.tif", "2_wf.tif"], ["1_sim.tif", "3_sim.tif"], "source/2_wf.tif, target/3_sim.tif"),
    ],
)
def test_names_that_match_in_part_are_never_paired_by_order(
    tmp_path: Path, sources: list[str], targets: list[str], alone: str
) -> None:
    with pytest.raises(PairError, match=alone):
        match_files(*_folders(tmp_path, sources, targets))


def test_a_single_name_keeps_its_number(tmp_path: Path) -> None:
    (files,) = match_files(*_folders(tmp_path, ["cell_1.tif"], ["cell_2.tif"]))
    assert files.matched_by == "order"


def test_unequal_counts_are_named(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"has 3 images, but .* has 2"):
        match_files(*_folders(tmp_path, ["a.tif", "b.tif", "c.tif"], ["x.tif", "y.tif"]))


def test_one_name_for_two_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"a\.ome\.tif and a\.tif"):
        match_files(*_folders(tmp_path, ["a.tif", "a.ome.tif"], ["a.tif", "b.tif"]))


def test_the_same_image_on_both_sides_is_refused(tmp_path: Path) -> None:
    source, target = _folders(tmp_path, ["a.tif"], ["a.tif"])
    with pytest.raises(PairError, match="same image"):
        match_files(source, source)
    (target / "a.tif").write_bytes((source / "a.tif").read_bytes())
    with pytest.raises(PairError, match="same image"):
        match_files(source, target)


def test_a_file_and_a_folder_or_nothing_are_refused(tmp_path: Path) -> None:
    source, target = _folders(tmp_path, ["a.tif"], ["a.tif"])
    with pytest.raises(PairError, match="two files or two folders"):
        match_files(source, target / "a.tif")
    with pytest.raises(ImageError, match="does not exist"):
        match_files(source, tmp_path / "none")


def test_two_files_are_read_as_given(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.ome.tif", size_nm=60.0)
    target = _write(tmp_path / "b.tif", value=2)
    (pair,) = read_pairs(str(source), str(target))
    assert (pair.name, pair.matched_by) == ("a", "given")
    assert pair.source.pixel_size_nm == (60, 60)
    assert pair.target.pixel_size_nm == (50, 50)
    assert pair.target.pixels[2, 3] == 22


def test_a_channel_is_chosen_from_both(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.tif", names="AB")
    target = _write(tmp_path / "b.tif", value=2, names="BA")
    (pair,) = read_pairs(source, target, channel="B")
    assert (pair.source.pixels[0, 0], pair.target.pixels[0, 0]) == (1, 0)
    with pytest.raises(ImageError, match="several channels"):
        read_pairs(source, target)


def test_a_missing_pixel_size_can_be_given(tmp_path: Path) -> None:
    source, target = _write(tmp_path / "a.tif", size_nm=None), _write(tmp_path / "b.tif", value=2)
    files = MatchedFiles("a", source, target, "given")
    assert read_pair(files).source.pixel_size_nm is None
    pair = read_pair(files, source_pixel_size_nm=96.8, target_pixel_size_nm=30.0)
    assert (pair.source.pixel_size_nm, pair.target.pixel_size_nm) == ((96.8, 96.8), (30, 30))
    assert "96.8 nm was given by the user (the file gives none)" in pair.source.assumed[-1]
    assert "the file says 50 x 50" in pair.target.assumed[-1]
    for nonsense in (0.0, -3.0, np.nan, np.inf):
        with pytest.raises(ImageError, match="Pass a length in nm by --source-pixel-size-nm"):
            read_pair(files, source_pixel_size_nm=nonsense)


@pytest.mark.parametrize(("value", "said"), [(0, "all its pixels are 0"), (np.nan, "NaN")])
def test_constant_and_non_finite_images_are_refused(
    tmp_path: Path, value: float, said: str
) -> None:
    source, target = _write(tmp_path / "a.tif"), _write(tmp_path / "b.tif", value=value)
    with pytest.raises(ImageError, match=said):
        read_pairs(source, target)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_real_pairs_take_the_pixel_size_they_lack() -> None:
    folder = REAL / "microtubule_widefield_storm"
    files = folder / "microtubule_widefield.tif", folder / "microtubule_STORM.tif"
    assert read_pairs(*files)[0].source.pixel_size_nm is None
    (pair,) = read_pairs(*files, source_pixel_size_nm=96.8)
    assert pair.target.pixel_size_nm == pytest.approx((19.36, 19.36), abs=0.01)
