"""The models that come with the program, by name.

Each is `shipped/NAME.zip`, made by its recipe in `examples/` from a seed, and carries its own card:
what it was trained on, its held-out figures and its limits.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from crosscope.data.errors import ModelError

SHIPPED = Path(__file__).parent / "shipped"
_NO_MODEL = "Pass a model.zip that `crosscope train` wrote, or a name that `crosscope models` lists"


def list_models() -> list[dict[str, Any]]:
    """Return what comes with the program: of each model its name and the card in it.

    `name`, `source`, `target`, `sample`, `pixel_size_nm` and `target_pixel_size_nm` (y, x: of the
    images it takes and gives), `parameters`, `bytes`, and the card's other entries.
    """
    return [_describe(path) for path in sorted(SHIPPED.glob("*.zip"))]


def find_model(name: Path | str) -> Path:
    """Return the file that is meant: one that is there, or a model that comes with the program.

    Raises ModelError where it is neither.
    """
    path = Path(name)
    if path.exists():
        return path
    shipped = SHIPPED / f"{name}.zip"
    if path.name == str(name) and shipped.exists():
        return shipped
    raise ModelError(path, "there is no such file, and no model of that name", _NO_MODEL)


def _describe(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("model.json"))
    return about["card"] | {
        "name": path.stem,
        "pixel_size_nm": about["source_pixel_size_nm"],
        "target_pixel_size_nm": about["target_pixel_size_nm"],
        "parameters": about["parameters"],
        "bytes": path.stat().st_size,
    }
