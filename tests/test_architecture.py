"""The rooms, what they may import, what nobody may call, and what the package promises."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

import crosscope as cs
from crosscope.terminal.commands import app

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "crosscope"
MODULES = sorted(SRC.rglob("*.py"))
ROOMS = [
    "data",
    "deconvolution",
    "metrics",
    "model",
    "optics",
    "prediction",
    "quality",
    "report",
    "terminal",
]
DATA = [
    "background",
    "cores",
    "errors",
    "numbers",
    "noise",
    "files",
    "grids",
    "images",
    "correction",
    "pairs",
    "landmarks",
    "stitching",
    "omezarr",
    "slides",
]
DATA += ["transforms", "registered", "page", "registration", "sampling"]
REGISTRATION = ["features", "blocks", "fields", "residual", "search", "pair", "folder"]
NO_TORCH = ("data", "deconvolution", "metrics", "optics")


def parts_of(module: Path) -> tuple[str, ...]:
    return module.relative_to(SRC).with_suffix("").parts


def name_of(module: Path) -> str:
    return "/".join(parts_of(module))


def imports(module: Path) -> Iterator[str]:
    """Yield the full names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(module)} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: Path) -> Iterator[list[str]]:
    """Yield the parts after "crosscope" of what a module imports from the package."""
    for name in imports(module):
        if name.split(".")[0] == "crosscope":
            yield name.split(".")[1:]


INSIDE = [module for module in MODULES if parts_of(module)[0] in ROOMS]


def test_every_room_is_known() -> None:
    rooms = {parts_of(module)[0] for module in MODULES} - {"__init__", "__main__"}
    assert rooms == set(ROOMS)
    assert {parts_of(m)[1] for m in MODULES if parts_of(m)[0] == "data"} == {*DATA, "__init__"}
    inside = {module.stem for module in (SRC / "data" / "registration").glob("*.py")}
    assert inside == {*REGISTRATION, "__init__"}


@pytest.mark.parametrize("module", INSIDE, ids=name_of)
def test_imports_point_up_the_listing(module: Path) -> None:
    room = parts_of(module)[0]
    allowed = {"optics": ["data", "optics"]}.get(room, ROOMS[: ROOMS.index(room) + 1])
    if room == "terminal":  # public names only, and itself
        allowed = ["terminal"]
    for imported in own_imports(module):
        assert not imported or imported[0] in allowed, f"{name_of(module)} imports {imported}"


@pytest.mark.parametrize(
    "module",
    [m for m in INSIDE if parts_of(m)[:1] == ("data",) and m.stem != "__init__"],
    ids=name_of,
)
def test_imports_point_up_inside_data(module: Path) -> None:
    _, own, *deeper = parts_of(module)
    for _, imported, *names in own_imports(module):
        if own == imported == "registration":
            order = REGISTRATION.index(names[0]), REGISTRATION.index(deeper[0])
        else:
            order = DATA.index(imported), DATA.index(own)
        assert order[0] < order[1], f"{module.name} imports {imported} {names}"


@pytest.mark.parametrize("module", [m for m in INSIDE if parts_of(m)[0] in NO_TORCH], ids=name_of)
def test_rooms_for_numpy_import_no_torch(module: Path) -> None:
    assert not [name for name in imports(module) if re.match(r"torch|safetensors", name)]


def test_the_command_line_uses_public_names_only() -> None:
    for module in (SRC / "terminal").glob("*.py"):
        used = re.findall(r"\bcs\.(\w+)", module.read_text())
        assert set(used) <= set(cs.__all__), module.name


