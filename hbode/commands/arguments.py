"""What several commands read from the command line."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..training import TrainingSettings


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 4294967295, got {text!r}")
    return int(text)


def tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")
    return value


def device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {reason}") from None
    return text


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers that are no less."""

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, got {text!r}")
        return int(text)

    return whole


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def delimiter(text: str) -> str:
    character = text.replace("\\t", "\t")
    if len(character) != 1:
        raise argparse.ArgumentTypeError(f"must be one character, got {text!r}")
    return character


def row_range(text: str) -> slice:
    start, colon, stop = (part.strip() for part in text.partition(":"))
    whole = all(part == "" or (part.isascii() and part.isdigit()) for part in (start, stop))
    rows = slice(int(start) if start else None, int(stop) if stop else None) if whole and colon else None
    if rows is None or (rows.stop is not None and (rows.start or 0) >= rows.stop):
        raise argparse.ArgumentTypeError(f"must be rows A:B with A below B, such as 0:8000 or :8000, got {text!r}")
    return rows


def add_table(parser: Any) -> None:
    """Add how a file of measured data is read."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="CSV (also .gz), Parquet or .npz file")
    add("--time", metavar="COLUMN", help="the column of the times (default: the one that is called so)")
    add("--run", dest="runs", metavar="COLUMN", help="the column that says which run a row belongs to")
    add("--columns", type=names, metavar="A,B", help="the only columns that may be channels (default: all)")
    add("--rate", type=positive, metavar="HZ", help="samples per second of a file without times")
    add("--delimiter", type=delimiter, metavar="C", help=r"what separates the cells of a text file: , ; | or \t")
    add("--decimal", choices=(".", ","), help="decimal mark of a text file")
    add("--encoding", default="utf-8-sig", metavar="NAME", help="of a text file, such as latin-1 (default: UTF-8)")


def reading(a: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_table` added, as keywords of `read_records`."""
    table = ("time", "columns", "rate", "delimiter", "decimal", "encoding")
    return {name: getattr(a, name) for name in table} | {"run": a.runs}


def add_training(parser: Any) -> None:
    """Add how a model is trained; what is not given is left to the job."""
    add = parser.add_argument
    add("--epochs", type=positive_int, metavar="N", help="passes over the training data")
    add("--batch", type=positive_int, metavar="N", help="samples a step, over all devices")
    add("--learning-rate", type=positive, metavar="R", help="of the first step")
    add("--engine", choices=("plain", "lightning"), default="plain", help="what makes the steps (default: %(default)s)")
    add("--devices", type=positive_int, default=1, metavar="N", help="processes, or GPUs, that share each batch")


def training_settings(a: argparse.Namespace, default: TrainingSettings) -> TrainingSettings:
    """Return settings with what was given by the options of `add_training`."""
    given = {name: getattr(a, name) for name in ("epochs", "batch", "learning_rate")}
    return replace(default, **{name: value for name, value in given.items() if value is not None})


NOT_ASKED = ("command", "run", "out", "formats", "quiet", "verbose")
"""Of the arguments, what does not change the numbers of a report."""
