"""Two folders -> raw pairs: which image of the source belongs to which of the target.

Names decide. Order decides only where no name of one folder is found in the other: files that
match in part are never paired by order, since one missing file would shift all that follow.
"""

import filecmp
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from crosscope.data.errors import ImageError, PairError
from crosscope.data.images import Image, list_images, read_image, require_finite, select_plane

SOURCE_OPTION, TARGET_OPTION = "--source-pixel-size-nm", "--target-pixel-size-nm"


@dataclass(frozen=True, eq=False)
class RawPair:
    """The same field through two microscopes, each on its own grid.

    Attributes
    ----------
    name : str
        The pair's name: the source file's, without its suffixes.
    source, target : Image
        Both with axes "yx".
    matched_by : str
        How the two were matched: "name", "order" or "given".
    channel : str or None
        Which of several channels, where the files have several.
    """

    name: str
    source: Image
    target: Image
    matched_by: str = "given"
    channel: str | None = None


@dataclass(frozen=True)
class MatchedFiles:
    """Two files that show the same field.

    Attributes
    ----------
    name : str
        The source file's name without its suffixes.
    source, target : Path
    matched_by : str
        "name", "order" (natural order, no name in common) or "given" (two files).
    """

    name: str
    source: Path
    target: Path
    matched_by: str


def read_pairs(
    source: Path | str,
    target: Path | str,
    *,
    channel: str | None = None,
    source_pixel_size_nm: float | None = None,
    target_pixel_size_nm: float | None = None,
) -> list[RawPair]:
    """Read the raw pairs of two files or of two folders; see `match_files` and `read_pair`.

    Parameters
    ----------
    source, target : Path or str
        Two files, or two folders.
    channel : str, optional
        Which channel of both, where they have several.
    source_pixel_size_nm, target_pixel_size_nm : float, optional
        Instead of what the files say.

    Returns
    -------
    list of RawPair
        In the natural order of the source's names.

    Raises
    ------
    PairError
        The files do not form pairs.
    ImageError
        A file cannot be used.
    """
    return [
        read_pair(
            files,
            channel=channel,
            source_pixel_size_nm=source_pixel_size_nm,
            target_pixel_size_nm=target_pixel_size_nm,
        )
        for files in match_files(Path(source), Path(target))
    ]


def read_pair(
    files: MatchedFiles,
    *,
    channel: str | None = None,
    source_pixel_size_nm: float | None = None,
    target_pixel_size_nm: float | None = None,
) -> RawPair:
    """Read two matched files and check that they can be used.

    Parameters
    ----------
    files : MatchedFiles
    channel : str, optional
        Which channel of both, where they have several.
    source_pixel_size_nm, target_pixel_size_nm : float, optional
        Instead of what the files say; the image's `assumed` tells of it.

    Returns
    -------
    RawPair
        Axes y x, finite pixels that are not all equal; a pixel size that the file does not say
        and nobody gives is None.

    Raises
    ------
    ImageError
        A file cannot be read, is not one plane, has NaN or infinite pixels, or is constant.
    """
    (pair,) = pair_images(
        files,
        read_image(files.source),
        read_image(files.target),
        channel=channel,
        source_pixel_size_nm=source_pixel_size_nm,
        target_pixel_size_nm=target_pixel_size_nm,
    )
    return pair


def pair_images(
    files: MatchedFiles,
    source: Image,
    target: Image,
    *,
    channel: str | None = None,
    all_channels: bool = False,
    source_pixel_size_nm: float | None = None,
    target_pixel_size_nm: float | None = None,
) -> list[RawPair]:
    """Return the pair of one channel of two images, or the pairs "NAME_CHANNEL" of all.

    Channels belong together by name, or, where the names differ, by order.

    Raises
    ------
    ImageError
        As for `read_pair`.
    PairError
        The two images have different numbers of channels.
    """

    def paired(name: str, source_channel: str | None, target_channel: str | None) -> RawPair:
        return RawPair(
            name,
            _plane(source, files.source, source_channel, source_pixel_size_nm, SOURCE_OPTION),
            _plane(target, files.target, target_channel, target_pixel_size_nm, TARGET_OPTION),
            files.matched_by,
            source_channel,
        )

    if not all_channels:
        return [paired(files.name, channel, channel)]
    ours, others = (
        [channel.name for channel in image.channels] or [""] for image in (source, target)
    )
    if len(ours) != len(others):
        reason = f"has {len(ours)} channels, but {files.target} has {len(others)}"
        raise PairError(files.source, reason, "Name one that both have by --channel")
    if set(ours) == set(others):
        others = ours
    if ours == [""]:
        return [paired(files.name, None, None)]
    names = ["_".join((files.name, re.sub(r"[^\w-]+", "-", own))) for own in ours]
    return [paired(*names_) for names_ in zip(names, ours, others, strict=True)]


