"""States of trainings on disk: tensors, numbers, texts, and lists and dicts of them, read without running code."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from ..reporting.results_folder import written_whole


class CheckpointError(ValueError):
    """A file from which a training cannot go on, with a message of one line.

    Examples
    --------
    >>> from hbode.training import CheckpointError
    >>> issubclass(CheckpointError, RuntimeError) or issubclass(CheckpointError, ValueError)
    True
    """


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state: the file is at once whole or not there."""
    with written_whole(path) as part:
        torch.save(dict(state), part)


def read_state(path: Path, names: Collection[str]) -> dict[str, Any] | None:
    """Return what `write_state` wrote, on the CPU; None where there is nothing.

    Parameters
    ----------
    path
        The file.
    names
        What the state must have.

    Raises
    ------
    CheckpointError
        For a file that is not whole, or of something else.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = set(names) - set(state)
    except Exception as error:
        raise CheckpointError(f"{path}: no training that goes on can be read from it ({error}); remove it") from None
    if missing:
        raise CheckpointError(f"{path}: not a training of this version of hbode; remove it")
    return state


def check_same(path: Path, found: Mapping[str, Mapping[str, str]], wanted: Mapping[str, Mapping[str, str]]) -> None:
    """Raise unless a checkpoint is of the training that is wanted.

    Parameters
    ----------
    path
        The file.
    found, wanted
        What decides what a training does: by kind, then by name, in words.

    Raises
    ------
    CheckpointError
        Naming what differs.
    """
    for kind, mine in wanted.items():
        theirs = found[kind]
        for name in {**mine, **theirs}:
            if mine.get(name) != theirs.get(name):
                raise CheckpointError(
                    f"{path}: is of another training: {kind} {name!r} is {theirs.get(name)} there and {mine.get(name)} "
                    "here; remove it, or name another file"
                )
