"""Records from files as people have them: text tables, Parquet, numpy archives."""

from __future__ import annotations

import codecs
import csv
import gzip
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...lazy import optional
from .columns import RATE_NAMES
from .container import Records
from .run import DataError
from .text_tables import line_of, text_table

if TYPE_CHECKING:
    import pandas as pd


def read_records(
    path: str | Path,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    *,
    time: str | None = None,
    run: str | None = None,
    columns: Sequence[str] | None = None,
    rate: float | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str = "utf-8-sig",
) -> Records:
    """Read the runs of a file.

    Parameters
    ----------
    path
        Parquet, ``.parquet``; a numpy archive, ``.npz``, see Notes; any other file is text: a header with the names
        of the columns, then rows, ``.gz`` or not.
    outputs, inputs, time, run, columns, rate
        See `Records.from_frame`.
    delimiter, decimal, encoding
        Of text. Default: comma, semicolon, tab or bar, and decimal point or comma, where the file leaves no doubt;
        UTF-8. Thousands may be apart by the mark that is not the decimal one.

    Raises
    ------
    DataError
        If the file cannot be read, or a reading would be a guess. One line that names the file, the column and the
        line, or the row counted from 0.
    ImportError
        Without pandas and pyarrow, the extra ``hbode[timeseries]``.

    Notes
    -----
    Arrays of an ``.npz`` file have shape (T,), or (T, C) for channels ``name[0]``, ``name[1]``, …; a number called
    ``fs`` or ``fs_Hz`` is the rate. `run` may name an array of the lengths of the runs. Objects are not unpickled.

    Examples
    --------
    >>> from hbode.timeseries import read_records
    >>> with open("pump.csv", "w") as file:
    ...     _ = file.write("time_s,voltage,level\\n0,1,2.5\\n1,1,2.75\\n")
    >>> records = read_records("pump.csv", outputs=["level"], inputs=["voltage"])
    >>> records[0].y.tolist()
    [[2.5], [2.75]]
    """
    path = Path(path)
    place: Callable[[int], str] = "row {}".format
    try:
        if not path.exists():
            raise DataError("no such file")
        if path.is_dir():
            raise DataError("is a folder, not a file")
        if path.suffix.lower() == ".npz":
            frame, outputs, inputs, rate = _archive(path, outputs, inputs, run, rate)
        elif path.suffix.lower() in (".parquet", ".pq"):
            optional("pyarrow")
            frame = optional("pandas").read_parquet(path)
        else:
            _check_encoding(encoding)
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).decode(encoding)
            frame = text_table(text, delimiter, decimal)
            place = partial(_line, text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read as text in {encoding} ({error.reason}); name its encoding=") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, csv.Error, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    return Records.from_frame(
        frame, outputs, inputs, time=time, run=run, columns=columns, rate=rate, source=path.name, where=place
    )


def _check_encoding(encoding: str) -> None:
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise DataError(f"encoding must be one that Python knows, such as 'latin-1', got {encoding!r}") from None


def _line(text: str, row: int) -> str:
    return f"line {line_of(text, row + 1)}"


def _archive(
    path: Path, outputs: Sequence[str] | None, inputs: Sequence[str], run: str | None, rate: float | None
) -> tuple[pd.DataFrame, Sequence[str] | None, Sequence[str], float | None]:
    """Return the arrays that have as many rows as the outputs as columns, their names as such, and the rate."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    there = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
    for name in (*(outputs or ()), *inputs, *([run] if run else [])):
        if name not in arrays and name.partition("[")[0] not in arrays:
            raise DataError(f"no array {name!r}; there are {there}")
    lengths = {len(x) for name, x in arrays.items() if x.ndim and name != run}
    rows = len(arrays[outputs[0].partition("[")[0]]) if outputs else max(lengths, default=0)
    if not outputs and len(lengths) != 1:
        raise DataError(f"arrays of several lengths, name the outputs (and inputs) among {there}")
    columns: dict[str, Any] = {}
    parts: dict[str, list[str]] = {}
    for name, x in arrays.items():
        if name == run and x.ndim == 1 and len(x) != rows and x.dtype.kind in "iu" and x.sum() == rows:
            x = np.repeat(np.arange(len(x)), x)
        if not x.ndim or len(x) != rows:
            continue
        if x.ndim > 2:
            if outputs and name not in (*outputs, *inputs):
                continue
            raise DataError(
                f"array {name} must have shape (T,) or (T, C), got {x.shape}; Records.from_arrays takes runs"
            )
        new = {name: x} if x.ndim == 1 else {f"{name}[{i}]": x[:, i] for i in range(x.shape[1])}
        parts[name] = list(new)
        columns |= new
    if rate is None:
        rate = next((float(x) for name, x in arrays.items() if x.ndim == 0 and name.lower() in RATE_NAMES), None)

    def spread(names: Sequence[str]) -> list[str]:
        return [part for name in names for part in parts.get(name, [name])]

    frame = optional("pandas").DataFrame(columns)
    return frame, None if outputs is None else spread(outputs), spread(inputs), rate
