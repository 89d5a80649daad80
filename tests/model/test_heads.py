from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crosscope.data.errors import ModelError
from crosscope.data.sampling import Scaling
from crosscope.model.generator import build_generator
from crosscope.model.heads import FLOOR, Bound, build_heads, pinball
from crosscope.model.model import Model
from crosscope.model.reach import Reach


def make_model(network: str) -> Model:
    torch.manual_seed(0)
    generator = build_generator(network, 4)
    for weight in generator.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return Model(
        network=network,
        base=4,
        generator=generator.eval(),
        twin=None,
        source_scaling=Scaling(0.0, 1.0),
        target_scaling=Scaling(0.0, 1.0),
        source_pixel_size_nm=(30.0, 30.0),
        target_pixel_size_nm=(30.0, 30.0),
        reach=Reach(96, 48, 32),
        heads=build_heads(network, 4).eval(),
    )


@pytest.mark.parametrize("network", ["fast", "paper"])
def test_bounds_enclose_the_output_which_stays_as_it_was(network: str) -> None:
    model = make_model(network)
    x = torch.randn(2, 1, 32, 48)
    with torch.no_grad():
        output = model.generator(x)
        bounds = [Bound(model.generator, model.heads, times)(x) for times in (-2.0, 0.0, 2.0)]  # type: ignore[arg-type]
    assert torch.equal(bounds[1], output)
    assert bool((bounds[0] <= output - FLOOR).all())
    assert bool((bounds[2] >= output + FLOOR).all())


@pytest.mark.parametrize("network", ["fast", "paper"])
def test_widths_see_no_further_than_the_generator_s_features(network: str) -> None:
    model = make_model(network)
    heads = model.heads
    assert heads is not None
    features = torch.randn(1, 4 if network == "fast" else 2, 16, 16)
    output = torch.randn(1, 1, 16 * (cell := 2 if network == "fast" else 1), 16 * cell)
    moved = features.clone()
    moved[..., 8, 8] += 1
    with torch.no_grad():
        first, second = (heads(heads.gather(each, output)) for each in (features, moved))  # type: ignore[operator]
    differs = (first != second).any(dim=1)[0].nonzero()
    assert len(differs)
    assert bool(((differs >= 8 * cell) & (differs < 9 * cell)).all())


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    target = torch.arange(1000.0)
    losses = [
        float(pinball(target, torch.full((1000,), float(b)), 0.95)) for b in range(0, 1000, 10)
    ]
    assert losses.index(min(losses)) == 95


@pytest.mark.parametrize("network", ["fast", "paper"])
def test_heads_come_back_and_models_without_them_have_none(network: str, tmp_path: Path) -> None:
    model = make_model(network)
    model.save(tmp_path / "a.zip")
    replace(model, heads=None).save(tmp_path / "b.zip")
    back = Model.load(tmp_path / "a.zip").heads
    assert back is not None
    assert model.heads is not None
    assert not back.training
    before, after = model.heads.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert Model.load(tmp_path / "b.zip").heads is None


def test_half_precision_changes_widths_by_less_than_a_hundredth(tmp_path: Path) -> None:
    model = make_model("fast")
    model.save(tmp_path / "a.zip", half=True)
    back = Model.load(tmp_path / "a.zip").heads
    seen = torch.randn(1, 8, 32, 32)
    assert back is not None
    assert model.heads is not None
    with torch.no_grad():
        assert torch.allclose(model.heads(seen), back(seen), rtol=0.01)


def test_damaged_heads_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    model = make_model("fast")
    replace(model, heads=build_heads("paper", 8)).save(tmp_path / "a.zip")
    with pytest.raises(ModelError, match="not those of the network"):
        Model.load(tmp_path / "a.zip")
    assert model.heads is not None
    with torch.no_grad():
        next(model.heads.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        model.save(tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()
