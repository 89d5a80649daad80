"""The whole path on a simulated microscope: simulate, register, train, evaluate, predict."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import crosscope as cs

SYSTEM = "confocal-sted"
TRAINING_PAIRS, TEST_PAIRS, SIZE_PX = 16, 4, 512

Tell = Callable[..., None]


def travel(
    out: Path,
    *,
    minutes: float,
    seed: int,
    work: Callable[[str], AbstractContextManager[Tell]],
    say: Callable[[str], None],
) -> "cs.Report":
    """Walk the path inside the folder `out`; what the fields of the test show, training never saw.

    `work(name)` is a context that takes the progress of one stage, from 0 to 1.
    """
    for name, count, stream in (("train", TRAINING_PAIRS, 0), ("test", TEST_PAIRS, 1)):
        raw, registered = out / "raw" / name, out / "registered" / name
        with work(f"simulate {count} pairs to {name}") as tell:
            simulated = cs.simulate(SYSTEM, pairs=count, size_px=SIZE_PX, seed=2 * seed + stream)
            cs.write_simulation(simulated, raw, progress=partial(_tell_share, tell, count))
        with work(f"register {count} pairs to {name}") as tell:
            cs.register_files(raw / "source", raw / "target", registered, watch=tell)

    pairs = cs.read_registered(out / "registered" / "train")
    plan = cs.TrainingPlan(minutes=minutes, seed=seed)
    with work("train") as tell:
        model = cs.train(
            pairs,
            plan,
            run=out / "run",
            watch=lambda moment: tell(moment.done, moment.text),
            say=say,
        )
    with work("certify") as tell:
        model = cs.certify(model, pairs, watch=tell)
    model = model.save(out / "run" / "model.zip")

    test = cs.read_registered(out / "registered" / "test")
    truth = cs.read_truth(out / "raw" / "test" / "truth")
    with work("evaluate") as tell:
        report = cs.evaluate(model, test, truth=truth, watch=tell)
    report.save(out / "report")
    with work("predict") as tell:
        cs.predict_files(
            model,
            out / "raw" / "test" / "source",
            out / "predicted",
            inspector=cs.Inspector(),
            watch=tell,
        )
    return report


def _tell_share(tell: Tell, of: int, done: int) -> None:
    tell(done / of)
