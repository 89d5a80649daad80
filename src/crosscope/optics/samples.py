"""Seed -> emitters in nm: beads, filaments, actin, nuclei, clathrin pits.

Each sample fills the square from 0 to `extent_nm`.  `finest_nm` is the width of the sharpest point
spread function that will look at it: what has no natural scale (the number of beads, the grain of
the labelling) follows it, so that a sample shows the same kind of picture in a 15 um STED field and
in a 170 um wide-field one.  Biological sizes don't follow it.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.fft import irfft2, rfft2

_CELL_NM = 38_000.0  # from cell to cell in a confluent layer
_NUCLEUS_NM = 22_000.0  # between nuclei; three quarters of it at the least


@dataclass(frozen=True, eq=False)
class Emitters:
    """Points that give light.

    Attributes
    ----------
    yx_nm : (n, 2) float
        Positions.
    weight : (n,) float
        Relative brightness.
    objects_yx_nm : (m, 2) float
        Centres of the objects that can be counted (beads, pits); empty for the other samples.
    owner : (n,) int or None
        Which of the objects each point belongs to; None where nothing is counted.
    """

    yx_nm: Float[np.ndarray, "n 2"]
    weight: Float[np.ndarray, "n"]
    objects_yx_nm: Float[np.ndarray, "m 2"]
    owner: Int[np.ndarray, "n"] | None = None

    def shifted(self, by_nm: float) -> "Emitters":
        """Return the same emitters, moved by as much along y and x."""
        return replace(self, yx_nm=self.yx_nm + by_nm, objects_yx_nm=self.objects_yx_nm + by_nm)


def beads(rng: np.random.Generator, *, extent_nm: float, finest_nm: float) -> Emitters:
    """Beads of 20 nm, each a point (at a width of 110 nm its size adds 0.5 nm), a third in pairs.

    One for about 100 resolution areas (0.85 per um^2 at 110 nm); partners 0.73 to 3.6 widths apart
    (80 to 400 nm at 110 nm); brightness log-normal, sigma 0.3.
    """
    centres = _sites(rng, extent_nm, finest_nm, per_area=0.0086, paired=0.2, apart=(0.73, 3.64))
    brightness = rng.lognormal(0, 0.3, len(centres))
    return Emitters(centres, brightness, centres, owner=np.arange(len(centres)))


def filaments(rng: np.random.Generator, *, extent_nm: float, finest_nm: float) -> Emitters:
    """Microtubules: from each cell's centrosome outwards, persistent, 25 nm thick, label by label.

    Labels fall on them at random, eight for each resolution length.
    """
    cells = _spread_out(rng, extent_nm, _CELL_NM, beyond_nm=_CELL_NM)
    count = 110
    start = np.repeat(cells, count, axis=0) + rng.normal(0, 4000, (len(cells) * count, 2))
    curves = _walk(
        rng,
        start,
        heading=rng.uniform(0, 2 * np.pi, len(start)),
        length_nm=rng.uniform(6_000, 40_000, len(start)),
        persistence_nm=25_000.0,
    )
    labels = _label(rng, curves, extent_nm, spacing_nm=finest_nm / 8)
    # uniform over a thin cylinder's shell, seen from above
    labels += 12.5 * np.sin(rng.uniform(0, 2 * np.pi, labels.shape))
    return _uncounted(labels, np.ones(len(labels)))


def actin(rng: np.random.Generator, *, extent_nm: float, finest_nm: float) -> Emitters:
    """Actin: bundles of nearly straight parallel filaments, 40 to 400 nm thick, on a fine mesh."""
    cells = _spread_out(rng, extent_nm, _CELL_NM, beyond_nm=_CELL_NM)
    bundles = 26
    axis = np.repeat(rng.uniform(0, np.pi, len(cells)), bundles)
    across = np.stack([np.cos(axis), -np.sin(axis)], axis=1)
    along = np.stack([np.sin(axis), np.cos(axis)], axis=1)
    place = np.repeat(cells, bundles, axis=0)
    place = place + rng.uniform(-18_000, 18_000, len(axis))[:, None] * across
    place = place + rng.normal(0, 6_000, len(axis))[:, None] * along
    heading = axis + rng.normal(0, 0.06, len(axis))
    length = rng.uniform(8_000, 42_000, len(axis))
    place = place - 0.5 * length[:, None] * np.stack([np.sin(heading), np.cos(heading)], axis=1)

    filaments_of = rng.geometric(0.2, len(axis)).clip(2, 24)
    radius = np.repeat(14 * np.sqrt(filaments_of) * rng.uniform(1, 3, len(axis)), filaments_of)
    which = np.repeat(np.arange(len(axis)), filaments_of)
    offset = (radius * rng.uniform(-1, 1, len(which)))[:, None] * across[which]
    stagger = rng.uniform(-0.1, 0.15, len(which)) * length[which]
    bundle = _walk(
        rng,
        place[which] + offset + stagger[:, None] * along[which],
        heading=heading[which] + rng.normal(0, 0.004, len(which)),
        length_nm=length[which] * rng.uniform(0.6, 1, len(which)),
        persistence_nm=2_000_000.0,
    )
    # the mesh is finer than what a wide-field microscope resolves: there fewer strands do
    strands = round(0.5e-6 * extent_nm**2 * min(1.0, 150 / finest_nm))
    mesh = _walk(
        rng,
        rng.uniform(-2_000, extent_nm, (strands, 2)),
        heading=rng.uniform(0, 2 * np.pi, strands),
        length_nm=rng.exponential(2_500, strands).clip(300, 8_000),
        persistence_nm=8_000.0,
    )
    thick = _label(rng, bundle, extent_nm, spacing_nm=finest_nm / 4)
    thin = _label(rng, mesh, extent_nm, spacing_nm=finest_nm / 8)
    weight = np.concatenate([np.ones(len(thick)), np.full(len(thin), 0.5)])
    return _uncounted(np.concatenate([thick, thin]), weight)


def nuclei(rng: np.random.Generator, *, extent_nm: float, finest_nm: float) -> Emitters:
    """Nuclei: ellipses of 8 to 14 um with chromatin texture, a bright rim and dark nucleoli.

    Emitters lie three to a resolution length on a jittered lattice: the texture is chromatin, not
    chance in the labelling.  One lies near the middle, as one would choose a field to look at.
    """
    parts = []
    middle = extent_nm * rng.uniform(0.35, 0.65, (1, 2))
    others = _spread_out(rng, extent_nm, _NUCLEUS_NM, beyond_nm=8_000.0)
    apart = np.hypot(*(others - middle).T) > 0.75 * _NUCLEUS_NM
    for centre in np.concatenate([middle, others[apart]]):
        points, weight = _nucleus(rng, step_nm=finest_nm / 3)
        points = points + centre
        inside = np.all((points >= 0) & (points < extent_nm), axis=1)
        parts.append((points[inside], weight[inside]))
    return _uncounted(
        np.concatenate([points for points, _ in parts]),
        np.concatenate([weight for _, weight in parts]),
    )


def pits(rng: np.random.Generator, *, extent_nm: float, finest_nm: float) -> Emitters:
    """Clathrin-coated pits: caps of spheres seen from above, from discs to rings of 80 to 160 nm.

    Each carries about 60 labels, times a log-normal brightness (sigma 0.4); a third lie in pairs,
    1.35 to 3.4 resolution widths apart (120 to 300 nm in SIM).
    """
    centres = _sites(rng, extent_nm, finest_nm, per_area=0.006, paired=0.2, apart=(1.35, 3.4))
    brightness = rng.lognormal(0, 0.4, len(centres))
    labels = rng.poisson(60, len(centres))
    which = np.repeat(np.arange(len(centres)), labels)
    radius = rng.uniform(40, 80, len(centres))
    opening = rng.uniform(
        np.radians(50), np.radians(130), len(centres)
    )  # 90 degrees: half a sphere
    widest = np.sin(np.minimum(opening, np.pi / 2))
    # uniform on a cap: the cosine of the polar angle is uniform
    cosine = rng.uniform(np.cos(opening[which]), 1)
    distance = radius[which] / widest[which] * np.sqrt(1 - cosine**2)
    around = rng.uniform(0, 2 * np.pi, len(which))
    ring = distance[:, None] * np.stack([np.sin(around), np.cos(around)], axis=1)
    return Emitters(centres[which] + ring, brightness[which] / 60, centres, owner=which)


def _uncounted(yx_nm: Float[np.ndarray, "n 2"], weight: Float[np.ndarray, "n"]) -> Emitters:
    return Emitters(yx_nm, weight, np.zeros((0, 2)))


def _sites(
    rng: np.random.Generator,
    extent_nm: float,
    finest_nm: float,
    *,
    per_area: float,
    paired: float,
    apart: tuple[float, float],
) -> Float[np.ndarray, "n 2"]:
    """Scatter centres, `paired` of them with a partner: 2 paired / (1 + paired) lie in pairs."""
    count = rng.poisson(per_area * (extent_nm / finest_nm) ** 2)
    first = rng.uniform(0, extent_nm, (count, 2))
    having = first[rng.random(count) < paired]
    angle = rng.uniform(0, 2 * np.pi, len(having))
    distance = finest_nm * rng.uniform(*apart, len(having))
    partner = having + distance[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return np.concatenate([first, partner])


def _spread_out(
    rng: np.random.Generator, extent_nm: float, spacing_nm: float, *, beyond_nm: float
) -> Float[np.ndarray, "n 2"]:
    """Throw points until no more fit, none nearer to another than three quarters of the spacing."""
    side = extent_nm + 2 * beyond_nm
    kept: list[Float[np.ndarray, "yx"]] = []
    for point in rng.uniform(
        -beyond_nm, extent_nm + beyond_nm, (10 + round(12 * (side / spacing_nm) ** 2), 2)
    ):
        if all(np.hypot(*(point - other)) > 0.75 * spacing_nm for other in kept):
            kept.append(point)
    return np.array(kept)


def _walk(
    rng: np.random.Generator,
    start_yx_nm: Float[np.ndarray, "n 2"],
    *,
    heading: Float[np.ndarray, "n"],
    length_nm: Float[np.ndarray, "n"],
    persistence_nm: float,
    step_nm: float = 250.0,
) -> list[Float[np.ndarray, "_ 2"]]:
    """Curves whose direction forgets itself over `persistence_nm` (worm-like chains)."""
    curves = []
    for origin, angle, length in zip(start_yx_nm, heading, length_nm, strict=True):
        steps = max(1, round(length / step_nm))
        turn = np.cumsum(rng.normal(0, np.sqrt(step_nm / persistence_nm), steps))
        move = step_nm * np.stack([np.sin(angle + turn), np.cos(angle + turn)], axis=1)
        curves.append(np.concatenate([origin[None], origin + np.cumsum(move, axis=0)]))
    return curves


def _label(
    rng: np.random.Generator,
    curves: list[Float[np.ndarray, "_ 2"]],
    extent_nm: float,
    *,
    spacing_nm: float,
) -> Float[np.ndarray, "n 2"]:
    """Drop labels on the curves at random, on average `spacing_nm` apart; none outside."""
    start = np.concatenate([curve[:-1] for curve in curves] or [np.zeros((0, 2))])
    move = np.concatenate([np.diff(curve, axis=0) for curve in curves] or [np.zeros((0, 2))])
    inside = np.all((start >= 0) & (start < extent_nm), axis=1)
    start, move = start[inside], move[inside]
    labels = rng.poisson(np.hypot(*move.T) / spacing_nm)
    which = np.repeat(np.arange(len(start)), labels)
    return start[which] + rng.random((len(which), 1)) * move[which]


def _nucleus(
    rng: np.random.Generator, *, step_nm: float
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"]]:
    long, short = np.sort(rng.uniform(4_000, 7_000, 2))[::-1]
    short = max(short, 0.65 * long)
    ticks = np.arange(-long * 1.1, long * 1.1, step_nm)
    lattice = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
    y, x = lattice[..., 0] / short, lattice[..., 1] / long
    outline = 1 + 0.04 * np.cos(2 * np.arctan2(y, x) + 1) + 0.03 * np.cos(3 * np.arctan2(y, x))
    depth = (1 - np.hypot(y, x) / outline) * short  # nm below the envelope

    chromatin = np.exp(0.45 * _texture(rng, len(ticks), step_nm))
    rim = 1 + 0.5 * np.exp(-depth / 250)
    density = chromatin * rim * np.sqrt(np.clip(depth / 1500, 0, 1))  # thinner towards its edge
    for _ in range(rng.integers(2, 5)):
        at = rng.uniform(-0.45, 0.45, 2) * np.array([short, long])
        size = rng.uniform(500, 1200) * rng.uniform(0.8, 1.2, 2)
        away = np.hypot(*np.moveaxis((lattice - at) / size, -1, 0))
        density *= 1 - 0.8 / (1 + np.exp((away - 1) / 0.08))
    inside = depth > 0
    points = (lattice + rng.uniform(-0.5, 0.5, lattice.shape) * step_nm)[inside]
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T, rng.lognormal(0, 0.15) * density[inside]


def _texture(rng: np.random.Generator, size: int, step_nm: float) -> Float[np.ndarray, "y x"]:
    """A random field of variance 1 with detail on all scales between 100 nm and 1 um."""
    k = np.hypot(np.fft.fftfreq(size, step_nm)[:, None], np.fft.rfftfreq(size, step_nm))
    power = (1 + (k * 2 * np.pi * 700) ** 2) ** -0.75 * np.exp(-((k * 100) ** 2))
    field = irfft2(rfft2(rng.normal(size=(size, size))) * power, s=(size, size))
    return (field - field.mean()) / field.std()
