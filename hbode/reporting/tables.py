"""Numbers and tables of reports."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def short(x: float | None) -> str:
    """Return a number with three digits, or a dash where there is none."""
    if x is None or math.isnan(x):
        return "–"
    if x == round(x) and abs(x) < 1e4:
        return f"{x:.0f}"
    return f"{x:.3g}" if abs(x) >= 1e4 or abs(x) < 1e-3 else f"{x:#.3g}".rstrip(".")


def plain(value: Any) -> Any:
    """Return a value in types of JSON; numbers that are not finite become None."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def median(values: Tensor | NDArray[Any]) -> float:
    """Return the median of the numbers that are finite, NaN if none are."""
    found = np.asarray(values.double().cpu() if isinstance(values, Tensor) else values)
    known = found[np.isfinite(found)]
    return float(np.median(known)) if known.size else math.nan


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table for a terminal: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown, the first row as its head; the first column to the left, the others to the right."""
    head, *rest = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "|---|" + "---:|" * (len(rows[0]) - 1), *rest])


def data_frame(columns: Mapping[str, Sequence[Any] | Tensor]) -> Any:
    """Return a `pandas.DataFrame`.

    Raises
    ------
    ImportError
        Without pandas, which is not a dependency.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError("to_dataframe needs pandas: pip install pandas") from error
    return pandas.DataFrame({k: v.cpu().numpy() if isinstance(v, Tensor) else list(v) for k, v in columns.items()})
