"""Libraries of the optional extras, which load where they are used."""

from __future__ import annotations

import importlib
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
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(f"this needs {name.partition('.')[0]}: pip install 'hbode[timeseries]'") from error
