"""What solves are to `torch.compile` and `torch.export`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that compiled code calls as it is: its steps depend on what it computes, and make no graph.

    `torch.compile` breaks the graph at the call, and again for nothing within. `torch.compiler.disable` would do, but
    loads the compiler, which takes as long as the rest of torch, where nobody compiles.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_exporting():
            raise RuntimeError(
                f"{function.__name__} cannot be exported: its steps depend on what it computes. Export the field, "
                "or a loop of fixed steps of your own"
            )
        if torch.compiler.is_compiling():
            return cast(Callable[P, R], torch.compiler.disable(function))(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def subject(f: Callable[..., Any]) -> object:
    """Return what stands for a field when it is compiled: a function made anew has the same code."""
    return f if isinstance(f, torch.nn.Module) else getattr(f, "__code__", type(f))
