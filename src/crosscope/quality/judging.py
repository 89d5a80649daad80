"""Registered pair + output -> the verdict and the trust map that `inspection.check` gives.

The source lies on the target's grid already, resampled by any shift, as those did that the
certificate was measured on.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from crosscope.data.registered import RegisteredPair
from crosscope.data.slides import slide_of
from crosscope.model.model import Model
from crosscope.prediction.files import Verdict
from crosscope.quality.forward import Forward
from crosscope.quality.inspection import (
    UNKNOWN,
    View,
    Walk,
    conclude,
    draw_map,
    in_tenths,
    judge_view,
    read_certificate,
    read_usual,
)
from crosscope.quality.reblur import make_reblurrer


def judge_pair(
    model: Model,
    pair: RegisteredPair,
    output: Float[np.ndarray, "y x"],
    *,
    sisters: Sequence[Float[np.ndarray, "y x"]] = (),
) -> Verdict:
    """Say how far what was made of a pair's source can be believed; its target is not looked at.

    Parameters
    ----------
    model : Model
    pair : RegisteredPair
        With finite pixels.
    output : (y, x)
        Target grey values.
    sisters : sequence of (y, x)
        What the model's sisters made of the source, all of them in their order, or none: the map
        then holds the largest doubt.

    Returns
    -------
    Verdict
        With the trust map; of a model without a certificate, nothing but the reason.

    Raises
    ------
    ModelError
        The certificate is damaged.
    """
    if not {"domain", "forward", "agreement"} <= set(model.certificate):
        return Verdict(reasons=(UNKNOWN,))
    source, made = pair.source, pair.source.with_pixels(output)
    view = View(
        model=model,
        slide=slide_of(source),
        channel=None,
        zoom=(1.0, 1.0),
        scaling=model.source_scaling,
        label="",
        registered=True,
    )
    forward = read_certificate(model, "forward", Forward.from_json)
    walk = Walk(
        view=view,
        output=slide_of(made),
        channel=None,
        reblurrer=make_reblurrer(forward, [source.pixels], [output], registered=True),
        sisters=(),
        sums=[],
    )
    doubt = draw_map([walk], output.shape, lambda done: None)
    if sisters:
        for usual, sister in zip(read_usual(model), sisters, strict=True):
            doubt = np.maximum(doubt, in_tenths(np.abs(usual.disagreement(output, sister))))
    belonging = judge_view(view)
    admitted = Verdict(
        belonging.domain,
        None,
        belonging.reasons,
        {"distance": belonging.distance, "signal": belonging.signal},
    )
    return replace(conclude(admitted, [walk]), trust=made.with_pixels(doubt))
