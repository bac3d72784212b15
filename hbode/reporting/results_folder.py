"""A results folder, or a file, that is either whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType


class OutputError(ValueError):
    """A place where results cannot be written, with a message of one line."""


class ResultsFolder:
    """A folder that is filled beside its target and renamed to it when all went well.

    Used as a context manager that returns the path to write to. If the block raises, nothing is left behind and
    a former result stays as it was. A former result, which is known by an entry "made_by" of its JSON file, is
    replaced; any other folder that is not empty is refused.

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

    def __init__(self, target: Path, made_by: str, numbers: str) -> None:
        self.target, self.made_by, self.numbers = target, made_by, numbers
        self.part = target

    def __enter__(self) -> Path:
        target = self.target
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise OutputError(f"{target}: exists and is not a folder")
        if target.is_dir() and any(target.iterdir()) and not self._is_ours():
            raise OutputError(
                f"{target}: holds files that `{self.made_by}` did not write; name another folder with --out"
            )
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
            self.part.chmod(0o755)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror})") from None
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            return
        former = self.part.with_suffix(".old")
        if self.target.exists():
            os.rename(self.target, former)
        os.rename(self.part, self.target)
        shutil.rmtree(former, ignore_errors=True)

    def _is_ours(self) -> bool:
        try:
            numbers = json.loads((self.target / self.numbers).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(numbers, dict) and numbers.get("made_by") == self.made_by


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
