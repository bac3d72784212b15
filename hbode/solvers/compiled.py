"""Functions compiled whole, one cache for each method, and a reason where that fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])
VARIANTS = 64
"""For how many networks, shapes and settings a method may be compiled in one process."""


class CannotCompileError(Exception):
    """What was to be compiled does not compile; the message says what broke the graph."""

    def __init__(self, reason: str, repeated: bool = False) -> None:
        super().__init__(reason)
        self.repeated = repeated
        """Whether the same was said before."""


@cache
def compiled(function: F, key: object, device: str) -> F:
    """Return a function compiled whole; those of different keys share no cache.

    It raises `CannotCompileError` where that fails, and does not try again. On a CPU the code that calls the kernels
    is C++ too: in Python these calls would be most of a small step.
    """
    if not isinstance(function, FunctionType):
        raise TypeError(f"function must be a plain function, got {type(function).__name__}")
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    options: dict[str, str | int | bool | Callable[..., Any]] = {"cpp_wrapper": True} if device == "cpu" else {}
    fast = torch.compile(own, fullgraph=True, dynamic=False, options=options)

    broken: list[str] = []

    def run(*args: Any) -> Any:
        if broken:
            raise CannotCompileError(broken[0], repeated=True)
        try:
            with torch._dynamo.config.patch(recompile_limit=VARIANTS):
                return fast(*args)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            broken.append(_reason(str(error)))
            raise CannotCompileError(broken[0]) from error

    return cast(F, run)


def _reason(text: str) -> str:
    """Return what the compiler says broke the graph, and the line of the field where it did."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("Explanation:")), lines[0] if lines else "no reason given")
    said = said.removeprefix("Explanation:").strip()
    places = [i for i, line in enumerate(lines) if line.startswith("File ")]
    if not places or "from user code:" not in lines:
        return said
    at = places[-1]
    code = f": {lines[at + 1]}" if at + 1 < len(lines) else ""
    return f"{said} ({lines[at]}{code})"
