"""Registered pairs -> patches: which fields to learn from, where to cut, one intensity scale.

Fields are split before patches are cut, so that no pixel is both learnt and validated on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Num
from scipy import ndimage

from crosscope.data.background import Background, measure_background
from crosscope.data.errors import PairError
from crosscope.data.files import require_space, writing_folder
from crosscope.data.registered import RegisteredPair, take_part

DOUBTFUL_SHARE = 0.73
"""Of a pair's limit: where this RMS error is to be expected, one in ten is above the limit."""
SIGNAL_BLUR_PX = 1.0
SIGNAL_NOISES = 6.0
"""A pixel has signal where it rises above the background by so many noises ..."""
SIGNAL_SHARE = 0.05
"""... and by this share of what the brightest structure of a typical field rises."""


# --- split ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """Pairs to learn from, pairs to validate on, and a sentence on how they were parted."""

    training: list[RegisteredPair]
    validation: list[RegisteredPair]
    how: str


def split_fields(
    pairs: Sequence[RegisteredPair],
    *,
    validation_share: float,
    guard_px: int,
    least_px: int,
    seed: int,
    training_fields: int | None = None,
) -> Split:
    """Part the pairs by field of view; a single field is cut in two.

    Parameters
    ----------
    pairs : sequence of RegisteredPair
        Pairs of one raw source file (equal hashes) stay together.
    validation_share : float
        Of the fields, or of the single field's length; 0 to 1. At least one field each.
    guard_px : int
        Width of the band between the two parts of a single field, in neither of them: at least
        what the network sees around a pixel.
    least_px : int
        Length of either part of a single field: that of a patch.
    seed : int
        Chooses the fields.
    training_fields : int, optional
        Keep so many of the training fields; less are a part of more. A single field stays whole.

    Returns
    -------
    Split

    Raises
    ------
    PairError
        There is no pair, or the single field has no room for two such parts and the band.
    """
    fields: dict[str | int, list[RegisteredPair]] = {}
    for i, pair in enumerate(pairs):
        fields.setdefault(pair.source_sha256 or i, []).append(pair)
    if not fields:
        raise PairError("the pairs", "there is none to learn from", "Register at least one pair")
    if len(fields) == 1:
        return _split_one_field(pairs, validation_share, guard_px, least_px)
    count = min(max(round(validation_share * len(fields)), 1), len(fields) - 1)
    order = np.random.default_rng(seed).permutation(len(fields))
    chosen, kept = set(order[:count].tolist()), set(order[count:][:training_fields].tolist())
    groups = list(fields.values())
    return Split(
        [pair for i, group in enumerate(groups) if i in kept for pair in group],
        [pair for i, group in enumerate(groups) if i in chosen for pair in group],
        f"{len(kept)} fields for training and {count} for validation",
    )


def _split_one_field(
    pairs: Sequence[RegisteredPair], validation_share: float, guard_px: int, least_px: int
) -> Split:
    # all pairs of one raw file are cut at the same place of the raw target
    tops, lefts = zip(*(pair.origin_yx_px for pair in pairs), strict=True)
    shapes = [pair.target.pixels.shape for pair in pairs]
    start = max(tops), max(lefts)
    stop = tuple(
        min(pair.origin_yx_px[i] + shape[i] for pair, shape in zip(pairs, shapes, strict=True))
        for i in (0, 1)
    )
    axis = 0 if stop[0] - start[0] > stop[1] - start[1] else 1
    length_px = stop[axis] - start[axis]
    if length_px < 2 * least_px + guard_px:
        reason = f"the only field is {length_px} px long, too short to cut off a validation part"
        remedy = f"Give two fields or one of at least {2 * least_px + guard_px} px"
        raise PairError(pairs[0].name, reason, remedy)
    validation_px = round(validation_share * (length_px - guard_px))
    validation_px = min(max(validation_px, least_px), length_px - guard_px - least_px)
    cut = stop[axis] - validation_px

    def part(pair: RegisteredPair, first: int, last: int) -> RegisteredPair:
        origin = pair.origin_yx_px[axis]
        return take_part(pair, axis=axis, start=first - origin, stop=last - origin)

    return Split(
        [part(pair, start[axis], cut - guard_px) for pair in pairs],
        [part(pair, cut, stop[axis]) for pair in pairs],
        f"one field: its last {validation_px} {('rows', 'columns')[axis]} are for validation, "
        f"{guard_px} before them for neither",
    )


# --- signal ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Signal:
    """What one image shows.

    Attributes
    ----------
    background : Background
    rise : (y, x)
        How far the image, without hot pixels and lightly blurred, rises above its level.
    bright : (y, x) bool
        Where that is more than background and noise.
    """

    background: Background
    rise: Float[np.ndarray, "y x"]
    bright: Bool[np.ndarray, "y x"]


