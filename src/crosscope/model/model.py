"""A model: everything needed to use it, in one file that executes nothing when it is read.

MODEL.zip holds model.json (what it is and what it was trained on), log.jsonl (how its training
went), the weights generator.safetensors and, for an adversarial model, twin.safetensors, of an
ensemble member-1.safetensors and so on, where its intervals were learnt heads.safetensors, and
tile.safetensors, the test tile on which every engine is checked.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from crosscope.data.errors import ModelError
from crosscope.data.files import sha256, writing
from crosscope.data.numbers import GREY, LARGEST, ZOOM, read_count, read_number
from crosscope.data.sampling import Scaling
from crosscope.model.catalogue import find_model
from crosscope.model.generator import build_generator
from crosscope.model.heads import build_heads
from crosscope.model.reach import Reach
from crosscope.model.trial import TILE_PX, random_tile

VERSION = 1
LARGEST_ENTRY = 512 * 2**20  # bytes; the largest generator, paper at base 64, has 89 MB
LARGEST_TEXT = 32 * 2**20  # bytes of model.json or log.jsonl; those of shipped models have 60 kB
MOST_REACH_PX = 1024  # "paper" sees 128 px far
DEEPEST = 16  # lists and mappings within each other
MOST_MEMBERS = 4
_MEMBERS = tuple(f"member-{n + 1}" for n in range(MOST_MEMBERS))
_NO_MODEL = "Pass a model.zip that `crosscope train` wrote"


@dataclass(frozen=True)
class SeenField:
    """A field of view that the model learned from ("training") or was chosen by ("validation").

    "earlier": of the model that it started from.
    """

    name: str
    part: str
    source_sha256: str | None
    target_sha256: str | None


@dataclass(frozen=True, eq=False)
class Model:
    """A trained generator and what is needed to use it rightly.

    Attributes
    ----------
    network, base : str, int
        Which network it is, and its width: as data, so that both are used alike.
    generator : nn.Module
        b 1 y x scaled source on the target's grid -> b 1 y x scaled target.
    twin : nn.Module or None
        The generator before the adversarial phase: the same data, no discriminator.
    source_scaling, target_scaling : Scaling
        From grey values to the network's numbers; measured once, on the training fields.
    source_pixel_size_nm, target_pixel_size_nm : (y, x)
        Of the images it takes and of those it gives.
    reach : Reach
        What tiles must overlap by.
    plan : mapping
        The TrainingPlan, with what was measured at the start (threads, precision).
    fields : tuple of SeenField
    training : mapping
        "steps", "seconds", "best_step", the kept generator's figures on the validation patches
        ("validation"), the terms' shares of its objective at the end ("shares"), the phase whose
        weights it has ("kept"), how often the adversarial one went wrong ("rollbacks") and by which
        alarms ("alarms"), how well the discriminator did ("discriminator"), the count of
        "processes", and the part of the time that was waited for batches ("waiting_share").
    log : tuple of mappings
        The lines of log.jsonl.
    tile : (y, x) float32
        Scaled source of 128 x 128 px from a validation field, where it varies most: what every
        engine must compute rightly. Random where no field was at hand.
    card : mapping
        What it was made for and how well it does, for those who did not train it themselves:
        "source", "target", "sample", "trained_on", "figures", "limits", "recipe".
    certificate : mapping
        What quality control measured after the training, one entry a part of it: see
        `quality.certificate.certify`; and "intervals". Empty where none was.
    heads : nn.Module or None
        How far the target may be from the generator's output: see `heads` and `quality.intervals`.
    members : tuple of nn.Module
        Generators that learnt the same from other beginnings, at most four: see `members`.
    sha256 : str or None
        Of the file it was loaded from or saved to.
    """

    network: str
    base: int
    generator: nn.Module
    twin: nn.Module | None
    source_scaling: Scaling
    target_scaling: Scaling
    source_pixel_size_nm: tuple[float, float]
    target_pixel_size_nm: tuple[float, float]
    reach: Reach
    plan: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[SeenField, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    log: tuple[Mapping[str, Any], ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] = field(default_factory=dict)
    tile: Float32[np.ndarray, "y x"] = field(default_factory=random_tile)
    heads: nn.Module | None = None
    members: tuple[nn.Module, ...] = ()
    sha256: str | None = None

    @property
    def sisters(self) -> tuple[nn.Module, ...]:
        """The other networks that learnt the same: the twin, then the members."""
        return (*([self.twin] if self.twin else []), *self.members)

    @property
    def parameters(self) -> int:
        """Number of the generator's weights."""
        return sum(weight.numel() for weight in self.generator.parameters())

    def save(self, path: Path | str, *, overwrite: bool = False, half: bool = False) -> "Model":
        """Write the model to one file; the same model gives the same bytes.

        `half` stores weights as float16, in half the space: they lose what is beyond 11 bits.

        Returns the model with `sha256` set. Raises OutputError where it cannot be written and
        ModelError where a weight is not finite: no NaN is ever saved.
        """
        path = Path(path)
        weights = {"generator": self.generator, "twin": self.twin, "heads": self.heads}
        weights |= dict(zip(_MEMBERS[: len(self.members)], self.members, strict=True))
        entries = {
            f"{name}.safetensors": _to_bytes(net, path, half)
            for name, net in weights.items()
            if net is not None
        }
        entries["tile.safetensors"] = tensors_to_bytes({"tile": torch.from_numpy(self.tile)})
        card = {
            "format": "crosscope-model",
            "version": VERSION,
            "network": self.network,
            "base": self.base,
            "source_scaling": asdict(self.source_scaling),
            "target_scaling": asdict(self.target_scaling),
            "source_pixel_size_nm": self.source_pixel_size_nm,
            "target_pixel_size_nm": self.target_pixel_size_nm,
            "reach": asdict(self.reach),
            "plan": self.plan,
            "fields": [asdict(seen) for seen in self.fields],
            "training": self.training,
            "card": self.card,
            "certificate": self.certificate,
            "parameters": self.parameters,
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in entries.items()},
        }
        entries["model.json"] = json.dumps(card, indent=2, allow_nan=False).encode()
        entries["log.jsonl"] = "".join(
            json.dumps(line, allow_nan=False) + "\n" for line in self.log
        ).encode()
        with writing(path, overwrite=overwrite) as part, zipfile.ZipFile(part, "w") as archive:
            for name, data in entries.items():
                entry = zipfile.ZipInfo(name)  # without a date: the same bytes again
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, data)
        return replace(self, sha256=sha256(path))

    @classmethod
    def load(cls, path: Path | str) -> "Model":
        """Read a model file; nothing in it is executed, every weight is checked.

        Parameters
        ----------
        path : Path or str
            A file, or the name of a model that comes with the program.

        Raises
        ------
        ModelError
            Not there, not a model file, of a later version, damaged (hashes, shapes, NaN).
        """
        path = find_model(path)
        entries = _read_entries(path)
        try:
            card = _read_json(entries["model.json"])
            if card["format"] != "crosscope-model":
                raise ModelError(path, "is not a crosscope model", _NO_MODEL)
            if card["version"] > VERSION:
                reason = f"is of version {card['version']}, this program reads up to {VERSION}"
                raise ModelError(path, reason, "Update crosscope")
            weights = {name: data for name, data in entries.items() if name.endswith("tensors")}
            if weights.keys() != card["sha256"].keys():
                raise ValueError("it names other weights than there are")
            for name, data in weights.items():
                if hashlib.sha256(data).hexdigest() != card["sha256"][name]:
                    raise ModelError(path, f"{name} in it is damaged", "Copy the file again")
            tile = _tile(_from_bytes(weights.pop("tile.safetensors"), path), path)
            built = {}
            for name, data in weights.items():
                build = build_heads if name == "heads.safetensors" else build_generator
                with torch.device("meta"):  # shapes without memory, however large a base it names
                    network = build(card["network"], read_count(card["base"], 1))
                stored = _from_bytes(data, path)
                if all(weight.dtype == torch.float16 for weight in stored.values()):
                    stored = {name: weight.float() for name, weight in stored.items()}
                load_weights(network, stored, path)
                built[name.removesuffix(".safetensors")] = network
            if card["parameters"] != sum(w.numel() for w in built["generator"].parameters()):
                raise ValueError("it counts other parameters than there are")
            return cls(
                network=card["network"],
                base=card["base"],
                generator=built["generator"].eval(),
                twin=built["twin"].eval() if "twin" in built else None,
                source_scaling=_scaling(**card["source_scaling"]),
                target_scaling=_scaling(**card["target_scaling"]),
                **_sizes(card["source_pixel_size_nm"], card["target_pixel_size_nm"]),
                reach=_reach(built["generator"], **card["reach"]),
                plan=dict(card["plan"]),
                fields=tuple(_field(**seen) for seen in card["fields"]),
                training=dict(card["training"]),
                log=tuple(dict(_read_json(line)) for line in entries["log.jsonl"].splitlines()),
                card=dict(card["card"]),
                certificate=dict(card["certificate"]),
                tile=tile,
                heads=built["heads"].eval() if "heads" in built else None,
                members=tuple(built[name].eval() for name in _MEMBERS if name in built),
                sha256=sha256(path),
            )
        # RuntimeError: a base beyond what torch can count, JSON nested too deeply
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            ArithmeticError,
        ) as error:
            reason = f"its description is damaged ({type(error).__name__}: {str(error)[:100]})"
            raise ModelError(path, reason, _NO_MODEL) from error


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors of exactly the network's names and shapes, all finite, or raise ModelError."""
    expected, found = (
        {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        for tensors in (network.state_dict(), weights)
    )
    if found != expected:
        reason = "its weights are not those of the network that it names"
        raise ModelError(path, reason, _NO_MODEL)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise ModelError(path, "has weights that are not finite", "Train again or copy it again")
    network.load_state_dict(dict(weights), assign=True)


def _read_entries(path: Path) -> dict[str, bytes]:
    """Read the known entries of the archive into memory: nothing is unpacked to the disk."""
    known = {"model.json", "log.jsonl"}
    known |= {f"{name}.safetensors" for name in ("tile", "generator", "twin", "heads", *_MEMBERS)}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if not set(names) <= known or len(set(names)) != len(names):
                raise ModelError(path, "is an archive, but not a crosscope model", _NO_MODEL)
            if any(info.compress_type or info.file_size > _largest(info) for info in infos):
                reason = "has entries that are compressed or larger than any model's"
                raise ModelError(path, reason, _NO_MODEL)
            return {name: archive.read(name) for name in names}
    except FileNotFoundError as error:
        raise ModelError(path, "there is no such file", _NO_MODEL) from error
    except ModelError:
        raise
    except Exception as error:  # a forged archive can raise nearly anything
        raise ModelError(path, "is not a model file", _NO_MODEL) from error


def _largest(info: zipfile.ZipInfo) -> int:
    return LARGEST_ENTRY if info.filename.endswith("tensors") else LARGEST_TEXT


def _read_json(text: bytes) -> Any:
    """Read JSON whose numbers are finite, and which can be walked without a stack."""
    value = json.loads(
        text, parse_constant=_finite_float, parse_float=_finite_float, parse_int=_finite_int
    )
    level = [value]
    for _ in range(DEEPEST):
        parts = [part.values() if isinstance(part, dict) else part for part in level]
        level = [each for part in parts for each in part if isinstance(each, dict | list)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is not a finite number")
    return value


def _finite_int(text: str) -> int:
    _finite_float(text)
    return int(text)


def _to_bytes(network: nn.Module, path: Path, half: bool) -> bytes:
    weights = {name: w.detach().cpu().contiguous() for name, w in network.state_dict().items()}
    if half:
        weights = {name: weight.half() for name, weight in weights.items()}
    if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        raise ModelError(path, "the weights to be saved are not finite", "Train at a lower rate")
    return tensors_to_bytes(weights)


def _from_bytes(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(data)
    except (SafetensorError, ValueError) as error:
        raise ModelError(path, "its weights cannot be read", "Copy the file again") from error


def _tile(stored: dict[str, Tensor], path: Path) -> Float32[np.ndarray, "y x"]:
    tile = stored["tile"]
    if tile.dtype != torch.float32 or tile.shape != (TILE_PX, TILE_PX):
        raise ValueError("its test tile has another type or shape")
    if not bool(torch.isfinite(tile).all()):
        raise ModelError(path, "has a test tile that is not finite", "Train again or copy it again")
    pixels: Float32[np.ndarray, "y x"] = tile.numpy()
    return pixels


def _sizes(source: Any, target: Any) -> dict[str, tuple[float, float]]:
    """Return both pixel sizes, y and x: from 0.1 nm to 1 mm, and one not far from the other."""
    sizes_nm = [tuple(read_number(nm, 0.1, 1e6) for nm in each) for each in (source, target)]
    for source_nm, target_nm in zip(*sizes_nm, strict=True):
        read_number(source_nm / target_nm, *ZOOM)
    (y, x), (v, u) = sizes_nm
    return {"source_pixel_size_nm": (y, x), "target_pixel_size_nm": (v, u)}


def _scaling(*, offset: Any, scale: Any) -> Scaling:
    return Scaling(read_number(offset, -GREY, GREY), read_number(scale, 1 / LARGEST, GREY))


def _reach(network: nn.Module, **reach: Any) -> Reach:
    stride = int(network.stride)  # type: ignore[arg-type]
    for px in reach.values():
        if read_count(px, stride, MOST_REACH_PX) % stride:
            raise ValueError(f"a reach of {px} px is no multiple of the stride, {stride} px")
    return Reach(**reach)


def _field(**seen: Any) -> SeenField:
    hashes = [seen[name] for name in ("source_sha256", "target_sha256")]
    words = [seen["name"], seen["part"], *(each for each in hashes if each is not None)]
    if not all(isinstance(word, str) for word in words):
        raise TypeError("a field is told by words")
    return SeenField(**seen)
