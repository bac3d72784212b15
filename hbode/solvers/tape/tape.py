"""What a solve leaves behind: its steps, from which gradients and dense output are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..field import Field
from ..method import Carry, Invertible, Method
from ..status import Status


@dataclass(frozen=True)
class Crossing:
    """An event of the solve: the zeros of `fn(t, y)`, with t as a float64 tensor and y the state.

    `fn` returns one number where one step size serves the batch, shape (B,) where samples step by themselves. The zero
    number `last` ends the solve (None: none does). With ``reset(t, y)`` the state is replaced at each.
    """

    fn: Callable[[Tensor, Tensor], Tensor]
    last: int | None = 1
    direction: int = 0
    reset: Callable[[Tensor, Tensor], Tensor] | None = None


class Replayed(NamedTuple):
    """One step run again: the carry it ends with, the rows that fell into it, its events."""

    carry: Carry
    rows: Tensor | None
    event_t: Tensor | None
    event_y: Tensor | None


class Step(Protocol):
    """One accepted step of a tape."""

    carry: Carry
    """What the step started from; empty where it was not kept."""

    @property
    def one_way(self) -> bool:
        """Whether it cannot be taken back from its end, as it follows a discontinuity, or its end is not all of it."""
        ...

    @property
    def rows(self) -> int:
        """How many output rows fell into the step."""
        ...

    @property
    def events(self) -> int:
        """How many events fell into the step."""
        ...

    def replay(self, method: Method, field: Field, clock: Any, crossings: tuple[Crossing, ...]) -> Replayed:
        """Run the step again from its carry: a pure function of tensors, with a graph where they have one."""
        ...

    def run(self, method: Method, field: Field, clock: Any) -> tuple[Carry, Any]:
        """Take the step: return the carry it ends with, and its stages."""
        ...

    def undo(self, method: Invertible, field: Field, clock: Any, carry: Carry) -> Carry:
        """Return what the step started from, given the carry it ended with."""
        ...


class Outcome(NamedTuple):
    """How the solve of a sample ended, at `t` where a step `dt` was wanted, and what it took.

    Of the accepted steps, so many were `looked` at for stiffness, and `stiff`.
    """

    status: Status
    t: float
    dt: float
    accepted: int
    rejected: int
    evaluations: int
    products: int
    looked: int
    stiff: int


@dataclass
class OutputRows:
    """The output states in the order of the steps: the first `lead` of them show the initial state.

    `ends` are those after the `blocks` that came singly, as the states that steps end with. `places` says where rows
    belong if samples have times of their own, or the state is updated.
    """

    lead: int = 0
    blocks: list[Tensor] = field(default_factory=list)
    ends: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor) -> None:
        """Add rows (n, *row)."""
        self._join_ends()
        self.blocks.append(rows)

    def leading(self) -> OutputRows:
        """Return where those belong that show the initial state, without the rows."""
        return OutputRows(self.lead, places=self.places[:1])

    def joined(self) -> Tensor:
        """Return all rows, (K, *row)."""
        self._join_ends()
        return torch.cat(self.blocks) if len(self.blocks) > 1 else self.blocks[0]

    def _join_ends(self) -> None:
        if self.ends:
            self.blocks.append(torch.stack(self.ends))
            self.ends = []


@dataclass
class FoundEvents:
    """The events in the order of the steps, in blocks, and which function and sample (0: the batch) each belongs to.

    The states after the resets at events are there again, under the number of the function plus that of all functions.
    """

    t: list[Tensor] = field(default_factory=list)
    y: list[Tensor] = field(default_factory=list)
    which: list[int] = field(default_factory=list)
    sample: list[int] = field(default_factory=list)

    def name(self, events: Iterable[tuple[int, int]]) -> None:
        """Note which functions, and samples, the next events belong to."""
        for which, sample in events:
            self.which.append(which)
            self.sample.append(sample)

    def joined(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return all times (E,) and states (E, *row), beside output states (K, *row)."""
        if not self.t:
            return rows.new_empty(0, dtype=torch.float64), rows.new_empty((0, *rows.shape[1:]))
        return torch.cat(self.t), torch.cat(self.y)


@dataclass
class Tape:
    """What a loop found out: the steps that were `kept`, where all began and how long they were, what they gave.

    `carry` is what the last accepted step ended with, or the first carry where there was none. A loop in blocks leaves
    its steps in `blocks`, with how the outputs in them are read; a batch that steps as one leaves its `resets`.
    `outcomes` has one entry a sample, or one for a batch that steps as one.
    """

    kept: list[Any] = field(default_factory=list)
    carry: Carry = ()
    t: list[Any] = field(default_factory=list)
    dt: list[Any] = field(default_factory=list)
    resets: list[Any] = field(default_factory=list)
    interpolants: list[Any] = field(default_factory=list)
    blocks: list[Any] = field(default_factory=list)
    rows: OutputRows = field(default_factory=OutputRows)
    events: FoundEvents = field(default_factory=FoundEvents)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def steps(self) -> list[Any]:
        """The steps that were kept, one by one."""
        return [step for outputs in self.blocks for step in outputs.block.steps] if self.blocks else self.kept

    @property
    def first(self) -> Any:
        """The first of them."""
        return self.blocks[0].block.first(1)[0] if self.blocks else self.kept[0]

    def add(self, replayed: Replayed) -> None:
        """Keep what an accepted step gave out."""
        if replayed.rows is not None:
            self.rows.add(replayed.rows)
        if replayed.event_t is not None and replayed.event_y is not None:
            self.events.t.append(replayed.event_t)
            self.events.y.append(replayed.event_y)

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows (K, *row), event times (E,) and event states (E, *row)."""
        rows = self.rows.joined()
        return rows, *self.events.joined(rows)
