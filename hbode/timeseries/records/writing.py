"""Tables that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...lazy import optional
from .run import DataError

if TYPE_CHECKING:
    import pandas as pd


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, ``.csv`` or ``.csv.gz``, or as Parquet; all of it or nothing."""
    name = path.name.lower()
    if not name.endswith((".csv", ".csv.gz", ".parquet")):
        raise DataError(f"{path}: must end in .csv, .csv.gz or .parquet")
    part = path.with_name(f".{path.name}.part")
    try:
        if name.endswith(".parquet"):
            optional("pyarrow")
            frame.to_parquet(part, index=False)
        else:
            frame.to_csv(part, index=False, compression="gzip" if name.endswith(".gz") else None)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
