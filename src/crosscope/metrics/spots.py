"""Image + reference -> spots missed, invented, split, merged; from where pairs are told apart.

A spot is a local maximum of the negative Laplacian of a Gaussian (LoG), a band-pass that is blind
to a background and its gradient, scaled to answer 1 to a Gaussian of height 1 and the width asked:

    R = -(s^2 + t^2)^2 / (2 s^2) Laplace(G_t * I),   s = FWHM / 2.355,   t = 0.7 s

A larger t passes less noise, a smaller one keeps closer pairs apart. At 0.7 equal spots 0.93 FWHM
apart are still two, and of spots of 30 photons (FWHM 3.7 px) 1 % are invented.

T. Lindeberg, "Feature detection with automatic scale selection", International Journal of Computer
Vision 30, 79 (1998), doi 10.1023/A:1008045108935.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter, laplace, map_coordinates, maximum_filter
from scipy.spatial import KDTree

from crosscope.deconvolution import FWHM_PER_SIGMA


@dataclass(frozen=True, eq=False)
class Spots:
    """Spots of one image, the brightest first.

    Attributes
    ----------
    yx_px : (n, 2)
    amplitude : (n,)
        Height above the local background, were the spot of the width asked for; a wider one reads
        lower. Taken at the nearest pixel: up to 13 % low at 3.7 px FWHM.
    """

    yx_px: Float[np.ndarray, "n 2"]
    amplitude: Float[np.ndarray, "n"]


@dataclass(frozen=True, eq=False)
class SpotComparison:
    """The spots of an image beside those of its reference, down to half the threshold.

    Attributes
    ----------
    found, reference : Spots
        Amplitudes as multiples of the image's own typical spot.
    partner : (n_found,)
        Which reference spot each found spot was matched to; -1 for none.
    threshold : float
        Above it a spot counts.
    fwhm_px : float
        Of a spot in the reference.
    """

    found: Spots
    reference: Spots
    partner: Int[np.ndarray, "n"]
    threshold: float
    fwhm_px: float


@dataclass(frozen=True)
class SpotScore:
    """How well spots agree with their reference's.

    Attributes
    ----------
    f1 : float or None
        2 (1 - missed) (1 - invented) / (2 - missed - invented); 0 where nothing was found, None
        where the reference has no spots.
    missed : float or None
        Share of the reference's spots that have no match; None where it has no spots.
    invented : float or None
        Share of the found spots that have no match; None where none was found.
    n_found, n_reference : int
    split : float or None
        Share of the reference's spots that were found as two or more; None where it has no spots.
    merged : float or None
        Share of the found spots that stand for two or more of the reference; None where none was
        found.
    """

    f1: float | None
    missed: float | None
    invented: float | None
    n_found: int
    n_reference: int
    split: float | None
    merged: float | None


@dataclass(frozen=True, eq=False)
class ResolvedSeparation:
    """From which separation on close pairs are seen as two.

    Attributes
    ----------
    separation_px : float or None
    reason : str or None
        Why there is no separation.
    edges_px : (n + 1,)
        Bins of separation.
    share : (n,)
        Of the pairs in each bin, those seen as two; NaN in an empty bin.
    n_pairs : (n,)
    """

    separation_px: float | None
    reason: str | None
    edges_px: Float[np.ndarray, "edges"]
    share: Float[np.ndarray, "n"]
    n_pairs: Int[np.ndarray, "n"]


def find_spots(image: Float[np.ndarray, "y x"], *, fwhm_px: float, threshold: float) -> Spots:
    """Find the spots about `fwhm_px` wide and more than `threshold` above their local background.

    Parameters
    ----------
    image : (y, x)
        Any grey values.
    fwhm_px : float
        Full width at half maximum of the spots looked for; at least 2 px.
    threshold : grey values above the local background, at least 0

    Returns
    -------
    Spots
        Positions by a parabola through the maximum and its neighbours. Of maxima nearer to each
        other than half of `fwhm_px` the brightest stays.
    """
    return _maxima(_response(image, fwhm_px), fwhm_px, threshold)


def isolated(yx_px: Float[np.ndarray, "n 2"], *, distance_px: float) -> Bool[np.ndarray, "n"]:
    """Return which positions have no other one within `distance_px`."""
    alone = np.ones(len(yx_px), dtype=bool)
    alone[KDTree(yx_px).query_pairs(distance_px, output_type="ndarray").ravel()] = False
    return alone


def match_spots(
    found_yx_px: Float[np.ndarray, "n 2"],
    reference_yx_px: Float[np.ndarray, "m 2"],
    *,
    radius_px: float,
) -> Int[np.ndarray, "n"]:
    """Match positions one to one within a radius, the nearest first.

    Returns
    -------
    (n,) int
        For each found position the index of its partner in the reference, -1 where it has none.
    """
    partner = np.full(len(found_yx_px), -1)
    taken = np.zeros(len(reference_yx_px), dtype=bool)
    near = KDTree(found_yx_px).sparse_distance_matrix(
        KDTree(reference_yx_px), radius_px, output_type="ndarray"
    )
    for i, j, _ in near[np.argsort(near["v"], kind="stable")]:
        if partner[i] < 0 and not taken[j]:
            partner[i], taken[j] = j, True
    return partner


def compare_spots(
    image: Float[np.ndarray, "y x"],
    reference: Float[np.ndarray, "y x"],
    *,
    fwhm_px: float,
    threshold: float = 0.25,
) -> SpotComparison:
    """Find the spots of an image and of its reference by one rule, and match them.

    The reference's spots are those above `threshold` times their own median height. What the two
    images show at these places sets the unit of each: the median there is the image's typical
    spot. So neither a scale nor an offset nor an even loss of contrast changes the result, and no
    intensity fit is needed: a least-squares gain shrinks with blur, and under it nothing would be
    found in an image at lower resolution.

    Parameters
    ----------
    image, reference : (y, x)
        On one grid, each in its own grey values.
    fwhm_px : float
        Of a spot in the reference. Spots are matched within half of it.
    threshold : share of the typical spot
        Spots down to half of it are kept for matching, see `score_spots`.

    Notes
    -----
    Needs spots to be the brightest small things of the reference, at least three; two brighter
    specks do no harm. An image that shows nothing where the reference has spots has no spots.
    """
    image_response, response = _response(image, fwhm_px), _response(reference, fwhm_px)
    places = _typical_spots(_maxima(response, fwhm_px, 0.0), threshold).yx_px
    found = _relative_spots(image_response, places, fwhm_px, threshold / 2)
    real = _relative_spots(response, places, fwhm_px, threshold / 2)
    partner = match_spots(found.yx_px, real.yx_px, radius_px=fwhm_px / 2)
    return SpotComparison(found, real, partner, threshold, fwhm_px)


def score_spots(comparisons: Sequence[SpotComparison]) -> SpotScore:
    """Count what was missed, invented, split and merged, over one or several fields.

    A reference spot above the threshold T is missed if nothing above T / 2 was found there; a found
    spot above T is invented if the reference has nothing above T / 2 there. So a spot just at the
    threshold is not counted for being 1 % dimmer in one of the two.

    Two spots u, v of one image, both above T, are one in the other if

        |u - v| < 1.5 FWHM   and   #{w > T / 2 : distance(w, segment uv) <= FWHM / 2} = 1,

    w being the other image's spots. A reference spot w > T is split if two found spots are one in
    it; a found spot w > T is merged if two reference spots are one in it. The rule is the same in
    both directions: image and reference exchanged, split and merged change places.

    Notes
    -----
    Split and merged say how: as a rule one spot of the two is also invented, or missed. A pair of
    which one was found in its place and the other not at all reads as merged, as a bright spot
    draws the common maximum to itself. Spots nearer to each other than 0.93 FWHM are one in the
    reference already. Beads at one per square micrometre, a third of them in pairs, against their
    truth: 0.1 % split and 0.1 % merged by the noise of 500 photons, 0.5 % and 0.6 % by that of 30.
    """
    wanted, hit, found, real, split, merged = 0, 0, 0, 0, 0, 0
    for each in comparisons:
        split += _count_standing_for_two(each.reference, each.found, each)
        merged += _count_standing_for_two(each.found, each.reference, each)
        matched = each.partner >= 0
        counts = each.found.amplitude > each.threshold
        found, real = found + int(counts.sum()), real + int((counts & matched).sum())
        is_hit = np.isin(np.arange(len(each.reference.amplitude)), each.partner)
        counts = each.reference.amplitude > each.threshold
        wanted, hit = wanted + int(counts.sum()), hit + int((counts & is_hit).sum())
    recall = hit / wanted if wanted else None
    precision = real / found if found else None
    f1: float | None = None
    if recall is not None:
        f1 = 2 * recall * precision / (recall + precision) if recall and precision else 0.0
    return SpotScore(
        f1=f1,
        missed=None if recall is None else 1 - recall,
        invented=None if precision is None else 1 - precision,
        n_found=found,
        n_reference=wanted,
        split=split / wanted if wanted else None,
        merged=merged / found if found else None,
    )


def close_pairs(spots: Spots, *, threshold: float, alone_px: float) -> Int[np.ndarray, "n 2"]:
    """Return the pairs of spots that are alone with each other.

    A pair is two spots above the threshold, each the other's nearest neighbour, with no third, be
    it below the threshold, within `alone_px` of either.

    Parameters
    ----------
    spots : Spots
    threshold : float
        In the units of the spots' amplitudes.
    alone_px : float

    Returns
    -------
    (n, 2) int
        Indices of the two spots, the brighter first. The two may be further apart than `alone_px`.
    """
    if len(spots.amplitude) < 2:
        return np.zeros((0, 2), dtype=int)
    distance_px, neighbour = KDTree(spots.yx_px).query(spots.yx_px, k=3)  # itself, first, second
    index, first = np.arange(len(neighbour)), neighbour[:, 1]
    counts = (spots.amplitude > threshold) & (distance_px[:, 2] > alone_px)
    is_pair = (first[first] == index) & (index < first) & counts & counts[first]
    return np.stack([index, first], axis=1)[is_pair]


def resolved_separation(
    comparisons: Sequence[SpotComparison],
    *,
    alone_px: float,
    bin_px: float,
    share: float = 0.75,
    at_least: int = 5,
) -> ResolvedSeparation:
    """Return the separation from which on close pairs of the reference are seen as two.

    A pair is two reference spots above the threshold, each the other's nearest neighbour, with no
    third within `alone_px` of either. It is seen as two if both have a partner.

    Parameters
    ----------
    comparisons : one for each field
        Pairs are pooled.
    alone_px : float
        Also the largest separation looked at.
    bin_px : float
        Width of the bins of separation.
    share : 0 to 1
        Of the pairs in a bin that have to be seen as two.
    at_least : int
        Pairs that a bin needs to be counted.

    Returns
    -------
    ResolvedSeparation
        The lower edge of the first bin from which on all counted bins reach the share. Pairs that
        the reference merges are no pairs: its own resolution is the least that can come out.
    """
    pairs = [_close_pairs(each, alone_px) for each in comparisons]
    separation_px = np.concatenate([np.zeros(0), *(pair[0] for pair in pairs)])
    both = np.concatenate([np.zeros(0, dtype=bool), *(pair[1] for pair in pairs)])
    edges_px = bin_px * np.arange(int(alone_px / bin_px + 1e-9) + 1)
    n_pairs = np.histogram(separation_px, edges_px)[0]
    n_seen = np.histogram(separation_px[both], edges_px)[0]
    seen = np.where(n_pairs > 0, n_seen / np.maximum(n_pairs, 1), np.nan)
    counted = np.flatnonzero(n_pairs >= at_least)
    failed = np.flatnonzero(seen[counted] < share)
    first = failed[-1] + 1 if failed.size else 0
    reason = None
    if not counted.size:
        reason = f"no bin of separation holds {at_least} pairs"
    elif first == counted.size:
        reason = f"pairs are not resolved at {edges_px[counted[-1] + 1]:.3g} px"
    lowest_px = None if reason else float(edges_px[counted[first]])
    return ResolvedSeparation(lowest_px, reason, edges_px, seen, n_pairs)


def _response(image: Float[np.ndarray, "y x"], fwhm_px: float) -> Float[np.ndarray, "y x"]:
    s = fwhm_px / FWHM_PER_SIGMA
    t = 0.7 * s
    # Differences of neighbours, and not a sampled second derivative, whose weights do not add up to
    # zero: a camera's offset would show through.  At the centre of a Gaussian of variance v the
    # four differences add up to 4 (1 - exp(-1 / 2v)).
    variance = s**2 + t**2
    unit = variance / s**2 / (4 * (1 - np.exp(-1 / (2 * variance))))
    response: Float[np.ndarray, "y x"] = -unit * laplace(
        gaussian_filter(image.astype(np.float64), t)
    )
    return response


def _maxima(response: Float[np.ndarray, "y x"], fwhm_px: float, threshold: float) -> Spots:
    peak = (response == maximum_filter(response, 3)) & (response > threshold)
    y, x = np.nonzero(peak)
    order = np.argsort(-response[y, x], kind="stable")
    y, x = y[order], x[order]
    height = response[y, x]
    padded = np.pad(response, 1, mode="edge")
    yx_px = np.stack(
        [
            y + _vertex(padded[y, x + 1], height, padded[y + 2, x + 1]),
            x + _vertex(padded[y + 1, x], height, padded[y + 1, x + 2]),
        ],
        axis=1,
    )
    # A spot midway between pixels has two equal maxima: they are one.
    close = KDTree(yx_px).query_pairs(fwhm_px / 2, output_type="ndarray")
    keep = np.ones(len(yx_px), dtype=bool)
    keep[close.max(axis=1)] = False
    return Spots(yx_px[keep], height[keep])


def _vertex(
    before: Float[np.ndarray, "n"], at: Float[np.ndarray, "n"], after: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Return where, -0.5 to 0.5, the parabola through values at -1, 0, 1 has its maximum."""
    curvature = np.maximum(2 * at - before - after, 1e-12 * np.abs(at))
    vertex: Float[np.ndarray, "n"] = np.clip((after - before) / (2 * curvature), -0.5, 0.5)
    return vertex