def match_files(source: Path, target: Path) -> list[MatchedFiles]:
    """Find which file of the source belongs to which of the target, without reading pixels.

    By equal names (without suffixes); else by names that are equal without the words that all
    names of one folder have and none of the other ("cell_confocal_01", "cell_sted_01"); else, if
    no name has a partner, by natural order.

    Parameters
    ----------
    source, target : Path
        Two files, or two folders.

    Returns
    -------
    list of MatchedFiles
        In the natural order of the source's names.

    Raises
    ------
    PairError
        A file and a folder; names that match in part; unequal counts without matching names; a
        name twice in a folder; the same file, or the same bytes, on both sides.
    ImageError
        Source or target is missing, or is a folder without images.
    """
    for path in (source, target):
        if not path.exists():
            raise ImageError(path, "does not exist", "Check the name")
    if source.is_dir() != target.is_dir():
        reason = f"is a {_kind(source)}, but {target} is a {_kind(target)}"
        raise PairError(source, reason, "Give two files or two folders")
    if source.is_dir():
        matched = _match_folders(source, target)
    else:
        matched = [MatchedFiles(stem(source), source, target, "given")]
    for files in matched:
        _require_different(files)
    return matched


def _match_folders(source: Path, target: Path) -> list[MatchedFiles]:
    sources, targets = _bystem(source), _bystem(target)
    if sources.keys() != targets.keys():
        sources, targets = (
            _without_own_words(sources, targets),
            _without_own_words(targets, sources),
        )
    alone = [sources.get(key) or targets[key] for key in sources.keys() ^ targets.keys()]
    if not alone:
        return [
            MatchedFiles(stem(file), file, targets[key], "name") for key, file in sources.items()
        ]
    if sources.keys() & targets.keys():
        names = sorted(f"{file.parent.name}/{file.name}" for file in alone)
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        reason = f"{listed} without a partner by name in {target}, though others have one"
        raise PairError(source, reason, "Add the partners, or take these files away")
    if len(sources) != len(targets):
        reason = f"has {len(sources)} images, but {target} has {len(targets)}, and no names match"
        raise PairError(source, reason, "Give the two files of a pair the same name")
    return [
        MatchedFiles(stem(first), first, second, "order")
        for first, second in zip(sources.values(), targets.values(), strict=True)
    ]


def _without_own_words(files: dict[str, Path], others: dict[str, Path]) -> dict[str, Path]:
    """Drop from the names what all have and none of the others: the modality, as a rule.

    A single name does not show whether its number is the modality's or the field's: it is kept.
    """
    words = {stem: re.split(r"[\W_]+", stem) for stem in files}
    own = set.intersection(*map(set, words.values()))
    own -= {word for stem in others for word in re.split(r"[\W_]+", stem)}
    if len(files) == 1:
        own = {word for word in own if not re.search(r"\d", word)}
    shorter = {
        "_".join(word for word in words[stem] if word not in own): file
        for stem, file in files.items()
    }
    return shorter if len(shorter) == len(files) and "" not in shorter else files


def _bystem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in list_images(folder):
        twin = files.setdefault(stem(file), file)
        if twin is not file:
            reason = f"has {twin.name} and {file.name}, one name for two images"
            raise PairError(folder, reason, "Rename one of them")
    return files


def stem(file: Path) -> str:
    return re.sub(r"(\.ome)?\.\w+$", "", file.name, flags=re.IGNORECASE)


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "file"


def _require_different(files: MatchedFiles) -> None:
    try:
        same = filecmp.cmp(files.source, files.target, shallow=False)
    except OSError as error:
        reason = f"or {files.target} cannot be read ({error.strerror})"
        raise ImageError(files.source, reason, "Check the right to read them") from error
    if same:
        reason = f"is the same image as {files.target}"
        raise PairError(files.source, reason, "Give the same field through the other microscope")


def _plane(
    image: Image, path: Path, channel: str | None, given_nm: float | None, option: str
) -> Image:
    image = select_plane(image, channel=channel)
    require_finite(image)
    if image.pixels.min() == image.pixels.max():
        reason = f"all its pixels are {image.pixels.flat[0]}: there is nothing to see"
        raise ImageError(path, reason, "Take it out of the pairs")
    return image if given_nm is None else _resized(image, path, given_nm, option)


def _resized(image: Image, path: Path, given_nm: float, option: str) -> Image:
    if not (math.isfinite(given_nm) and given_nm > 0):
        reason = f"a pixel size of {given_nm:g} nm was given"
        raise ImageError(path, reason, f"Pass a length in nm by {option}")
    said = image.pixel_size_nm
    instead = "the file gives none" if said is None else f"the file says {said[0]:g} x {said[1]:g}"
    sentence = f"The pixel size of {given_nm:g} nm was given by the user ({instead})"
    return replace(image, pixel_size_nm=(given_nm, given_nm), assumed=(*image.assumed, sentence))
