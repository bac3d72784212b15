"""The pages of the API reference, one for each public package, written from what the packages say themselves.

A package is public if neither its name nor that of a package above it starts with an underscore. Its public names are
those of its ``__all__`` but for those in its ``INTERNAL``, which rooms of the package share among themselves.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def packages(parent: str = "hbode") -> list[str]:
    """Return the names of the public packages, those above before those below."""
    found = [parent]
    for module in pkgutil.iter_modules(import_module(parent).__path__):
        if module.ispkg and not module.name.startswith("_"):
            found += packages(f"{parent}.{module.name}")
    return found


def public_names(package: str) -> list[str]:
    """Return the public names of a package."""
    module = import_module(package)
    internal = getattr(module, "INTERNAL", ())
    return sorted((name for name in getattr(module, "__all__", ()) if name not in internal), key=str.casefold)


def reference() -> dict[str, dict[str, Any]]:
    """Return all that is public, by package and name, each once: where a user comes by it first."""
    found: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    for package in sorted(packages(), key=lambda name: (name.count("."), name)):
        own = {name: getattr(import_module(package), name) for name in public_names(package)}
        own = {
            name: value for name, value in own.items() if id(value) not in seen and not isinstance(value, ModuleType)
        }
        seen |= {id(value) for value in own.values()}
        if own:
            found[package] = own
    return dict(sorted(found.items()))


def is_described(value: Any) -> bool:
    """Return whether a public value carries a docstring of its own: classes and functions do, constants do not."""
    return inspect.isclass(value) or inspect.isroutine(value)


def page(package: str, names: dict[str, Any]) -> str:
    """Return the page of a package, in reStructuredText."""
    lines = [package, "=" * len(package), "", f".. automodule:: {package}", "", f".. currentmodule:: {package}", ""]
    lines += [".. list-table::", "   :widths: auto", ""]
    known = links()
    for name, value in names.items():
        said = (inspect.getdoc(value) or "").split("\n")[0] if is_described(value) else _constant(value)
        lines += [f"   * - :obj:`~{package}.{name}`", f"     - {escaped(said, known)}"]
    lines.append("")
    for name, value in names.items():
        if inspect.isclass(value):
            lines += [f".. autoclass:: {name}", "   :members:", "   :show-inheritance:", ""]
        elif inspect.isroutine(value):
            lines += [f".. autofunction:: {name}", ""]
        else:
            lines += [f".. py:data:: {name}", "", f"   {_constant(value)}", ""]
    return "\n".join(lines)


def write(folder: Path) -> None:
    """Write all pages, and one that lists them, into a folder; what has not changed stays as it is."""
    folder.mkdir(exist_ok=True)
    found = reference()
    index = ["Reference", "=========", "", "Every public name, by the package it is imported from.", ""]
    index += [".. toctree::", "   :maxdepth: 1", "", *(f"   {package}" for package in found), ""]
    pages = {"index": "\n".join(index)} | {package: page(package, names) for package, names in found.items()}
    for stale in {path for path in folder.glob("*.rst") if path.stem not in pages}:
        stale.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _constant(value: Any) -> str:
    if isinstance(value, dict):
        return f"{len(value)} by name: " + ", ".join(f"``{key}``" for key in value) + "."
    if isinstance(value, tuple | list | set | frozenset):
        return ", ".join(f"``{entry}``" for entry in value) + "."
    return f"``{value!r}``" if isinstance(value, str | int | float) else f"A type: ``{value}``."


MARKUP = re.compile(r"(``.+?``|`[^`]+`)")
SPECIAL = re.compile(r"(?<!\\)([*|]|(?<=\w)_(?!\w))")


def escaped(line: str, links: dict[str, str] | None = None) -> str:
    """Return a line of a docstring in which only text between backticks is markup.

    What stands between single ones is a link if it is public, by its name or with its package, and code if it is not.
    """
    parts = MARKUP.split(line)
    parts[::2] = [SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
    for n in range(1, len(parts), 2):
        name = parts[n].strip("`")
        if not parts[n].startswith("``"):
            target = (links or {}).get(name)
            parts[n] = f"``{name}``" if target is None else f":py:obj:`{name} <{target}>`"
    return "".join(parts)


def links() -> dict[str, str]:
    """Return what a docstring may call a public name, and the whole of it; a name of two things is none."""
    found: dict[str, str | None] = {}
    for package, names in reference().items():
        for name in names:
            whole = f"{package}.{name}"
            found[whole] = whole
            found[name] = whole if name not in found else None
    return {name: whole for name, whole in found.items() if whole is not None}
