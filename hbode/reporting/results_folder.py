"""A results folder, or a file, that is either whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OutputError(ValueError):
    """A place where results cannot be written, with a message of one line."""


@contextmanager
def results_in(target: Path, made_by: str, numbers: str) -> Iterator[Path]:
    """Give a folder to fill beside its target, which it takes the place of when all went well.

    If the block raises, nothing is left behind and a former result stays as it was. A former result, which is known by
    an entry "made_by" of its JSON file, is replaced; any other folder that is not empty is refused.

    Parameters
    ----------
    target
        Where the results shall be.
    made_by
        The command, the entry "made_by" of its results.
    numbers
        Name of the JSON file.

    Raises
    ------
    OutputError
        On entering, if the target is refused or cannot be written.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target}: exists and is not a folder")
    if target.is_dir() and any(target.iterdir()) and not _is_by(made_by, target / numbers):
        raise OutputError(f"{target}: holds files that `{made_by}` did not write; name another folder with --out")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        part.chmod(0o755)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror})") from None
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    former = part.with_suffix(".old")
    if target.exists():
        os.rename(target, former)
    os.rename(part, target)
    shutil.rmtree(former, ignore_errors=True)


def _is_by(made_by: str, file: Path) -> bool:
    try:
        numbers = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(numbers, dict) and numbers.get("made_by") == made_by


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a file to write, which takes the place of `path` at the end: at once whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
