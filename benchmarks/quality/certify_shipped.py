"""Certify anew the models that come with the program, where quality control has changed.

    python benchmarks/quality/certify_shipped.py [NAME ...]

On the pairs of their recipes, which are simulated again, and with intervals, calibrated on fields
of another seed. The weights stay as they are, to the last bit.
"""

import sys
from dataclasses import replace

import torch
from fields import VIEWS
from recipes import Size, take_training

import crosscope as cs
from crosscope.model.catalogue import SHIPPED

SEED, KEPT_ASIDE_SEED = 1000, 2500
KEPT_ASIDE = Size(training=40, size_px=256)


def main() -> None:
    """Certify all that are named, else all."""
    for name in sys.argv[1:] or VIEWS:
        view, size = VIEWS[name], Size()
        pairs = take_training(view, size, SEED)
        kept_aside = take_training(view, KEPT_ASIDE, KEPT_ASIDE_SEED)
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
