"""Events: where a function of the solution vanishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .solvers import Crossing
from .state_tree import StateTree


@dataclass(frozen=True)
class Event:
    """A function of the solution whose zeros are wanted.

    A zero is the first time at which a function that had a sign has become zero, or has the other sign: it may cross
    zero, step across it (``y > 0.5``), or become zero and stay so (``relu``). One that is zero at the start, or leaves
    zero, has none there. Zeros are located to rounding of the time on the interpolants of the steps. A function is
    evaluated at the end of each step, at two points inside it, at the requested times in it, and where a parabola
    through these values comes near zero: zeros that come in pairs between all these are not seen (request more times
    there, or bound the step with ``max_step``). A function that becomes NaN with no zero before it ends the solve with
    an error.

    Gradients reach the time and the state of an event by the implicit function theorem, with the derivatives just
    before the zero. Where the function has no slope there, as one that steps, its time has no gradient through it.

    Parameters
    ----------
    fn
        ``fn(t, h, m)`` for a second-order system, ``fn(t, h)`` for a first-order one. One number where the batch
        steps as one; shape (B,), with t of shape (B,), where samples step by themselves.
    terminal
        Whether the solve ends there; with per-sample steps, the solve of that sample.
    direction
        +1: only from negative to positive in the direction of integration; -1: only the other way; 0: both.
    """

    fn: Callable[..., Tensor]
    terminal: bool = True
    direction: int = 0

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"event must be callable, got {type(self.fn).__name__}")
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"direction must be -1, 0 or 1, got {self.direction!r}")


EventLike = Event | Callable[..., Tensor]


def as_events(event: EventLike | Sequence[EventLike] | None) -> tuple[Event, ...]:
    """Return the events of a solve; a bare function is a terminal event."""
    if event is None:
        return ()
    items: Sequence[Any] = event if isinstance(event, Sequence) else (event,)
    return tuple(item if isinstance(item, Event) else Event(item) for item in items)


def crossing(event: Event, second_order: bool, batch: int | None, tree: StateTree | None) -> Crossing:
    """Return the event as a function of time and state, its result checked."""

    def value(t: Tensor, y: Tensor) -> Tensor:
        state = y.unbind() if second_order else (y,)
        out = event.fn(t, *(state if tree is None else map(tree.split, state)))
        if not isinstance(out, Tensor):
            raise TypeError(f"an event function must return a tensor, got {type(out).__name__}")
        if batch is None:
            if out.numel() != 1:
                raise ValueError(
                    f"an event function must return one number, got shape {tuple(out.shape)}; "
                    "for one event a sample, solve with per_sample=True"
                )
            return out.reshape(())
        if out.shape != torch.Size((batch,)):
            raise ValueError(f"an event function must return shape ({batch},), got {tuple(out.shape)}")
        return out

    return Crossing(value, event.terminal, event.direction)
