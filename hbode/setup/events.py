"""Events: where a function of the solution vanishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..solvers import Crossing, real_dtype
from .state_tree import StateTree, replaced


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

    With `reset` the state is replaced at each zero and the solve goes on: impacts, thresholds, relays. The step ends
    there; the method starts again from the new state at one evaluation of f, and the step size and the history of
    errors it was chosen by are carried through. Events at the same time take place together, in the order in which they
    were given, and so do events whose functions a reset carries across zero; each at most once. A function that is zero
    after a reset, as the height of a ball that bounces, has no zero there, and its next one however soon: until that
    cannot be told from it by rounding, and the solve ends with `Status.ZENO`. On a fixed grid steps go on to points of
    the grid, the first one by half a step to one and a half. A requested time that is the
    event's shows the state after it; `EventRecord` has both. Gradients go through times and states of all events,
    and are exact for what was computed, second ones too; by gradient="continuous_adjoint", where one step size serves
    the batch, they are those of the exact solution. There are none in forward mode. The derivative of an event's time
    is divided by the rate at which the function meets zero: where the solution grazes it, it is as large as that is
    small.

    Parameters
    ----------
    fn
        ``fn(t, h, m)`` for a second-order system, ``fn(t, h)`` for a first-order one. One number where the batch
        steps as one; shape (B,), with t of shape (B,), where samples step by themselves.
    terminal
        Whether the solve ends at the first zero, after its reset; with per-sample steps, the solve of that sample.
        Default: where there is neither `reset` nor `max_count`.
    direction
        +1: only from negative to positive in the direction of integration; -1: only the other way; 0: both.
    reset
        ``reset(t, h, m)`` returning the (h, m) that follow, or ``reset(t, h)`` returning h for a first-order system; t
        has shape (), or (B,) where samples step by themselves: there it gets all samples, and what it returns counts
        for those that have the event at that moment.
    max_count
        The number of the zero at which the solve ends, after its reset (in scipy, an integer as `terminal`).

    Raises
    ------
    TypeError, ValueError
        For functions that cannot be called, and numbers that are not allowed.

    Examples
    --------
    >>> import torch
    >>> from hbode import Event, hbodeint
    >>> floor = Event(lambda t, h, m: h[0], direction=-1, reset=lambda t, h, m: (h, -0.9 * m), max_count=10)
    >>> sol = hbodeint(lambda t, h: -torch.ones_like(h), torch.ones(1), [0.0, 30.0], gamma=0.0, event=floor)
    >>> sol.events[0].t.shape, sol.events[0].after.m.shape
    (torch.Size([10]), torch.Size([10, 1]))
    """

    fn: Callable[..., Tensor]
    terminal: bool | None = None
    direction: int = 0
    reset: Callable[..., Any] | None = None
    max_count: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"event must be callable, got {type(self.fn).__name__}")
        if self.terminal not in (True, False, None) or type(self.terminal) is int:
            raise TypeError(
                f"Event.terminal must be True, False or None, got {self.terminal!r}; the solve ends at the "
                "n-th zero with max_count=n"
            )
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"direction must be -1, 0 or 1, got {self.direction!r}")
        if self.reset is not None and not callable(self.reset):
            raise TypeError(f"Event.reset must be callable, got {type(self.reset).__name__}")
        if self.max_count is not None and (type(self.max_count) is not int or self.max_count < 1):
            raise ValueError(f"Event.max_count must be a positive integer or None, got {self.max_count!r}")
        if self.terminal and self.max_count not in (None, 1):
            raise ValueError(f"a terminal event ends the solve at its first zero, not at max_count={self.max_count}")
        if self.terminal is None:
            object.__setattr__(self, "terminal", self.reset is None and self.max_count is None)


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

    def replace(t: Tensor, y: Tensor) -> Tensor:
        fn: Any = event.reset if tree is None else tree.replacing("Event.reset", event.reset, second_order)
        return replaced(
            "Event.reset", fn(t.to(real_dtype(y)), *(y.unbind() if second_order else (y,))), y, second_order
        )

    last = 1 if event.terminal else event.max_count
    return Crossing(value, last, event.direction, None if event.reset is None else replace)
