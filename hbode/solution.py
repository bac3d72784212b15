"""What `hbodeint` returns: the solution, its cost, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .gradients import Solved
from .output.dense import DenseOutput
from .output.trajectory import Trajectory
from .setup.state_tree import State, StateTree, halves
from .setup.updates import Sides, UpdateRecord
from .solvers import Crossing, Outcome, Status

T = TypeVar("T")

__all__ = ["EventRecord", "Solution", "SolverError", "Stats", "Status", "of_batch"]


class SolverError(RuntimeError):
    """A solve that did not reach its last time.

    Attributes
    ----------
    status
        What happened.
    t, dt
        Where it happened, and the step that was tried.
    sample
        The sample it happened to; None where the batch steps as one.
    detail
        What the message says of it.

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder, SolverError, hbodeint
    >>> try:
    ...     hbodeint(FirstOrder(lambda t, h: h**2), torch.ones(1), [0.0, 2.0])  # blows up at t = 1
    ... except SolverError as error:
    ...     print(error.status.name, round(error.t, 2))
    STEP_UNDERFLOW 1.0
    """

    def __init__(self, status: Status, t: float, dt: float, sample: int | None = None, detail: str = "") -> None:
        self.status, self.t, self.dt, self.sample = status, t, dt, sample
        self.detail = detail or status.remedy
        where = f"t = {t:.6g}, dt = {dt:.3g}" + ("" if sample is None else f", sample {sample}")
        super().__init__(f"{status.name} at {where}: {self.detail}")

    def __reduce__(self) -> tuple[object, ...]:
        """Return how to make a copy, which comes back from another process as it was raised there."""
        return type(self), (self.status, self.t, self.dt, self.sample, self.detail), vars(self)


@dataclass
class Stats:
    """The cost of a solve.

    Counts are numbers where the batch steps as one, and lists with one entry a sample with per-sample steps.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> stats = hbodeint(lambda t, h: -h, torch.ones(3, 2), [0.0, 1.0], per_sample=True).stats
    >>> len(stats.nfe), stats.dt.shape[1], stats.success
    (3, 3, True)
    """

    nfe: int | list[int]
    """Evaluations of the field in the forward pass, those of rejected steps and of the first step included, and
    products with its Jacobian, which implicit methods make."""
    accepted: int | list[int]
    rejected: int | list[int]
    status: Status | list[Status]
    t: Tensor = field(repr=False)
    """Where the accepted steps start: shape (n,), or (n, B) with NaN where a sample did not move."""
    dt: Tensor = field(repr=False)
    """Lengths of the accepted steps, signed, shape of `t`."""
    products: int | list[int]
    """How many of `nfe` are products with the Jacobian."""
    stiffness: float | list[float]
    """The share of steps that stability held back rather than accuracy, from 0 to 1, NaN where no step was looked at.

    Of an explicit adaptive method, one in eight accepted steps (all of them in a compiled solve) is looked at for the
    largest |λ| of the Jacobian that shows in its stages: dt |λ| near the boundary of stability means that errors of
    the fastest mode, not the solution, keep the steps small. Near 1 the field is stiff for the method, and
    ``method="auto"``, an implicit method, or a heavy ball in its place will need fewer evaluations. The implicit steps
    of "auto" count as held back. The boundary is that of real λ: modes that oscillate are noticed less surely.
    """
    nfe_backward: int | None = None
    """Evaluations of the field in the last backward pass; None before it. Backpropagation needs none."""

    @property
    def success(self) -> bool:
        """Whether every sample reached its last time or a terminal event."""
        statuses = self.status if isinstance(self.status, list) else [self.status]
        return not any(status.failed for status in statuses)


def of_batch(count: int | list[int] | None) -> int:
    """Return how often a batch did what its samples did so often; None counts as never."""
    return max(count) if isinstance(count, list) else count or 0


@dataclass(frozen=True)
class EventRecord:
    """Where one event function vanished: times (E,), states (E, ...) and the samples (E,) they belong to.

    States have the form of h0. `m` is None for a first-order system, `sample` is None where the batch steps as one (the
    states are then those of the whole batch). Of an event with a reset, or at the time of one, these are the states
    before all resets of that time; `after` has those after them, and is None where the event has no reset.

    Examples
    --------
    >>> import torch
    >>> from hbode import Event, hbodeint
    >>> sol = hbodeint(lambda t, h: 0 * h - 2, torch.ones(1), [0.0, 3.0], gamma=0.0, event=Event(lambda t, h, m: h[0]))
    >>> round(sol.events[0].t.item(), 4), sol.events[0].h.shape
    (1.0, torch.Size([1, 1]))
    """

    t: Tensor
    h: State
    m: State | None
    sample: Tensor | None
    after: Sides | None = None


class Solution:
    """Positions and momenta at the requested times; unpacks as ``h, m = solution``.

    Attributes
    ----------
    t
        The requested times, (T,) or (B, T).
    h, m
        Shape (T, *h0), in a tuple, list or dict as h0 is; `m` is None for a first-order system. Rows that were not
        reached are NaN.
    stats
        `Stats`: evaluations, steps, status.
    events
        One `EventRecord` for each event function.
    updates
        The states before and after each update (`UpdateRecord`), where there were any; else None.
    dense
        The steps and their interpolants (`DenseOutput`), where the solve was asked to keep them; else None.
    tree
        How the parts of a state lie in the one tensor of the solver (`StateTree`); None for states of one tensor.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> sol = hbodeint(lambda t, h: -h, torch.ones(3), torch.linspace(0, 1, 5), dense=True)
    >>> h, m = sol(0.3)
    >>> h.shape, sol.stats.accepted > 0
    (torch.Size([3]), True)
    """

    def __init__(
        self,
        t: Tensor,
        h: State,
        m: State | None,
        stats: Stats,
        events: tuple[EventRecord, ...] = (),
        dense: DenseOutput | None = None,
        updates: UpdateRecord | None = None,
        tree: StateTree | None = None,
    ) -> None:
        self.t, self.h, self.m, self.stats, self.events = t, h, m, stats, events
        self.dense, self.updates, self.tree = dense, updates, tree

    def __iter__(self) -> Iterator[State | None]:
        yield self.h
        yield self.m

    def __call__(self, t: Tensor | float) -> tuple[State, State | None]:
        """Return (h, m) at any times within the solve, by the method's interpolant; differentiable.

        Parameters
        ----------
        t
            A number, shape (n,), or (B, n) for samples with times of their own. The result has shape
            (n, *h0), or that of h0 for a number.

        Raises
        ------
        ValueError
            If the solve was made without ``dense=True``, or a time lies outside of it.
        """
        if self.dense is None:
            raise ValueError("the solution can be called only if it was made with dense=True")
        times = torch.as_tensor(t, dtype=torch.float64, device=self.dense.y0.device)
        y = self.dense(times) if times.ndim else self.dense(times.reshape(1))[0]
        return halves(y, self.m is not None, 1 if times.ndim else 0, self.tree)

    @property
    def trajectory(self) -> Trajectory:
        """The accepted steps, read-only: their times and states, to be taken again and differentiated one by one.

        Raises
        ------
        TypeError
            If the state is complex, or has several tensors.
        ValueError
            If the solve was made without ``dense=True``, failed, or has steps that do not follow from their states
            alone (see `Trajectory`).
        """
        if self.dense is None:
            raise ValueError("sol must come from hbodeint(..., dense=True), which keeps the steps")
        if self.tree is not None:
            raise TypeError(f"sol must have a state of one tensor, got {type(self.h).__name__}")
        return Trajectory(self.dense, self.m is not None)

    def __repr__(self) -> str:
        stats = self.stats
        status = [s.name for s in stats.status] if isinstance(stats.status, list) else stats.status.name
        return (
            f"Solution(h={_shapes(self.h)}, m={_shapes(self.m)}, "
            f"nfe={stats.nfe}, accepted={stats.accepted}, rejected={stats.rejected}, status={status})"
        )


def _shapes(state: State | None) -> Any:
    return tree_map(lambda x: None if x is None else tuple(x.shape), state)


def stats_of(solved: Solved, samples: bool) -> Stats:
    """Return the cost of a solve; `samples`: each has its own."""
    tape = solved.tape

    def each(of: Callable[[Outcome], T]) -> T | list[T]:
        values = [of(outcome) for outcome in tape.outcomes]
        return values if samples else values[0]

    def joined(numbers: list[Any]) -> Tensor:
        if samples:
            return torch.stack(numbers) if numbers else torch.zeros(0, len(tape.outcomes), dtype=torch.float64)
        return torch.tensor(numbers, dtype=torch.float64)

    return Stats(
        nfe=each(lambda outcome: outcome.evaluations),
        accepted=each(lambda outcome: outcome.accepted),
        rejected=each(lambda outcome: outcome.rejected),
        status=each(lambda outcome: outcome.status),
        t=joined(tape.t),
        dt=joined(tape.dt),
        products=each(lambda outcome: outcome.products),
        stiffness=each(lambda outcome: outcome.stiff / outcome.looked if outcome.looked else math.nan),
    )


def raise_failure(solved: Solved, samples: bool) -> None:
    """Raise where a solve failed."""
    for sample, ended in enumerate(solved.tape.outcomes):
        if ended.status.failed:
            raise SolverError(ended.status, ended.t, ended.dt, sample if samples else None)


def event_records(
    solved: Solved, crossings: Sequence[Crossing], second_order: bool, samples: bool, tree: StateTree | None
) -> tuple[EventRecord, ...]:
    """Return what was met of event functions."""
    records: list[EventRecord] = []
    if not crossings:
        return ()
    events = solved.tape.events
    index, sample = (
        torch.tensor(x, dtype=torch.long, device=solved.rows.device) for x in (events.which, events.sample)
    )
    for which, crossing in enumerate(crossings):
        mine, behind = ((index == which + offset).nonzero().flatten() for offset in (0, len(crossings)))
        t, y, after = solved.event_t[mine], solved.event_y[mine], solved.event_y[behind]
        sides = None if crossing.reset is None else Sides(*halves(after, second_order, 1, tree))
        records.append(EventRecord(t, *halves(y, second_order, 1, tree), sample[mine] if samples else None, sides))
    return tuple(records)
