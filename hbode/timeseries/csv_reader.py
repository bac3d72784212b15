"""Reading a record from a CSV file, with one clear line about whatever is wrong with it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from .records import Array, DataError
from .series import Series

TIME_NAMES = ("t", "time")
RATE_NAMES = ("fs",)


def read_csv(path: Path) -> Series:
    """Read a record: a header, then rows of numbers.

    A column named ``t`` or ``time`` holds the times; otherwise a column ``Fs`` holds, on its first row, the samples
    per second; otherwise the time unit is one sample. Units are read from names such as ``Force (N)`` and
    ``time [ms]``. Columns without any number, and empty trailing ones, are left out.

    Parameters
    ----------
    path
        Comma-separated, UTF-8 (with or without a byte-order mark).

    Raises
    ------
    DataError
        If the file cannot be read, holds no numeric column or no rows, a number is missing, NaN or infinite, or
        the times do not increase. The message names the line and the column.
    """
    lines, rows = _rows(path)
    header, body, lines = [name.strip() for name in rows[0]], rows[1:], lines[1:]
    if all(_number(cell) is not None for cell in header if cell) and any(header):
        raise DataError(f"{path}: the first line must be a header with the names of the columns")
    if not body:
        raise DataError(f"{path}: no rows after the header")
    names, units = zip(*(_name_and_unit(name) for name in header), strict=True)
    lowered = [name.lower() for name in names]
    rate_at = next((i for i, name in enumerate(lowered) if name in RATE_NAMES), None)
    rate = None if rate_at is None else _number(_cell(body[0], rate_at))
    if rate_at is not None and (rate is None or not np.isfinite(rate) or rate <= 0):
        raise DataError(f"{path}, line {lines[0]}: column {names[rate_at]!r} must hold a positive sampling rate")
    columns = {i: _column(path, lines, body, i, names[i]) for i in range(len(names)) if i != rate_at and names[i]}
    numeric = {i: column for i, column in columns.items() if column is not None}
    time_at = next((i for i in numeric if lowered[i] in TIME_NAMES), None)
    channels = [i for i in numeric if i != time_at]
    if not channels:
        raise DataError(f"{path}: no numeric column" + ("" if time_at is None else " beside the times"))
    if time_at is not None:
        t, unit = numeric[time_at], units[time_at] or "s"
        late = np.flatnonzero(np.diff(t) <= 0)
        if len(late):
            row = int(late[0]) + 1
            raise DataError(f"{path}, line {lines[row]}: times must increase, {t[row]:g} follows {t[row - 1]:g}")
    elif rate is not None:
        t, unit = np.arange(len(body)) / rate, "s"
    else:
        t, unit = np.arange(len(body), dtype=float), "sample"
    values = np.stack([numeric[i] for i in channels], 1)
    return Series(t, values, tuple(names[i] for i in channels), tuple(units[i] for i in channels), unit, path.name)


def _rows(path: Path) -> tuple[list[int], list[list[str]]]:
    """Return the rows that are not blank, and their line numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            numbered = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a CSV file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None
    if not numbered:
        raise DataError(f"{path}: is empty")
    return [line for line, _ in numbered], [row for _, row in numbered]


def _column(path: Path, lines: list[int], body: list[list[str]], index: int, name: str) -> Array | None:
    """Return a column as numbers, None where it holds no number at all."""
    numbers = [_number(_cell(row, index)) for row in body]
    if all(number is None for number in numbers):
        return None
    for line, row, number in zip(lines, body, numbers, strict=True):
        if number is None or not np.isfinite(number):
            cell = _cell(row, index)
            raise DataError(f"{path}, line {line}: column {name!r} must hold a finite number, got {cell!r}")
    return np.array(numbers, dtype=np.float64)


def _cell(row: list[str], index: int) -> str:
    return row[index].strip() if index < len(row) else ""


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _name_and_unit(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*?)\s*[(\[](.*)[)\]]", name)
    return (match[1], match[2].strip()) if match else (name, "")
