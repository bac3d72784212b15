"""Tables in text files: what separates the cells, and how numbers are written."""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ...lazy import optional
from .run import DataError

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
MISSING = ("", "nan", "-nan", "na", "n/a", "#n/a", "null", "none")
"""Cells that are missing values, in lower case."""


def _number(decimal: str, thousands: str) -> str:
    """Return the pattern of a number; thousands may be apart where there is no exponent."""
    whole = rf"(?:\d+|[1-9]\d{{0,2}}(?:{thousands}\d{{3}})+)"
    plain = rf"(?:\d+{decimal}?\d*|{decimal}\d+)"
    return rf"^[+-]?(?:{whole}(?:{decimal}\d*)?|{plain}(?:[eE][+-]?\d+)?)$"


NUMBER = {".": _number(r"\.", ","), ",": _number(",", r"\.")}
"""By the decimal mark."""


def text_table(text: str, delimiter: str | None, decimal: str | None) -> pd.DataFrame:
    """Read a header and rows of cells; columns of numbers, of true and false, and of text.

    Parameters
    ----------
    text
        Of the file.
    delimiter, decimal
        One character each; None: the one that the file leaves no doubt about.

    Raises
    ------
    DataError
        For an empty file, no header, a row of another number of cells than the header, and for delimiters and numbers
        that can be read in two ways.
    """
    head = [line for line in text[:1_000_000].split("\n", 40)[:40] if line.strip()]
    if not head:
        raise DataError("is empty")
    delimiter = delimiter or _delimiter(head)
    header = [name.strip() for name in next(csv.reader([head[0]], delimiter=delimiter))]
    arrow, compute = optional("pyarrow"), optional("pyarrow.compute")
    table, surplus = _cells(arrow, text, delimiter, header)
    if surplus is not None:
        number, cells = surplus
        raise DataError(
            f"line {line_of(text, number - 1)}: {cells} cells where the header has {len(header)}, split at "
            f"{DELIMITERS.get(delimiter, repr(delimiter))}"
        )
    nulls = arrow.array(MISSING)
    columns = []
    for i in range(len(header)):
        cells = compute.utf8_trim_whitespace(table.column(i).slice(1))
        missing = compute.is_in(compute.utf8_lower(cells), nulls)
        columns.append(compute.if_else(missing, arrow.scalar(None, arrow.string()), cells))
    named = [name for name in header if name]
    if named and all(re.fullmatch(NUMBER["."], name) or re.fullmatch(NUMBER[","], name) for name in named):
        raise DataError("the first line must be a header with the names of the columns")
    if not table.num_rows - 1:
        raise DataError("no rows after the header")
    if decimal is None:
        # A comma can only be in a cell of a comma-separated file that is in quotes.
        quoted = delimiter != "," or '"' in text[len(head[0]) :]
        decimal = _decimal(compute, header, columns, delimiter) if quoted else "."
    pandas = optional("pandas")
    frame = pandas.DataFrame({i: _typed(arrow, compute, cells, decimal) for i, cells in enumerate(columns)})
    frame.columns = header
    return frame


def line_of(text: str, row: int) -> int:
    """Return the line, counted from 1, of a row, counted from 0 for the header; empty lines are no rows."""
    full = (i for i, line in enumerate(text.split("\n"), 1) if line.strip("\r"))
    return next(i for n, i in enumerate(full) if n == row)


def _delimiter(head: list[str]) -> str:
    """Return the delimiter that cuts the first lines into equally many cells, or the only one in the header."""
    cells = {d: [len(row) for row in csv.reader(head, delimiter=d)] for d in DELIMITERS}
    cuts = [d for d in DELIMITERS if cells[d][0] > 1]
    even = [d for d in cuts if len(set(cells[d])) == 1] or cuts
    if len(even) > 1:
        raise DataError(f"cells may be split at {' or '.join(DELIMITERS[d] for d in even)}: say which by delimiter=")
    return even[0] if even else ","


def _cells(arrow: Any, text: str, delimiter: str, header: list[str]) -> tuple[Any, tuple[int, int] | None]:
    """Return all rows as text, the header first, and the first row that does not fit with its number of cells."""
    surplus: list[tuple[int, int]] = []

    def odd(row: Any) -> str:
        if not surplus:
            surplus.append((row.number, row.actual_columns))
        return "skip"

    of = optional("pyarrow.csv")
    try:
        table = of.read_csv(
            io.BytesIO(text.encode()),
            of.ReadOptions(use_threads=False, autogenerate_column_names=True),  # threads would not know row numbers
            of.ParseOptions(delimiter=delimiter, invalid_row_handler=odd),
            of.ConvertOptions(column_types={f"f{i}": arrow.string() for i in range(len(header))}),
        )
    except arrow.ArrowInvalid as error:
        raise DataError(f"cannot be read as CSV ({error})") from None
    return table, surplus[0] if surplus else None


def _decimal(compute: Any, header: list[str], columns: list[Any], delimiter: str) -> str:
    """Return the decimal mark that the numbers leave no doubt about."""
    only: dict[str, str] = {}
    unclear: dict[str, tuple[str, str]] = {}
    for name, cells in zip(header, columns, strict=True):
        fits = [mark for mark in NUMBER if compute.all(compute.match_substring_regex(cells, NUMBER[mark])).as_py()]
        if len(fits) == 1:
            only.setdefault(fits[0], name)
        elif fits:
            for mark in NUMBER:
                marked = cells.filter(compute.match_substring(cells, mark))
                if len(marked):
                    unclear.setdefault(mark, (name, marked[0].as_py()))
    if len(only) == 2:
        raise DataError(f"numbers of {only['.']!r} have decimal points, of {only[',']!r} commas: say which by decimal=")
    if only:
        return next(iter(only))
    # A point is the decimal mark of all formats but those that avoid the comma between cells.
    if "," in unclear or ("." in unclear and delimiter == ";"):
        name, cell = unclear.get(",") or unclear["."]
        raise DataError(f"column {name!r}: {cell!r} can be read in two ways; say which by decimal='.' or decimal=','")
    return "."


def _typed(arrow: Any, compute: Any, cells: Any, decimal: str) -> Any:
    """Return a column as numbers, as true and false, or as text in which numbers have decimal points."""
    thousands = "," if decimal == "." else "."
    plain = compute.replace_substring(compute.replace_substring(cells, thousands, ""), decimal, ".")
    grouped = compute.any(compute.match_substring(cells, thousands)).as_py()
    good = compute.match_substring_regex(cells, NUMBER[decimal]) if grouped else None
    if good is None or compute.all(good).as_py():
        with suppress(arrow.ArrowInvalid):
            numbers = compute.cast(plain, arrow.float64()).to_numpy()
            if (np.abs(numbers) >= 2**53).any() and not cells.null_count:
                with suppress(arrow.ArrowInvalid):  # nanoseconds since 1970 are whole numbers, but no doubles
                    return compute.cast(plain, arrow.int64()).to_numpy()
            return numbers
    lower = compute.utf8_lower(cells)
    if not cells.null_count and compute.all(compute.is_in(lower, arrow.array(["true", "false"]))).as_py():
        return compute.equal(lower, "true").to_numpy()
    good = compute.match_substring_regex(cells, NUMBER[decimal])
    return compute.if_else(good, plain, cells).to_pandas().astype(object)
