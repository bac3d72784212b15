"""States of one or several tensors, and the checks of a state, its tolerances and its times."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..solution import SolverError
from ..solvers.warning import warn

State = Tensor | tuple[Tensor, ...]


class ArgumentError(ValueError, AssertionError):
    """An argument with a value that is not allowed; an AssertionError too, which torchdiffeq raises for some.

    Examples
    --------
    >>> import torch
    >>> from hbode.compat import ArgumentError, odeint
    >>> try:
    ...     odeint(lambda t, y: -y, torch.ones(1), torch.zeros(2, 2))
    ... except ArgumentError as error:
    ...     print(isinstance(error, ValueError), isinstance(error, AssertionError))
    True True
    """


class ArgumentTypeError(TypeError, AssertionError):
    """An argument of a type that is not allowed; an AssertionError too, which torchdiffeq raises for some.

    Examples
    --------
    >>> from hbode.compat import ArgumentTypeError
    >>> issubclass(ArgumentTypeError, TypeError), issubclass(ArgumentTypeError, AssertionError)
    (True, True)
    """


class SolveError(SolverError, AssertionError):
    """A solve that did not reach its end; an AssertionError too, which is what torchdiffeq raises.

    Examples
    --------
    >>> from hbode import SolverError
    >>> from hbode.compat import SolveError
    >>> issubclass(SolveError, SolverError)
    True
    """


@dataclass(frozen=True)
class Layout:
    """How a state lies in the one tensor that is integrated: as it is, or a tuple's entries in one vector."""

    shapes: tuple[torch.Size, ...] | None

    @classmethod
    def of(cls, y0: Any) -> tuple[Layout, Tensor]:
        """Return the layout of a state, and the state in it."""
        parts = (y0,) if isinstance(y0, Tensor) else y0
        if not isinstance(parts, tuple) or not parts or not all(isinstance(part, Tensor) for part in parts):
            raise ArgumentTypeError(f"y0 must be a tensor or a tuple of tensors, got {kind(y0)}")
        for part in parts:
            if not (part.is_floating_point() or part.is_complex()):
                raise ArgumentTypeError(f"y0 must be floating or complex, got {part.dtype}")
        if isinstance(y0, Tensor):
            return cls(None), y0
        return cls(tuple(part.shape for part in parts)), torch.cat([part.reshape(-1) for part in parts])

    def split(self, y: Tensor) -> State:
        """Return the user's form of a state (*y), or of several, (n, *y)."""
        if self.shapes is None:
            return y
        parts = y.split([shape.numel() for shape in self.shapes], -1)
        return tuple(part.reshape((*y.shape[:-1], *shape)) for part, shape in zip(parts, self.shapes, strict=True))

    def join(self, out: Any, y: Tensor) -> Tensor:
        """Return what func gave for the state y, as one tensor of the shape and dtype of y."""
        if self.shapes is None:
            return fitted(out, y.shape, y)
        if not isinstance(out, tuple | list) or len(out) != len(self.shapes):
            raise ArgumentError(f"func must return a tuple of {len(self.shapes)} tensors as y0, got {kind(out)}")
        pieces = [fitted(o, shape, y).reshape(-1) for o, shape in zip(out, self.shapes, strict=True)]
        return torch.cat(pieces)

    def norm(self, given: Any) -> Callable[[Tensor], Tensor] | None:
        """Return the norm of the error: the given one, of the user's form of a state, or the default."""
        if given is not None and not callable(given):
            raise ArgumentTypeError(f"options['norm'] must be callable, got {kind(given)}")
        chosen: Callable[[Any], Tensor] | None = given or (None if self.shapes is None else mixed_norm)
        return None if chosen is None else lambda x: chosen(self.split(x))


def fitted(out: Any, shape: torch.Size, y: Tensor) -> Tensor:
    """Return a tensor that func gave, with a shape and the dtype of y."""
    if type(out) is Tensor and out.dtype == y.dtype and out.shape == shape:
        return out
    if not isinstance(out, Tensor):
        raise ArgumentTypeError(f"func must return tensors, got {kind(out)}")
    if out.is_complex() and not y.is_complex():
        raise ArgumentTypeError(f"func must return the dtype of y0, {y.dtype}, got {out.dtype}")
    if out.shape != shape:
        try:
            out = out.reshape(shape) if out.numel() == 1 == shape.numel() else out.expand(shape)
        except RuntimeError as error:
            raise ArgumentError(f"func must return the shape of y0, {tuple(shape)}, got {tuple(out.shape)}") from error
    cast: Tensor = out.to(y.dtype)
    return cast


def mixed_norm(parts: Sequence[Tensor]) -> Tensor:
    """Return the largest of the root-mean-square norms of the tensors."""
    return torch.stack([torch.linalg.vector_norm(x) / math.sqrt(max(x.numel(), 1)) for x in parts]).max()


def tolerance(name: str, tol: Any, layout: Layout, y: Tensor, state: str = "y0") -> float | Tensor:
    """Return a tolerance as a number, or as a float64 tensor that broadcasts to y; errors speak of the `state`."""
    if isinstance(tol, int | float):
        return float(tol)
    entries = tol if isinstance(tol, tuple | list) else (tol,)
    if any(isinstance(entry, Tensor) and entry.requires_grad for entry in entries):
        raise ArgumentError(f"{name} must not require a gradient")
    try:
        if layout.shapes is not None and (isinstance(tol, tuple | list) or (isinstance(tol, Tensor) and tol.ndim)):
            if len(tol) != len(layout.shapes):
                count = len(layout.shapes)
                raise ArgumentError(
                    f"{name} must have one entry for each of the {count} tensors of {state}, got {len(tol)}"
                )
            flat = []
            for entry, shape in zip(tol, layout.shapes, strict=True):
                part = torch.as_tensor(entry, dtype=torch.float64, device=y.device)
                flat.append(part.expand(shape if part.ndim > 1 else (shape.numel(),)).reshape(-1))
            return torch.cat(flat)
        whole = torch.as_tensor(tol, dtype=torch.float64, device=y.device)
        return float(whole) if whole.numel() == 1 else whole.expand(y.shape)
    except ArgumentError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"{name} must be a number or a tensor that broadcasts to {state}, got {tol!r}"
        ) from error


def check_times(t: Any, y: Tensor) -> tuple[Tensor, tuple[float, ...]]:
    """Return the times on the device of y, in their own dtype, and their values."""
    if not isinstance(t, Tensor):
        raise ArgumentTypeError(f"t must be a tensor, got {kind(t)}")
    if not t.is_floating_point():
        raise ArgumentTypeError(f"t must be a floating-point tensor, got {t.dtype}")
    if t.ndim != 1 or not t.shape[0]:
        raise ArgumentError(f"t must be one-dimensional with at least one entry, got shape {tuple(t.shape)}")
    if t.device != y.device:
        warn(f"t is on {t.device}, y0 on {y.device}: t is moved there")
        t = t.to(y.device)
    values: list[float] = t.tolist()
    if not all(map(math.isfinite, values)):
        raise ArgumentError("t must be finite, got NaN or Inf")
    if not (all(map(operator.lt, values, values[1:])) or all(map(operator.gt, values, values[1:]))):
        raise ArgumentError("t must be strictly increasing or decreasing")
    return t, tuple(values)


def kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(type(v).__name__ for v in value) or 'nothing'}"
    return type(value).__name__
