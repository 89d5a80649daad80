"""A model whose answer is known without it: an untrained `fast` network changes only the scale."""

from collections.abc import Callable

import pytest

from crosscope.data.sampling import Scaling
from crosscope.model.generator import build_generator
from crosscope.model.model import Model
from crosscope.model.reach import Reach


@pytest.fixture(scope="session")
def make_scaler() -> Callable[..., Model]:
    """Return a function: gain -> model of 2 gain (x - 100) + 50 on pixels of 60 to 30 nm."""

    def make(gain: float = 1.0, source_nm: float = 60.0, target_nm: float = 30.0) -> Model:
        return Model(
            network="fast",
            base=2,
            generator=build_generator("fast", 2).eval(),
            twin=None,
            source_scaling=Scaling(100.0, 200.0),
            target_scaling=Scaling(50.0, 400 * gain),
            source_pixel_size_nm=(source_nm, source_nm),
            target_pixel_size_nm=(target_nm, target_nm),
            reach=Reach(exact_px=64, halo_px=8, rounded_px=8),
        )

    return make
