"""What holds for the project as a whole: layout, version, docstrings and the direction of imports."""

import ast
import dataclasses
import inspect
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import hbode

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hbode"

# Each layer may import the layers before it; rooms of one layer do not import each other. A new room is named here.
LAYERS = [
    {"solvers", "lazy", "version"},
    {"gradients", "progress"},
    {"systems", "output", "piecewise"},
    {"inputs"},
    {"setup"},
    {"solution"},
    {"reference"},
    {"integrate"},
    {"stochastic", "_compat"},
    {"compat"},
    {"reporting"},
    {"models", "analysis"},
    {"training"},
    {"timeseries"},
    {"clustering"},
    {"experiments"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}

# What a function may import when it is called: packages of the optional extras, and those that take long to load.
COMPILER = "torch._inductor"
"""A part of torch that is loaded where something is compiled."""
LATE = {"diffrax", "equinox", "importlib", "jax", "scipy", "torchdiffeq", "torchsde"}
ROOMS_OF_EXTRAS = (
    "hbode.training.lightning_engine",
    *(
        f"hbode.timeseries.{room}"
        for room in (
            "identification",
            "baselines",
            "simulation",
            "forecasting",
            "demo.figure",
            "demo.identify",
            "demo.systems",
        )
    ),
)
"""They need libraries of hbode[timeseries] or hbode[train]; others import them where they are used."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def targets(node: ast.Import | ast.ImportFrom, module: str) -> set[str]:
    """Full names of the modules that an import statement in `module` asks for."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    base = node.module or ""
    if node.level:
        package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        base = f"{package}.{base}".rstrip(".")
    names = {f"{base}.{alias.name}" for alias in node.names}
    return {name if name in SOURCES else base for name in names}


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Line and target of every import statement in `module`, at any depth."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in sorted(targets(node, module)):
                yield node.lineno, target


def room(module: str) -> str:
    """First name below `hbode`; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("name", ["solvers", "analysis"])
def test_root_link(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert os.readlink(link) == f"hbode/{name}"
    assert link.resolve() == PACKAGE / name
    assert link.is_dir()


def test_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_version() -> None:
    """It is in one place of the package, beside the citation and the changelog."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (
        project["project"]["dynamic"] == ["version"]
        and project["tool"]["hatch"]["version"]["path"] == "hbode/version.py"
    )
    assert f"version: {hbode.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"## [{hbode.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_public_names_exist_once() -> None:
    assert len(set(hbode.__all__)) == len(hbode.__all__)
    assert [name for name in hbode.__all__ if not hasattr(hbode, name)] == []


@pytest.mark.parametrize("name", hbode.__all__)
def test_public_name_has_docstring(name: str) -> None:
    value = getattr(hbode, name)
    if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
        return  # a constant, such as __version__
    doc = (value.__doc__ or "").strip()
    assert doc, f"hbode.{name} has no docstring"
    generated = dataclasses.is_dataclass(value) and doc.startswith(f"{name}(")
    assert not generated, f"hbode.{name} has only the docstring that @dataclass generates"


def test_every_room_has_its_place() -> None:
    rooms = {room(module) for module in SOURCES} - {""}
    assert rooms - RANK.keys() == set(), "name the new room in LAYERS"


def test_imports_point_one_way() -> None:
    wrong = []
    for module in SOURCES:
        here = room(module)
        if here not in RANK:
            continue  # hbode/__init__.py gathers the public names
        for line, target in imports(module):
            if target.split(".")[0] != "hbode":
                continue
            there = room(target)
            if not there:
                allowed = RANK[here] >= RANK["cli"]  # the package as a whole is for its outermost layers
            else:
                lower = RANK.get(there, len(LAYERS)) < RANK[here]
                allowed = lower or here == there
            if not allowed:
                wrong.append(f"{SOURCES[module].relative_to(ROOT)}:{line} imports {target}")
    assert wrong == []


def test_no_import_cycle() -> None:
    graph = {
        module: {target for _, target in imports(module) if target in SOURCES and target != module}
        for module in SOURCES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail("import cycle: " + " -> ".join([*path[path.index(module) :], module]))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", SOURCES)
def test_no_import_inside_function(module: str) -> None:
    found = [
        f"line {node.lineno}: {target}"
        for function in ast.walk(TREES[module])
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for target in sorted(targets(node, module))
        if target.split(".")[0] not in LATE
        and not target.startswith(COMPILER)
        and not any(target.startswith(room) and not module.startswith(room) for room in ROOMS_OF_EXTRAS)
    ]
    assert found == []


@pytest.mark.parametrize("module", SOURCES)
def test_no_assert(module: str) -> None:
    found = [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, ast.Assert)]
    assert found == [], "raise an error that names the argument and the remedy"


def test_import_is_light() -> None:
    """Of what takes as long to load as torch does, nothing is loaded before it is used."""
    code = "import sys, hbode; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert not {"scipy", "torchdiffeq", "torchsde", "matplotlib", "pandas"} & set(result.stdout.split())


def test_import_needs_no_network() -> None:
    program = """
import sys

def refuse(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"}:
        raise RuntimeError(f"network use at import: {event} {arguments}")

sys.addaudithook(refuse)
import hbode
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