BANNED_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "os.system", "yaml.load"}
BANNED_METHODS = {"extractall", "extract", "popen"}
BANNED_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml", "subprocess"}
BANNED_IMPORTS |= {"socket", "urllib", "http", "requests", "httpx", "ftplib", "aiohttp"}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_nothing_executes_data_or_asks_the_network(module: Path) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & BANNED_IMPORTS
    for node in ast.walk(ast.parse(module.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in BANNED_CALLS, f"{module.name}:{node.lineno} calls {called}"
        assert called.split(".")[-1] not in BANNED_METHODS, f"{module.name}:{node.lineno}"
        for keyword in node.keywords:
            if keyword.arg in ("allow_pickle", "shell"):
                assert ast.unparse(keyword.value) == "False", f"{module.name}:{node.lineno}"


def test_the_names_for_type_checkers_are_those_that_are_there() -> None:
    tree = ast.parse((SRC / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    typed = {
        alias.name: (node.module or "").removeprefix("crosscope.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == cs._HOME_OF
    assert sorted(cs.__all__) == sorted(set(cs.__all__))


@pytest.mark.parametrize("name", sorted(cs.__all__))
def test_public_names_are_documented(name: str) -> None:
    value = getattr(cs, name)
    assert name in dir(cs)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # what dataclass writes where there is none
    assert inspect.getmodule(value).__name__ == f"crosscope.{cs._HOME_OF[name]}"  # type: ignore[union-attr]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cs.nonsense


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_every_module_says_what_it_is(module: Path) -> None:
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree)
    assert "from __future__ import annotations" not in module.read_text()


def python(code: str, *arguments: str | Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import crosscope",
        "import crosscope.terminal",
        "import crosscope as cs; cs.read_image, cs.register, cs.simulate",
        "from typer.testing import CliRunner; from crosscope.terminal.commands import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_torch_comes_with_the_verb_that_needs_it(code: str) -> None:
    loaded = python(f"{code}\nimport sys; print('torch' in sys.modules)")
    assert loaded.split()[-1] == "False"


OFFLINE = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("the network was asked")
class Refused(socket.socket):
    def __init__(self, family=-1, *rest, **more):
        assert family == socket.AF_UNIX, "the network was asked"
        super().__init__(family, *rest, **more)
socket.socket, socket.create_connection, socket.getaddrinfo = Refused, refuse, refuse
import numpy as np
import crosscope as cs
from crosscope.data.sampling import Scaling
from crosscope.model.generator import build_generator
from crosscope.model.reach import Reach
model = cs.Model("fast", 2, build_generator("fast", 2), None, Scaling(0.0, 1.0), Scaling(0.0, 1.0),
    (30.0, 30.0), (30.0, 30.0), Reach(64, 8, 8)).save(sys.argv[1] + "/model.zip")
model = cs.Model.load(sys.argv[1] + "/model.zip")
image = cs.Image(np.ones((16, 16), np.uint16), "yx", (30.0, 30.0))
print(cs.predict(model, image, plan=cs.PredictionPlan(threads=1, precision="float32")).pixels.shape)
"""


def test_the_network_is_never_asked(tmp_path: Path) -> None:
    assert python(OFFLINE, tmp_path) == "(16, 16)\n"


# --- README ---------------------------------------------------------------------------------------


def test_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().split("src/crosscope/\n")[1].split("```")[0]
    named = re.findall(r"^ +(\w+\.py) ", tree, flags=re.MULTILINE)
    there = [module.name for module in MODULES if module.name not in ("__init__.py", "__main__.py")]
    assert sorted(name for name in named if name != "__init__.py") == sorted(there)


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_pythons_lines_of_the_readme_use_names_that_exist() -> None:
    for block in [*blocks("python"), inspect.getdoc(cs) or ""]:
        for name in re.findall(r"\bcs\.(\w+)", block):
            assert hasattr(cs, name), name
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and re.fullmatch(r"cs\.\w+", ast.unparse(node.func)):
                given = [None] * len(node.args)
                keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                inspect.signature(getattr(cs, ast.unparse(node.func)[3:])).bind(*given, **keywords)


def examples() -> list[str]:
    """Return the commands of the README's shell blocks and of every command's help."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    helps = (command.help or "" for command in group.commands.values())
    lines = [line for text in helps for line in re.findall(r"Example: (crosscope .*)", text)]
    shell = "\n".join(blocks("sh") + blocks("bash") + blocks("console")).replace("\\\n", " ")
    return lines + re.findall(r"^\s*(?:\$ )?(crosscope .*)$", shell, flags=re.MULTILINE)


@pytest.mark.parametrize("line", examples())
def test_commands_that_are_shown_can_be_parsed(line: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    _, name, *arguments = shlex.split(line, comments=True)
    if not name.startswith("-"):
        group.commands[name].make_context(name, arguments)
