"""See through one fluorescence microscope as if it were another.

    files -> Image -> raw pair -> registered pair -> patches -> model -> image -> report

| stage           | axes               | intensity means                            | grid       |
|-----------------|--------------------|--------------------------------------------|------------|
| raw pair        | y x, y x           | camera grey values, each its own offset    | each its own |
| registered pair | y x, y x           | as above, the source resampled once        | the target's |
| patches         | n y x, n y x       | scaled by the rule that the model stores   | the target's |
| model           | b 1 y x to b 1 y x | scaled                                     | the target's |
| image           | as the input's     | the target modality's grey values          | the target's |
| report          | -                  | PSNR, SSIM (range stated), FWHM in nm      | -          |

The source is the modality one has, the target the one wanted. Lengths are nm, y comes before x.

    import crosscope as cs
    pairs = [cs.register(pair) for pair in cs.read_pairs("raw/confocal", "raw/sted")]
    model = cs.train(pairs, cs.TrainingPlan(minutes=10))
    sharp = cs.predict(model, cs.read_image("cell.tif"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosscope.data.errors import CrosscopeError as CrosscopeError
    from crosscope.data.errors import DomainError as DomainError
    from crosscope.data.errors import ImageError as ImageError
    from crosscope.data.errors import InputError as InputError
    from crosscope.data.errors import ModelError as ModelError
    from crosscope.data.errors import OutputError as OutputError
    from crosscope.data.errors import PairError as PairError
    from crosscope.data.errors import RegistrationError as RegistrationError
    from crosscope.data.files import require_free as require_free
    from crosscope.data.images import Channel as Channel
    from crosscope.data.images import Image as Image
    from crosscope.data.images import list_images as list_images
    from crosscope.data.images import read_image as read_image
    from crosscope.data.images import write_image as write_image
    from crosscope.data.pairs import RawPair as RawPair
    from crosscope.data.pairs import match_files as match_files
    from crosscope.data.pairs import read_pair as read_pair
    from crosscope.data.pairs import read_pairs as read_pairs
    from crosscope.data.registered import RefusedPair as RefusedPair
    from crosscope.data.registered import RegisteredPair as RegisteredPair
    from crosscope.data.registered import ResidualMap as ResidualMap
    from crosscope.data.registered import read_registered as read_registered
    from crosscope.data.registered import take_part as take_part
    from crosscope.data.registered import write_registered as write_registered
    from crosscope.data.registration.folder import RegistrationPlan as RegistrationPlan
    from crosscope.data.registration.folder import register_files as register_files
    from crosscope.data.registration.pair import register as register
    from crosscope.data.slides import Slide as Slide
    from crosscope.data.slides import is_slide as is_slide
    from crosscope.data.slides import open_slide as open_slide
    from crosscope.data.transforms import Bend as Bend
    from crosscope.data.transforms import Transform as Transform
    from crosscope.model.catalogue import list_models as list_models
    from crosscope.model.curve import measure_learning_curve as measure_learning_curve
    from crosscope.model.dial import blend as blend
    from crosscope.model.engine import Engine as Engine
    from crosscope.model.members import join_members as join_members
    from crosscope.model.members import train_members as train_members
    from crosscope.model.model import Model as Model
    from crosscope.model.plan import TrainingPlan as TrainingPlan
    from crosscope.model.plan import paper_plan as paper_plan
    from crosscope.model.processes import Processes as Processes
    from crosscope.model.processes import join_processes as join_processes
    from crosscope.model.training import Moment as Moment
    from crosscope.model.training import TrainingError as TrainingError
    from crosscope.model.training import train as train
    from crosscope.optics.systems import SimulatedPair as SimulatedPair
    from crosscope.optics.systems import simulate as simulate
    from crosscope.optics.systems import write_simulation as write_simulation
    from crosscope.prediction.bounds import Calibration as Calibration
    from crosscope.prediction.bounds import Interval as Interval
    from crosscope.prediction.bounds import mark_sure as mark_sure
    from crosscope.prediction.bounds import predict_interval as predict_interval
    from crosscope.prediction.cluster import Cluster as Cluster
    from crosscope.prediction.cluster import connect as connect
    from crosscope.prediction.files import Failure as Failure
    from crosscope.prediction.files import Verdict as Verdict
    from crosscope.prediction.files import predict_files as predict_files
    from crosscope.prediction.images import PredictionPlan as PredictionPlan
    from crosscope.prediction.images import fastest_engine as fastest_engine
    from crosscope.prediction.images import predict as predict
    from crosscope.prediction.images import predict_channels as predict_channels
    from crosscope.quality.certificate import certify as certify
    from crosscope.quality.files import Checked as Checked
    from crosscope.quality.files import check_files as check_files
    from crosscope.quality.inspection import Inspector as Inspector
    from crosscope.quality.inspection import check as check
    from crosscope.quality.intervals import calibrate as calibrate
    from crosscope.quality.intervals import train_heads as train_heads
    from crosscope.quality.intervals import with_intervals as with_intervals
    from crosscope.quality.support import Support as Support
    from crosscope.quality.support import count_support as count_support
    from crosscope.report.evaluation import Report as Report
    from crosscope.report.evaluation import evaluate as evaluate
    from crosscope.report.evaluation import read_truth as read_truth
    from crosscope.report.measuring import Measurement as Measurement
    from crosscope.report.measuring import measure as measure

_HOMES = {
    "data.errors": "CrosscopeError DomainError ImageError InputError ModelError OutputError "
    "PairError RegistrationError",
    "data.files": "require_free",
    "data.images": "Channel Image list_images read_image write_image",
    "data.pairs": "RawPair match_files read_pair read_pairs",
    "data.registered": "RefusedPair RegisteredPair ResidualMap read_registered "
    "take_part write_registered",
    "data.registration.folder": "RegistrationPlan register_files",
    "data.registration.pair": "register",
    "data.slides": "Slide is_slide open_slide",
    "data.transforms": "Bend Transform",
    "model.catalogue": "list_models",
    "model.curve": "measure_learning_curve",
    "model.engine": "Engine",
    "model.dial": "blend",
    "model.members": "join_members train_members",
    "model.model": "Model",
    "model.plan": "TrainingPlan paper_plan",
    "model.processes": "Processes join_processes",
    "model.training": "Moment TrainingError train",
    "optics.systems": "SimulatedPair simulate write_simulation",
    "prediction.bounds": "Calibration Interval mark_sure predict_interval",
    "prediction.cluster": "Cluster connect",
    "prediction.files": "Failure Verdict predict_files",
    "prediction.images": "PredictionPlan fastest_engine predict predict_channels",
    "quality.certificate": "certify",
    "quality.files": "Checked check_files",
    "quality.inspection": "Inspector check",
    "quality.intervals": "calibrate train_heads with_intervals",
    "quality.support": "Support count_support",
    "report.evaluation": "Report evaluate read_truth",
    "report.measuring": "Measurement measure",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch comes with the verb that needs it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
