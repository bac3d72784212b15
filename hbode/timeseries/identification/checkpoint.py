"""Trainings under way, on disk: tensors, numbers and lists of them, read without running code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..records import DataError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a file to write, which takes the place of `path` at the end: at once whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    yield part
    os.replace(part, path)


def write_training(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training."""
    with written_whole(path) as part:
        torch.save(state, part)


def read_training(path: Path) -> dict[str, Any] | None:
    """Return what `write_training` wrote; None where there is nothing.

    Raises
    ------
    DataError
        For a file that is not whole, or none of these.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        missing = {"model", "optimizer", "train", "validation", "best", "kept", "since", "failed"} - set(state)
    except Exception as error:
        raise DataError(f"{path}: no training that goes on can be read from it ({error}); remove it") from None
    if missing:
        raise DataError(f"{path}: not a training of this version of hbode; remove it")
    return state
