"""Certify anew the models that come with the program, where quality control has changed.

    python benchmarks/quality/certify_shipped.py [NAME ...]

On the pairs of their recipes, but for dim ones, which are simulated again, and with intervals,
calibrated on fields of another seed. The weights stay as they are, to the last bit.
"""

import sys
from dataclasses import replace

import torch
from fields import VIEWS
from recipes import Size, take

import crosscope as cs
from crosscope.model.catalogue import SHIPPED

TRAINING_SEED, KEPT_ASIDE_SEED = 2000, 5000
KEPT_ASIDE, KEPT_ASIDE_PX = 40, 256


def main() -> None:
    """Certify all that are named, else all."""
    for name in sys.argv[1:] or VIEWS:
        view = VIEWS[name]
        size = Size().of(view)
        pairs, _ = take(view, pairs=size.training, size_px=size.size_px, seed=TRAINING_SEED)
        kept_aside, _ = take(view, pairs=KEPT_ASIDE, size_px=KEPT_ASIDE_PX, seed=KEPT_ASIDE_SEED)
        model = cs.Model.load(name)
        heads = cs.train_heads(model, pairs)
        heads.half().float()  # as they are stored
        certified = cs.certify(replace(model, heads=heads), pairs)
        found = cs.calibrate(model, heads, kept_aside)
        certificate = {**certified.certificate, "intervals": found.to_json()}
        path = SHIPPED / f"{name}.zip"
        replace(certified, certificate=certificate).save(path, overwrite=True, half=True)
        again = cs.Model.load(path)
        for network in ("generator", "twin"):
            before, after = (getattr(each, network).state_dict() for each in (model, again))
            assert all(torch.equal(before[key], after[key]) for key in before), name
        claim = again.certificate["claim"]["resolution_nm"]
        print(f"{name}: claims {claim} nm, {found}, {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
