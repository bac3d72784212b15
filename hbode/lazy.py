"""What loads when it is first asked for: libraries of the optional extras, and packages below a package."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class MissingExtra(ImportError):
    """An optional library that is not installed, with a message that names the extra.

    Examples
    --------
    >>> from hbode.timeseries import MissingExtra
    >>> issubclass(MissingExtra, ImportError)
    True
    """


def optional(name: str) -> Any:
    """Import a library of the extra ``hbode[timeseries]``."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f"this needs {name.partition('.')[0]}: pip install 'hbode[timeseries]'") from error


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
