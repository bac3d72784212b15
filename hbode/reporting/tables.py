"""Numbers and tables of reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Columns = Mapping[str, Sequence[Any] | Tensor]
"""Columns of equal length, by name."""


def short(x: float | None) -> str:
    """Return a number with three digits, or a dash where there is none."""
    if x is None or math.isnan(x):
        return "–"
    if x == round(x) and abs(x) < 1e4:
        return f"{x:.0f}"
    if 1e3 <= abs(x) < 1e4:
        return f"{float(f'{x:.3g}'):.0f}"
    return f"{x:.3g}" if abs(x) >= 1e4 or abs(x) < 1e-3 else f"{x:#.3g}".rstrip(".")


def measured(middle: float, ends: Sequence[float]) -> str:
    """Return a measured number with the digits that the range of its repeats supports, two if there was but one."""
    if not math.isfinite(middle):
        return "–"
    apart = max(ends) - min(ends)
    digits = 2 if middle == 0 or apart <= 0 else min(max(1 + math.floor(math.log10(abs(middle) / apart)), 1), 3)
    return f"{float(f'{middle:.{digits}g}'):g}" if abs(middle) < 1e5 else f"{middle:.{digits - 1}e}"


def with_spread(middle: float, deviation: float) -> str:
    """Return a mean ± its standard deviation, which is given two digits, and the mean as many decimals."""
    if not 1e-3 <= deviation < 1e4:
        return f"{short(middle)} ± {short(deviation)}"
    decimals = max(1 - math.floor(math.log10(deviation)), 0)
    return f"{middle:.{decimals}f} ± {deviation:.{decimals}f}"


def plain(value: Any) -> Any:
    """Return a value in types of JSON; numbers that are not finite become None."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
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


def per_sample(t: Tensor, values: Mapping[str, Tensor]) -> Columns:
    """Return columns of values (T,) or (T, B) at times (T,) or (T, B): one row a time and sample."""
    shape = next(iter(values.values())).shape
    t = t if t.shape == shape else t.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    samples = {"sample": torch.arange(shape[1]).repeat(shape[0])} if len(shape) == 2 else {}
    return {"t": t.reshape(-1), **samples, **{name: x.reshape(-1) for name, x in values.items()}}
