"""Functions compiled whole, one cache for each method, and a reason where that fails."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from types import CodeType, FunctionType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..warning import warn
from .thin_products import thin_products

F = TypeVar("F", bound=Callable[..., Any])
FROM_WRAPPER = "API call failed"
"""What errors of compiled code itself say: with torch 2.13 that of some networks asks for memory it has let go."""
VARIANTS = 64
"""For how many networks, shapes and settings a method may be compiled in one process."""


AGAIN = 3
"""How often the same field is compiled for the same shapes before that is worth a warning."""
_AGAIN = (
    f"compile=True: the same field has been compiled {AGAIN} times for the same shapes, which each time takes some ten "
    "seconds. Numbers that it closes over, holds or takes are part of the compiled code: pass those that change as "
    "tensors, through args= or as buffers of a module"
)


class CannotCompileError(Exception):
    """What was to be compiled does not compile; the message says what broke the graph."""

    def __init__(self, reason: str, repeated: bool = False) -> None:
        super().__init__(reason)
        self.repeated = repeated
        """Whether the same was said before."""


_BROKEN: WeakKeyDictionary[object, dict[object, str]] = WeakKeyDictionary()
_MADE: WeakKeyDictionary[object, Counter[object]] = WeakKeyDictionary()
_TOLD: set[object] = set()
LOGGER = logging.getLogger("hbode")


def compiled(function: F, key: Any, subject: Any, device: str, fused: bool = False) -> F:
    """Return a function compiled whole.

    A line on stderr, of the logger "hbode", says when it compiles and how long that took.
    It raises `CannotCompileError` where that fails, and for the same subject does not try again. It warns where it is
    compiled for the third time for a subject, and tensors of the same shapes: then some number must change. On a CPU
    the code that calls the kernels is C++ too: in Python these calls would be most of a small step.

    Parameters
    ----------
    function
        A plain function.
    key, subject
        What it is compiled for: functions of different keys share no cache, nor do those of subjects that are code
        objects, or modules of different classes.
    device
        Type of the device of the tensors.
    fused
        On a CPU: products of thin matrices as sums within other kernels, and tanh by exp, with absolute errors of one
        rounding and in half the time of the library's, whose errors are relative ones. Asked for where
        single roundings do not matter; blocks of steps with control have not been measured with it.
    """
    kind: Any = subject if isinstance(subject, CodeType | type) else type(subject)
    fast = _compile(function, key, kind, device, fused)
    place = (function, key, device)
    field = subject.co_name if isinstance(subject, CodeType) else type(subject).__name__
    what = f"the steps of {type(key).__name__} for {field} ({function.__name__})"

    def run(*args: Any) -> Any:
        broken = _BROKEN.setdefault(subject, {})
        if place in broken:
            raise CannotCompileError(broken[place], repeated=True)
        config = torch._dynamo.config
        limit, graphs = config.recompile_limit, _graphs()
        if (place, kind) not in _TOLD:
            _TOLD.add((place, kind))
            LOGGER.warning("compile=True: compiling %s; that takes some ten seconds, the first time only", what)
        began = time.perf_counter()
        config.recompile_limit = max(limit, VARIANTS)
        try:
            out = fast(*args)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            broken[place] = _reason(str(error))
            raise CannotCompileError(broken[place]) from error
        except RuntimeError as error:
            if FROM_WRAPPER not in str(error):
                raise
            broken[place] = f"the code that torch {torch.__version__} made of it fails ({str(error).splitlines()[0]})"
            raise CannotCompileError(broken[place]) from error
        finally:
            config.recompile_limit = limit
        if _graphs() > graphs:
            LOGGER.warning("compile=True: compiled %s in %.0f s", what, time.perf_counter() - began)
            made, case = _MADE.setdefault(subject, Counter()), (place, _shapes(args))
            made[case] += 1
            if made[case] == AGAIN:
                warn(_AGAIN, RuntimeWarning)
        return out

    return cast(F, run)


def _graphs() -> int:
    """Return how many graphs have been compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _shapes(item: Any) -> object:
    """Return the shapes and dtypes of the tensors in nested tuples."""
    if isinstance(item, Tensor):
        return item.shape, item.dtype
    return tuple(map(_shapes, item)) if isinstance(item, tuple) else None


@cache
def _compile(function: Callable[..., Any], key: Any, kind: Any, device: str, fused: bool) -> Callable[..., Any]:
    """Return a compiled copy of a function; the copy has a code object, hence a cache, of its own."""
    if not isinstance(function, FunctionType):
        raise TypeError(f"function must be a plain function, got {type(function).__name__}")
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    # Ordered for peak memory, a loop reuses memory that it has yet to read (torch 2.13, dopri5 with updates).
    options: dict[str, Any] = {"guard_filter_fn": _worth_guarding, "reorder_for_peak_memory": False}
    if device == "cpu":
        options |= {"cpp_wrapper": True, "cpp.min_chunk_size": 4096}
        if fused:
            options |= {"post_grad_custom_pre_pass": thin_products(), "cpp.use_decompose_tanh": True}
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


def _worth_guarding(entries: Sequence[Any]) -> list[bool]:
    """Return which of the conditions for compiled code are to be looked at in each call.

    Those on functions and constants of this package, of torch and of Python, and on the method, which the code is made
    for, always hold: half of all, and of what they cost.
    """
    return [_OURS.match(entry.name) is None for entry in entries]


_OURS = re.compile(
    r"""method\b|dict\(|__import__\('torch'\)|G\['(?!__import_|___unnamed)|G\['__import_(hbode|torch)_dot_"""
)


def _reason(text: str) -> str:
    """Return what the compiler says broke the graph, and the line of the field where it did."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("Explanation:")), lines[0] if lines else "no reason given")
    if said.endswith("raised:") and len(lines) > 1:
        said = lines[1]
    said = said.removeprefix("Explanation:").strip()
    places = [i for i, line in enumerate(lines) if line.startswith("File ")]
    if not places or "from user code:" not in lines:
        return said
    at = places[-1]
    code = f": {lines[at + 1]}" if at + 1 < len(lines) else ""
    return f"{said} ({lines[at]}{code})"
