"""Model + fidelity -> the model whose generator lies between the adversarial one and its twin.

    weights = (1 - fidelity) weights of the generator + fidelity weights of the twin

Both have one trajectory: the twin is where the adversarial phase began. So what lies between them
is a network as good as either, at the cost of one.

Wang et al., ESRGAN, Computer Vision - ECCV 2018 Workshops, 63 (2019),
doi 10.1007/978-3-030-11021-5_5, section 3.4.
"""

import copy
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn

from crosscope.data.errors import InputError
from crosscope.model.model import Model

_BETWEEN: WeakKeyDictionary[nn.Module, tuple[float, nn.Module]] = WeakKeyDictionary()
_OF_IT = ("twin", "claim", "quantities", "intervals")  # of a certificate: of no other generator


def blend(model: Model, fidelity: float) -> Model:
    """Return a model as near to its regression twin as is asked for.

    Parameters
    ----------
    model : Model
    fidelity : float
        0 is the adversarial generator, 1 the twin.

    Returns
    -------
    Model
        With another generator, the same each time: engines are made ready for it once. It has
        neither twin nor intervals, and claims nothing: those are of the adversarial generator. The
        model itself at 0, and where it has no twin: then it is one.

    Raises
    ------
    InputError
        The fidelity is not between 0 and 1.
    """
    if not 0 <= fidelity <= 1:
        raise InputError("fidelity", f"{fidelity:g} is not between 0 and 1", "Choose one that is")
    if fidelity == 0 or model.twin is None:
        return model
    known = _BETWEEN.get(model.generator)
    if known is None or known[0] != fidelity:
        known = fidelity, _between(model.generator, model.twin, fidelity)
        _BETWEEN[model.generator] = known  # one at a time: it is as large as the generator
    certificate = {name: part for name, part in model.certificate.items() if name not in _OF_IT}
    return replace(
        model, generator=known[1], twin=None, heads=None, certificate=certificate, sha256=None
    )


def _between(generator: nn.Module, twin: nn.Module, share: float) -> nn.Module:
    ours, theirs = generator.state_dict(), twin.state_dict()
    network = copy.deepcopy(generator)
    network.load_state_dict({name: torch.lerp(ours[name], theirs[name], share) for name in ours})
    return network
