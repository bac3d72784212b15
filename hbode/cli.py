"""The `hbode` command."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

from .commands import completion, demo, diagnose, fit, forecast, reproduce, simulate
from .commands.loading import LoadError
from .progress.jobs import LOGGER
from .reporting.results_folder import OutputError
from .timeseries import DataError, MissingExtra
from .training import CheckpointError
from .version import __version__


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 1 for a failed run, 2 for bad input, 130 for an interrupt."""
    started = time.perf_counter()
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    before = LOGGER.level
    LOGGER.setLevel(logging.ERROR if arguments.quiet else logging.INFO)
    try:
        arguments.run(arguments, started)
    except (CheckpointError, DataError, LoadError, MissingExtra, OutputError) as error:
        return _complain(arguments, error, 2)
    except KeyboardInterrupt as interrupt:
        return _complain(arguments, str(interrupt) or "interrupted; nothing was written", 130)
    except RuntimeError as error:
        return _complain(arguments, error, 1)
    finally:
        LOGGER.setLevel(before)
    return 0


def _complain(arguments: argparse.Namespace, error: Exception | str, code: int) -> int:
    if arguments.verbose and isinstance(error, Exception):
        traceback.print_exception(error)
    print(f"hbode {arguments.command}: error: " + " ".join(str(error).split()), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hbode", description="Neural ODEs with heavy-ball (momentum) dynamics.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="command", dest="command", parser_class=_Parser)
    for command in (fit, simulate, forecast, demo, diagnose, reproduce, completion):
        command.add(commands)
    for one in commands.choices.values():
        said = one.add_mutually_exclusive_group()
        said.add_argument("--quiet", action="store_true", help="show no progress, results alone")
        said.add_argument("--verbose", action="store_true", help="say where an error was raised, with all callers")
    return parser
