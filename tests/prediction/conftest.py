"""Models for tests: one whose answer is known without it, one that sees its surroundings."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from crosscope.data.sampling import Scaling
from crosscope.model.generator import build_generator
from crosscope.model.model import Model
from crosscope.model.reach import Reach, measure_reach


@pytest.fixture(scope="session")
def make_scaler() -> Callable[..., Model]:
    """Return a function: gain -> model of 2 gain (x - 100) + 50 on pixels of 60 to 30 nm.

    An untrained `fast` network changes only the scale.
    """

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


@pytest.fixture(scope="session")
def make_lively() -> Callable[..., Model]:
    """Return a function: pixel sizes -> model whose residuals, which begin at zero, are at work."""

    @cache
    def make(source_nm: float = 30.0, target_nm: float = 30.0, seed: int = 0) -> Model:
        torch.manual_seed(seed)
        network = build_generator("fast", 2).eval()
        for weight in network.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.05)
        field = np.random.default_rng(9).random((64, 64), dtype=np.float32)
        return Model(
            network="fast",
            base=2,
            generator=network,
            twin=None,
            source_scaling=Scaling(100.0, 200.0),
            target_scaling=Scaling(50.0, 500.0),
            source_pixel_size_nm=(source_nm, source_nm),
            target_pixel_size_nm=(target_nm, target_nm),
            reach=measure_reach(network, field),
        )

    return make
