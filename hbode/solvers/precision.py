"""The dtypes of a solve. In mixed precision the field runs, the arithmetic of the solver does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def kept_tensors() -> Iterator[None]:
    """Make tensors that outlive what they are made in: inference mode, a graph, or a transform of `torch.func`.

    Those made inside of `jacrev` or `vmap` are wrapped for it, and no compiled code takes them when it has ended.
    """
    with torch.inference_mode(False), torch.no_grad(), torch._C._DisableFuncTorch():
        yield


def real_dtype(y: Tensor) -> torch.dtype:
    """Return the dtype of the time and of the norms of a state `y`.

    As `y.dtype.to_real()` does, which Dynamo does not trace.
    """
    return y.detach().real.dtype if y.is_complex() else y.dtype


class Autocast(NamedTuple):
    """What `torch.autocast` was on one type of device when a solve was asked for."""

    device: str
    dtype: torch.dtype | None
    enabled: bool

    @classmethod
    def now(cls, device: str) -> Autocast:
        """Return what it is here and now."""
        enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return cls(device, torch.get_autocast_dtype(device) if enabled else None, enabled)

    def off(self) -> AbstractContextManager[Any]:
        """Return a context without it: sums over stages are matrix products, which it would do in low precision."""
        return torch.autocast(self.device, enabled=False) if self.enabled else nullcontext()

    def around(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return a function that runs in it wherever it is called, in a backward pass too.

        Without its cache of weights: one filled without a graph would be used where the graph is wanted.
        """
        if not self.enabled:
            return fn

        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with torch.autocast(self.device, self.dtype, cache_enabled=False):
                return fn(*args, **kwargs)

        return run
