"""Model + its training pairs -> the model with its certificate: what it can be trusted with."""

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from crosscope.data.errors import PairError
from crosscope.data.grids import resample
from crosscope.data.images import Image
from crosscope.data.registered import RegisteredPair
from crosscope.model.engine import Engine
from crosscope.model.model import Model
from crosscope.prediction.tiling import sharpen
from crosscope.quality.claim import measure_claim
from crosscope.quality.disagreement import learn_usual
from crosscope.quality.domain import learn_domain, place_crops, spread_evenly
from crosscope.quality.features import STILL, Phase, measure_smoothed_noise, wrap
from crosscope.quality.inspection import read_usual
from crosscope.quality.quantities import measure_quantities
from crosscope.quality.reblur import LIMIT, add_up, learn_forward, make_reblurrer

ENGINE = Engine(1, "float32")
_WIDER = 1.2  # what a blur is looked for by
_PHASES = 16  # crops of all fields tell how the others were moved
_LEAST_PHASE = 0.02  # of a source pixel: nothing was moved
_MOST_DRIFT = 1.0  # source pixels: then a crop has been through all phases


def certify(
    model: Model,
    pairs: Sequence[RegisteredPair],
    *,
    served: Sequence[Image] = (),
    claims: bool = True,
    watch: Callable[[float], None] = lambda done: None,
) -> Model:
    """Measure what quality control needs to know, on the pairs that a model was trained with.

    Parameters
    ----------
    model : Model
    pairs : sequence of RegisteredPair
        The pairs that it was trained on, those for validation too; at least one.
    served : sequence of Image
        Raw images of the source that differ from the pairs', and that the model is known to serve,
        for its outputs were compared with a target: sparse frames of a time-lapse, say, where it
        learnt from dense fields. The gate takes them for its own. One channel, pixels as large as
        the training's; every plane counts.
    claims : bool
        Measure "claim" and "quantities", too: 5 to 20 s of one core.
    watch : callable
        Told the part done, 0 to 1.

    Returns
    -------
    Model
        With `certificate`: "domain" (what its images look like), "forward" (how the target is
        blurred to the source, and the detector's noise), "agreement" (how well inputs and outputs
        agree, of each field, and in how much of it a sister shows something else), "claim" (from
        where points are told apart, what is invented), "quantities" (whether brightness is kept),
        "twin" and "members" (how far it usually is from its regression twin, and from each
        member). "intervals" stay.

    Raises
    ------
    PairError
        There is no pair, or the sources show nothing of their targets.
    """
    if not pairs:
        raise PairError("certificate", "there are no pairs to measure it on", "Give the training's")
    sources = [pair.source.pixels for pair in pairs]
    outputs: list[Any] = []
    others: list[list[Any]] = [[] for _ in model.sisters]
    for n, source in enumerate(sources):
        outputs.append(sharpen(model, source[None], engine=ENGINE)[0])
        for made, sister in zip(others, model.sisters, strict=True):
            made.append(sharpen(model, source[None], engine=ENGINE, network=sister)[0])
        watch(0.4 * (n + 1) / len(sources))
    y, x = np.divide(model.source_pixel_size_nm, model.target_pixel_size_nm).tolist()
    zoom = math.sqrt(y * x)
    forward = learn_forward(pairs, outputs, zoom=zoom)
    usual = [learn_usual(outputs, made, forward).to_json() for made in others]
    certificate: dict[str, Any] = {"forward": forward.to_json()}
    if model.twin:
        certificate["twin"] = usual.pop(0)
    if usual:
        certificate["members"] = usual
    sisters = read_usual(replace(model, certificate=certificate))
    agreement = []
    for source, output, *made in zip(sources, outputs, *others, strict=True):
        reblurrer = make_reblurrer(forward, [source], [output], registered=True)
        compared = reblurrer.compare(source, output)
        inner = [slice(forward.border, n - forward.border) for n in compared.z.shape]
        if all(part.stop > part.start for part in inner):
            sums = add_up(compared, inner[0], inner[1])
            found = {"chi_square": sums.chi_square, "beyond_share": sums.beyond_share}
            if sisters:
                both = zip(sisters, made, strict=True)
                apart = [np.abs(sister.disagreement(output, other)) for sister, other in both]
                found["sisters_beyond_share"] = float((np.max(apart, axis=0) > LIMIT).mean())
            agreement.append(found)
    phases = find_phases(pairs)
    raw = [plane for i in served for plane in i.pixels.reshape(-1, *i.pixels.shape[-2:])]
    planes = [
        resample(plane, phase.zoom((y, x)), phase.start_px).astype(np.float32)
        for plane, phase in zip(raw, spread_evenly(phases, len(raw)), strict=True)
    ]
    wider = forward.widened(_WIDER)
    targets = [pair.target.pixels.astype(np.float32) for pair in pairs]
    blurred = [
        source + wider.apply(target) - forward.apply(target)
        for source, target in zip(sources, targets, strict=True)
    ]
    domain = learn_domain(
        model.generator,
        [*sources, *planes],
        model.source_scaling,
        blurred=blurred,
        phases=phases,
    )
    watch(0.5)
    certificate |= {"domain": domain.to_json(), "agreement": agreement}
    if claims:
        certificate["claim"] = measure_claim(
            model, forward, engine=ENGINE, watch=lambda done: watch(0.5 + 0.45 * done)
        ).to_json()
        certificate["quantities"] = measure_quantities(model, forward, engine=ENGINE).to_json()
    watch(1.0)
    if "intervals" in model.certificate:
        certificate["intervals"] = model.certificate["intervals"]
    return replace(model, certificate=certificate)


