"""Trainings by gradients under way, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....training.checkpoint import CheckpointError, read_state, write_state
from ...records import DataError

NAMES = ("model", "optimizer", "train", "validation", "best", "kept", "since", "failed")

write_training = write_state


def read_training(path: Path) -> dict[str, Any] | None:
    """Return what `write_training` wrote; None where there is nothing.

    Raises
    ------
    DataError
        For a file that is not whole, or none of these.
    """
    try:
        return read_state(path, NAMES)
    except CheckpointError as error:
        raise DataError(str(error)) from None