def find_signal(images: Sequence[Num[np.ndarray, "_y _x"]]) -> Iterator[Signal]:
    """Yield what images of one modality show, one after the other: one is in memory at a time."""
    backgrounds = [measure_background(image) for image in images]
    each = list(zip(images, backgrounds, strict=True))
    peaks = [_rise(image, background).max() for image, background in each]
    least = SIGNAL_SHARE * float(np.median(peaks))
    blurred_noise = SIGNAL_NOISES / (2 * math.sqrt(math.pi) * SIGNAL_BLUR_PX)
    for image, background in each:
        rise = _rise(image, background)
        yield Signal(background, rise, rise > max(blurred_noise * background.noise, least))


def _rise(image: Num[np.ndarray, "y x"], background: Background) -> Float[np.ndarray, "y x"]:
    blurred = ndimage.gaussian_filter(
        ndimage.median_filter(image.astype(np.float64), size=3), SIGNAL_BLUR_PX
    )
    return np.asarray(blurred - background.level)


# --- intensity ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaling:
    """One intensity scale: scaled = (grey value - offset) / scale.

    Attributes
    ----------
    offset : float
        The grey level of the background.
    scale : float
        Grey values from the background to a bright structure; above 0.
    """

    offset: float
    scale: float

    def apply(self, pixels: Num[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
        """Return scaled values: background about 0, bright structures about 1; nothing clipped."""
        scaled = pixels.astype(np.float32)  # in place from here: planes are large
        scaled -= np.float32(self.offset)
        scaled /= np.float32(self.scale)
        return scaled

    def undo(self, scaled: Float[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
        """Return grey values."""
        pixels = scaled.astype(np.float32) * np.float32(self.scale)
        pixels += np.float32(self.offset)
        return pixels


AS_IT_IS = Scaling(0.0, 1.0)


def measure_scaling(images: Sequence[Num[np.ndarray, "_y _x"]]) -> Scaling:
    """Measure the one scale of all images of a modality.

    The offset is the median of the fields' background levels. The scale is the 99th percentile of
    how far their pixels with signal, hot pixels removed, rise above it: however sparse they are.
    Without any signal it is the noise.

    Parameters
    ----------
    images : sequence of (y, x)
        All training fields of the source, or of the target; grey values. At least one.

    Returns
    -------
    Scaling
    """
    backgrounds, heights = [], []
    for signal in find_signal(images):
        backgrounds.append(signal.background)
        heights.append(signal.rise[signal.bright])
    high = np.concatenate(heights)
    noise = float(np.median([background.noise for background in backgrounds]))
    scale = float(np.percentile(high, 99)) if high.size else noise
    offset = float(np.median([background.level for background in backgrounds]))
    return Scaling(offset, scale if scale > 0 else 1.0)


# --- patches --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Patches:
    """Squares cut at the same places of source and target.

    Attributes
    ----------
    source, target : (n, y, x) float32
        Grey values, or scaled ones.
    field : (n,) int
        Which of the pairs each was cut from.
    has_signal : (n,) bool
        False where the target is nearly empty.
    doubtful : int
        How many were left out because source and target are not surely aligned there.
    """

    source: Float32[np.ndarray, "n y x"]
    target: Float32[np.ndarray, "n y x"]
    field: Int[np.ndarray, " n"]
    has_signal: Bool[np.ndarray, " n"]
    doubtful: int = 0


def cut_patches(
    pairs: Sequence[RegisteredPair],
    *,
    patch_px: int,
    background_share: float,
    seed: int,
    scalings: tuple[Scaling, Scaling] = (AS_IT_IS, AS_IT_IS),
    most: int | None = None,
    folder: Path | None = None,
) -> Patches:
    """Cut overlapping patches; most of those that are nearly empty or not aligned are left out.

    Parameters
    ----------
    pairs : sequence of RegisteredPair
    patch_px : int
        Side of a patch. Neighbours overlap by half, from an origin that is drawn for each field.
    background_share : float
        The greatest share of nearly empty patches in the result, 0 to below 1: some are needed,
        or the network never learns what nothing looks like.
    seed : int
        Draws the origins, which of the nearly empty patches stay, and their order.
    scalings : (Scaling, Scaling)
        Of source and target. Default: the grey values stay as they are.
    most : int, optional
        Cut so many of them only.
    folder : Path, optional
        Write them to this new folder, source.npy and target.npy, and map these into memory: then
        what is held in memory doesn't grow with their number.

    Returns
    -------
    Patches
        In random order.

    Raises
    ------
    PairError
        A field is smaller than a patch, or no patch has signal.
    OutputError
        The folder cannot be written.

    Notes
    -----
    A patch has signal where its target rises above the background by 6 times its noise, and by
    5 % of what the brightest structure of the median field rises. Single hot pixels, which a
    median of 3 x 3 removes, are no structure. A patch is left out where the registration's map of
    residuals expects an RMS error of 73 % of the pair's limit or more.
    """
    random = np.random.default_rng(seed)
    places: list[Place] = []
    has_signal, doubtful = [], 0
    signals = find_signal([pair.target.pixels for pair in pairs])
    for i, (pair, signal) in enumerate(zip(pairs, signals, strict=True)):
        rows, columns = (_origins(n, patch_px, random, pair.name) for n in signal.bright.shape)
        for y in rows:
            for x in columns:
                square = slice(y, y + patch_px), slice(x, x + patch_px)
                if is_doubtful(pair, *square):
                    doubtful += 1
                    continue
                places.append((i, *square))
                has_signal.append(bool(signal.bright[square].any()))
    if not any(has_signal):
        reason = f"none of {len(has_signal)} patches shows more than background and noise"
        if doubtful:
            reason += f", {doubtful} more are not surely aligned"
        where = pairs[0].name if len(pairs) == 1 else f"the {len(pairs)} pairs"
        raise PairError(where, reason, "Give fields that hold structure")
    full = np.flatnonzero(has_signal)
    empty = random.permutation(np.flatnonzero(~np.array(has_signal)))
    most_empty = math.floor(full.size * background_share / (1 - background_share) + 1e-9)
    kept = np.sort(np.concatenate([full, empty[:most_empty]]))
    kept = kept[np.random.default_rng(seed).permutation(kept.size)[:most]]
    images = [pair.source.pixels for pair in pairs], [pair.target.pixels for pair in pairs]
    source, target = _cut(images, [places[k] for k in kept], patch_px, scalings, folder)
    return Patches(
        source,
        target,
        np.array([places[k][0] for k in kept]),
        np.array(has_signal)[kept],
        doubtful,
    )


Place = tuple[int, slice, slice]
"""Which field, and where in it."""


def _cut(
    images: tuple[Sequence[Num[np.ndarray, "_y _x"]], Sequence[Num[np.ndarray, "_y _x"]]],
    places: Sequence[Place],
    patch_px: int,
    scalings: tuple[Scaling, Scaling],
    folder: Path | None,
) -> tuple[Float32[np.ndarray, "n y x"], Float32[np.ndarray, "n y x"]]:
    """Fill two arrays with what is there in source and target, in memory or on the disk."""
    shape = (len(places), patch_px, patch_px)

    def fill(stacks: Sequence[Float32[np.ndarray, "n y x"]]) -> None:
        for stack, fields, scaling in zip(stacks, images, scalings, strict=True):
            for k, (i, y, x) in enumerate(places):
                stack[k] = scaling.apply(fields[i][y, x].astype(np.float32))

    if folder is None:
        source, target = np.empty(shape, np.float32), np.empty(shape, np.float32)
        fill((source, target))
        return source, target
    with writing_folder(folder, overwrite=True) as part:
        # a full disk kills who writes to a map
        require_space(folder, 2 * 4 * math.prod(shape))
        float32 = np.dtype(np.float32)
        fill([np.lib.format.open_memmap(part / name, "w+", float32, shape) for name in STACKS])
    return open_patches(folder)


STACKS = ("source.npy", "target.npy")


def open_patches(
    folder: Path,
) -> tuple[Float32[np.ndarray, "n y x"], Float32[np.ndarray, "n y x"]]:
    """Map the patches, source and target, that `cut_patches` wrote into memory.

    What is changed in these arrays stays in memory and never reaches the files.
    """
    source, target = (np.load(folder / name, mmap_mode="c", allow_pickle=False) for name in STACKS)
    return source, target


def is_doubtful(pair: RegisteredPair, y: slice, x: slice) -> bool:
    """Tell whether a part of a pair may well be off by more than its limit.

    A pair that the user kept in spite of its residual is kept whole.
    """
    if pair.residual_map is None or pair.limit_px is None or pair.reason is not None:
        return False
    return pair.residual_map.at(y, x) > DOUBTFUL_SHARE * pair.limit_px


def _origins(length_px: int, patch_px: int, random: np.random.Generator, name: str) -> list[int]:
    """Return where patches begin along one axis: half a patch apart, the first one drawn."""
    room = length_px - patch_px
    if room < 0:
        reason = f"the field is {length_px} px wide or high, less than a patch of {patch_px} px"
        raise PairError(name, reason, "Give larger fields or choose smaller patches")
    step = max(patch_px // 2, 1)
    first = int(random.integers(min(step, room + 1)))
    return list(range(first, room + 1, step))
