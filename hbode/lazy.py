"""Packages below a package, which load when they are first asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def submodule(package: str, name: str) -> ModuleType:
    """Return the module of that name in a package: for a module's ``__getattr__``, which is asked for what is missing.

    Raises
    ------
    AttributeError
        If there is none.
    """
    if name.startswith("_") or find_spec(f"{package}.{name}") is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return import_module(f"{package}.{name}")