def _typical_spots(spots: Spots, threshold: float) -> Spots:
    """Return the spots above `threshold` times their own median, leaving out noise and side lobes.

    The cut comes down from the third brightest, so that it stops above the noise.
    """
    n, typical, lower = 0, np.inf, spots.amplitude[:3].min(initial=np.inf)
    while lower < typical:
        typical = lower
        n = int((spots.amplitude > threshold * typical).sum())
        lower = np.median(spots.amplitude[:n])
    return Spots(spots.yx_px[:n], spots.amplitude[:n])


def _relative_spots(
    response: Float[np.ndarray, "y x"],
    places_yx_px: Float[np.ndarray, "n 2"],
    fwhm_px: float,
    threshold: float,
) -> Spots:
    """Return the spots above `threshold`, in units of the median response at the places."""
    unit = 0.0
    if len(places_yx_px):
        unit = float(np.median(map_coordinates(response, places_yx_px.T, order=1, mode="nearest")))
    if not unit > 0:
        return Spots(np.zeros((0, 2)), np.zeros(0))
    return _maxima(response / unit, fwhm_px, threshold)


def _close_pairs(
    comparison: SpotComparison, alone_px: float
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Return the separation of each close pair and whether both spots were found."""
    spots = comparison.reference
    pairs = close_pairs(spots, threshold=comparison.threshold, alone_px=alone_px)
    distance_px = np.linalg.norm(spots.yx_px[pairs[:, 0]] - spots.yx_px[pairs[:, 1]], axis=1)
    is_found = np.isin(pairs, comparison.partner)
    return distance_px, is_found[:, 0] & is_found[:, 1]


def _count_standing_for_two(ones: Spots, twos: Spots, comparison: SpotComparison) -> int:
    """Count the spots of one image, above the threshold, where the other image has two."""
    fwhm_px, threshold = comparison.fwhm_px, comparison.threshold
    yx_px = twos.yx_px[twos.amplitude > threshold]
    if not len(ones.yx_px) or not len(yx_px):
        return 0
    pairs = KDTree(yx_px).query_pairs(1.5 * fwhm_px, output_type="ndarray")
    start, end = yx_px[pairs[:, 0]], yx_px[pairs[:, 1]]
    # whoever is within FWHM / 2 of a segment is within 1.25 FWHM of its middle
    near = KDTree((start + end) / 2).sparse_distance_matrix(
        KDTree(ones.yx_px), 1.25 * fwhm_px, output_type="ndarray"
    )
    pair, one = near["i"], near["j"]
    along, to_one = (end - start)[pair], ones.yx_px[one] - start[pair]
    share = np.clip((along * to_one).sum(axis=1) / (along**2).sum(axis=1), 0, 1)
    beside = np.linalg.norm(to_one - share[:, None] * along, axis=1) <= fwhm_px / 2
    pair, one = pair[beside], one[beside]
    single = np.bincount(pair, minlength=len(pairs))[pair] == 1
    return int((ones.amplitude[np.unique(one[single])] > threshold).sum())