def find_phases(pairs: Sequence[RegisteredPair]) -> tuple[Phase, ...]:
    """Return where between a source's pixels registering took crops from, the sharpest first.

    Counted from where the first pixel lies of a raw image that is brought to the targets' grid.
    STILL alone where crops lie as in such an image, as where pairs were registered before. What
    bends or turns within a crop is told as a drift along its sides, to and fro in turns. Of many
    some stand for all, evenly spread from the sharpest to the most blurred.
    """
    found, moved = [], []
    forth = itertools.cycle([(1, -1), (-1, 1)])
    for pair in pairs:
        zoom_y, zoom_x = zoom = pair.target_px_per_source_px
        # without what is bent: mirrored or turned by quarters, at most
        straight = np.rint(pair.transform.matrix[:, :2] * zoom[:, None]) / zoom[:, None]
        for y, x in place_crops(pair.source.pixels.shape):
            corners = np.array(list(itertools.product((y.start, y.stop), (x.start, x.stop))))
            seen = pair.to_source(corners + np.array(pair.origin_yx_px, np.float64))
            starts = seen - (corners - corners[0]) @ straight.T - (0.5 / zoom - 0.5)
            moved.append(wrap(starts - corners[0] / zoom))
            phase = _drift(starts.min(axis=0), starts.max(axis=0), next(forth))
            found.append((measure_smoothed_noise((zoom_y, zoom_x), phase), phase))
    if np.abs(moved).max() < _LEAST_PHASE:
        return (STILL,)
    phases = [phase for _, phase in sorted(found, key=operator.itemgetter(0))]
    return tuple(spread_evenly(phases, min(_PHASES, len(phases))))


def _drift(
    low_px: Float[np.ndarray, "2"], high_px: Float[np.ndarray, "2"], forth: tuple[int, int]
) -> Phase:
    """Return what goes from the one to the other along its sides, or back where `forth` is -1."""
    start_px = wrap(np.where(np.array(forth) > 0, low_px, high_px))
    drift_px = np.minimum(high_px - low_px, _MOST_DRIFT) * forth
    (y, x), (along_y, along_x) = (px.round(3).tolist() for px in (start_px, drift_px))
    return Phase((y, x), (along_y, along_x))
