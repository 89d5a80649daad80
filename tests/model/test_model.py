import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from crosscope.data.errors import ModelError, OutputError
from crosscope.data.sampling import Scaling
from crosscope.model.generator import build_generator
from crosscope.model.model import LARGEST_ENTRY, VERSION, Model, SeenField
from crosscope.model.reach import Reach

Members = dict[str, bytes]
WEIGHTS, TWIN, TILE = "generator.safetensors", "twin.safetensors", "tile.safetensors"
MEMBER = "member-1.safetensors"
FORGED = ["../x", "/x", "a/../../x", "readme.txt", "C:\\x", "data.pkl"]
FORGED += [f"member-{n}.safetensors" for n in ("0", "5", "01", "../1", "x")]


def make_model(network: str = "fast") -> Model:
    torch.manual_seed(0)
    generator, twin, *members = (build_generator(network, 2) for _ in range(4))
    for each in (generator, twin, *members):
        for weight in each.parameters():
            nn.init.normal_(weight, std=0.1)
    return Model(
        network=network,
        base=2,
        generator=generator.eval(),
        twin=twin.eval(),
        source_scaling=Scaling(101.5, 200.0),
        target_scaling=Scaling(50.0, 1 / 3),
        source_pixel_size_nm=(65.0, 65.0),
        target_pixel_size_nm=(32.5, 32.5),
        reach=Reach(96, 48, 32),
        plan={"network": network, "steps": 7, "minutes": None},
        fields=(SeenField("Zelle ä", "training", "ab", None),),
        training={"steps": 7, "shares": {"mse": 1.0}},
        log=({"step": 3, "phase": "warm"}, {"step": 7, "phase": "warm"}),
        card={"sample": "beads"},
        tile=np.linspace(-0.1, 1.7, 128 * 128, dtype=np.float32).reshape(128, 128),
        members=tuple(member.eval() for member in members),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_model().save(tmp_path / "model.zip")
    return tmp_path / "model.zip"


@pytest.mark.parametrize("network", ["fast", "paper"])
def test_a_model_comes_back_as_it_was(network: str, tmp_path: Path) -> None:
    model = make_model(network).save(tmp_path / "a.zip")
    back = Model.load(tmp_path / "a.zip")
    nets = {"generator", "twin"}
    assert np.array_equal(back.tile, model.tile)
    for name, value in vars(model).items():
        if name not in nets | {"tile", "members"}:
            assert getattr(back, name) == value, name
    both = zip((model.generator, *model.sisters), (back.generator, *back.sisters), strict=True)
    for network_before, network_after in both:
        before, after = network_before.state_dict(), network_after.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert all(weight.requires_grad for weight in network_after.parameters())
        assert not network_after.training
    x = torch.rand(1, 1, 16, 32)
    assert torch.equal(model.generator(x), back.generator(x))
    assert back.parameters == model.parameters


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    other = Model.load(saved).save(tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_bytes() == saved.read_bytes()
    assert other.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()


def test_a_model_without_a_twin_has_none(tmp_path: Path) -> None:
    replace(make_model(), twin=None, members=()).save(tmp_path / "a.zip")
    assert Model.load(tmp_path / "a.zip").sisters == ()


def test_half_precision_takes_half_the_space_and_rounds_only(tmp_path: Path) -> None:
    model = make_model()
    whole, half = model.save(tmp_path / "a.zip"), model.save(tmp_path / "b.zip", half=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("a.zip", "b.zip")]
    tile_bytes = 4 * 128**2
    assert sizes[1] - tile_bytes < 0.7 * (sizes[0] - tile_bytes)
    assert whole.sha256 != half.sha256
    back = Model.load(tmp_path / "b.zip")
    for weight, stored in zip(
        model.generator.parameters(), back.generator.parameters(), strict=True
    ):
        assert stored.dtype == torch.float32
        assert torch.equal(stored, weight.half().float())


def test_a_weight_beyond_half_precision_is_not_saved(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        next(model.generator.parameters()).fill_(1e6)
    with pytest.raises(ModelError, match="not finite"):
        model.save(tmp_path / "a.zip", half=True)
    assert not (tmp_path / "a.zip").exists()


def test_loading_leaves_the_random_numbers_alone(saved: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Model.load(saved)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_overwritten_unasked(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        make_model("paper").save(saved)
    assert saved.read_bytes() == before
    make_model("paper").save(saved, overwrite=True)
    assert Model.load(saved).network == "paper"


@pytest.mark.parametrize("name", ["generator", "twin"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved(
    name: str, value: float, tmp_path: Path
) -> None:
    model = make_model()
    with torch.no_grad():
        next(getattr(model, name).parameters()).view(-1)[0] = value
    with pytest.raises(ModelError, match="not finite"):
        model.save(tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


# --- files that are no models ---------------------------------------------------------------------


def refuse(path: Path, match: str = ".") -> None:
    with pytest.raises(ModelError, match=match) as caught:
        Model.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def read(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Members, *, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the description of a model file."""
    members = read(path)
    card = json.loads(members["model.json"])
    change(card)
    write(path, members | {"model.json": json.dumps(card).encode()})


def forge_weights(path: Path, tensors: dict[str, torch.Tensor], name: str = WEIGHTS) -> None:
    """Change the weights of a model file, and the hash with them."""
    data = safetensors.torch.save(tensors)
    write(path, read(path) | {name: data})
    forge(path, lambda card: card["sha256"].update({name: hashlib.sha256(data).hexdigest()}))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    refuse(tmp_path / "no.zip", "no such file")


@pytest.mark.parametrize("content", [b"", b"text\n", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    refuse(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_refused(saved: Path, part: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(part * len(whole))])
    refuse(saved)


def test_a_flipped_byte_never_ends_in_a_foreign_error(saved: Path) -> None:
    whole = saved.read_bytes()
    for place in range(0, len(whole), len(whole) // 150):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            Model.load(saved)
        except ModelError:
            continue


class Harm:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_is_never_executed(saved: Path, tmp_path: Path) -> None:
    harm = pickle.dumps(Harm(tmp_path / "harmed"))
    members = read(saved)
    plain, torch_file = tmp_path / "plain.zip", tmp_path / "torch.zip"
    plain.write_bytes(harm)
    torch.save({"weights": Harm(tmp_path / "harmed")}, torch_file)
    refuse(plain)
    refuse(torch_file)
    write(saved, members | {WEIGHTS: harm})
    forge(saved, lambda card: card["sha256"].update({WEIGHTS: hashlib.sha256(harm).hexdigest()}))
    refuse(saved)
    write(saved, members | {"model.json": harm})
    refuse(saved)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "readme.txt", "C:\\x", "data.pkl", *FORGED]
)
def test_a_member_that_no_model_has_is_refused_and_unpacks_nothing(saved: Path, name: str) -> None:
    write(saved, read(saved) | {name: b"x"})
    refuse(saved)
    assert list(saved.parent.iterdir()) == [saved]


def test_a_name_that_comes_twice_is_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("model.json", b"{}")
    refuse(saved)


@pytest.mark.parametrize("name", ["model.json", "log.jsonl", WEIGHTS, TWIN, MEMBER, TILE])
def test_a_missing_member_is_refused(saved: Path, name: str) -> None:
    members = read(saved)
    del members[name]
    write(saved, members)
    refuse(saved)


@pytest.mark.parametrize(
    "tensors",
    [
        {"tile": torch.zeros(64, 64)},
        {"tile": torch.zeros(128, 128, dtype=torch.float16)},
        {"tile": torch.full((128, 128), torch.nan)},
        {"other": torch.zeros(128, 128)},
    ],
)
def test_a_test_tile_of_another_kind_is_refused(
    saved: Path, tensors: dict[str, torch.Tensor]
) -> None:
    forge_weights(saved, tensors, TILE)
    refuse(saved)


def test_a_test_tile_is_known_by_its_hash(saved: Path) -> None:
    other = safetensors.torch.save({"tile": torch.zeros(128, 128)})
    write(saved, read(saved) | {TILE: other})
    refuse(saved, "damaged")


def test_a_bomb_is_refused_before_it_is_unpacked(saved: Path) -> None:
    members = read(saved)
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        write(saved, members | {"log.jsonl": bytes(10**6)}, compression=compression)
        refuse(saved, "compressed")
    write(saved, members)
    content = saved.read_bytes()
    entry = content.index(b"PK\x01\x02")  # of the central directory; two sizes at 20 and 24
    sizes = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    saved.write_bytes(content[: entry + 20] + sizes + content[entry + 28 :])
    assert LARGEST_ENTRY < 0xFFFFFFF0
    refuse(saved, "larger")


# --- descriptions that lie ------------------------------------------------------------------------


def test_a_later_version_says_so(saved: Path) -> None:
    forge(saved, lambda card: card.update(version=VERSION + 1))
    refuse(saved, f"version {VERSION + 1}.*Update")


@pytest.mark.parametrize("name", [TWIN, MEMBER])
def test_weights_that_do_not_have_their_hash_are_refused(saved: Path, name: str) -> None:
    forge(saved, lambda card: card["sha256"].update({name: 64 * "0"}))
    refuse(saved, f"{name}.*damaged")


def test_weights_without_a_hash_are_refused(saved: Path) -> None:
    forge(saved, lambda card: card["sha256"].clear())
    refuse(saved)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b"[" * 10**6,
        b'{"format": "other"}',
        b'{"format": "crosscope-model", "version": 1}',
        b'{"format": "crosscope-model", "version": "1"}',
        b'{"format": "crosscope-model", "version": ' + b"9" * 10000 + b"}",
    ],
    ids=lambda text: text[:20].decode("latin1"),
)
def test_a_description_that_is_none_is_refused(saved: Path, text: bytes) -> None:
    write(saved, read(saved) | {"model.json": text})
    refuse(saved)


@pytest.mark.parametrize("text", [b"[]x", b"3\n", b'"text"\n', b"{"])
def test_a_log_that_is_none_is_refused(saved: Path, text: bytes) -> None:
    write(saved, read(saved) | {"log.jsonl": text})
    refuse(saved)


WRONG: dict[str, list[Any]] = {
    "base": [10**9, 10**18, 10**400, 0, -1, 2.0, "2", True, None, [2]],
    "network": ["vit", None, 3, "__import__", ["fast"]],
    "reach": [3, [], {}, {"exact_px": "96", "halo_px": 48}, {"exact_px": -8, "halo_px": -8}],
    "source_scaling": [3, [], {}, {"offset": 0, "scale": 0}, {"offset": "0", "scale": 1}],
    "target_scaling": [
        {"offset": float("nan"), "scale": 1},
        {"offset": 0, "scale": float("inf")},
        {"offset": 0, "scale": 1, "more": 1},
    ],
    "source_pixel_size_nm": [3, [1], [1, 2, 3], [0, 0], ["a", "b"]],
    "target_pixel_size_nm": [[float("nan"), 1]],
    "plan": [3, None, "text", [1]],
    "training": [3, None, "text", [1]],
    "fields": [3, {"a": 1}, [1], [{}]],
    "sha256": [3, [], None],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_cannot_be_is_refused(saved: Path, name: str) -> None:
    whole = read(saved)
    for value in WRONG[name]:
        card = json.loads(whole["model.json"]) | {name: value}
        write(saved, whole | {"model.json": json.dumps(card).encode()})
        refuse(saved)


def test_a_missing_entry_is_refused(saved: Path) -> None:
    whole = read(saved)
    card = json.loads(whole["model.json"])
    for name in card:
        less = {key: value for key, value in card.items() if key != name}
        write(saved, whole | {"model.json": json.dumps(less).encode()})
        refuse(saved)


@pytest.mark.parametrize("file", [WEIGHTS, MEMBER])
def test_weights_of_another_network_are_refused(saved: Path, file: str) -> None:
    weights = safetensors.torch.load(read(saved)[file])
    first = next(iter(weights))
    wrong: list[dict[str, torch.Tensor]] = [
        {},
        {name: tensor for name, tensor in weights.items() if name != first},
        weights | {"more": torch.zeros(1)},
        weights | {first: torch.zeros(1)},
        weights | {first: weights[first].double()},
        weights | {first: weights[first].to(torch.float8_e4m3fn)},
    ]
    for tensors in wrong:
        forge_weights(saved, tensors, file)
        refuse(saved, "not those of the network")
    forge_weights(saved, weights | {first: torch.full_like(weights[first], torch.nan)}, file)
    refuse(saved, "not finite")
    forge_weights(saved, weights, file)
    Model.load(saved)


def test_another_base_than_the_weights_have_is_refused(saved: Path) -> None:
    forge(saved, lambda card: card.update(base=3))
    refuse(saved, "not those of the network")
