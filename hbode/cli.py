"""The `hbode` command."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from .commands import demo, diagnose, fit, forecast, reproduce, simulate
from .commands.loading import LoadError
from .reporting.results_folder import OutputError
from .timeseries import DataError, MissingExtra
from .training import CheckpointError


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 1 for a failed run, 2 for bad input, 130 for an interrupt."""
    started = time.perf_counter()
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments, started)
    except (CheckpointError, DataError, LoadError, MissingExtra, OutputError) as error:
        return _complain(arguments.command, error, 2)
    except KeyboardInterrupt as interrupt:
        return _complain(arguments.command, str(interrupt) or "interrupted; nothing was written", 130)
    except RuntimeError as error:
        return _complain(arguments.command, error, 1)
    return 0


def _complain(command: str, error: Exception | str, code: int) -> int:
    print(f"hbode {command}: error: " + " ".join(str(error).split()), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hbode", description="Neural ODEs with heavy-ball (momentum) dynamics.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command", parser_class=_Parser)
    for command in (fit, simulate, forecast, demo, diagnose, reproduce):
        command.add(commands)
    return parser
