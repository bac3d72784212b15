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


@dataclass
class Tape:
    """Everything that a loop found out, one entry of the lists a sample (or one for a batch that steps as one).

    `row_blocks` hold the output states in the order of the steps, and `ends` those after them that came singly, as the
    states that steps end with; the first `lead` rows show the initial state. `row_places` says where rows belong if
    samples have times of their own, or the state is updated: so many `updates` were made. `event_t_blocks` and
    `event_y_blocks` hold the events likewise; `event_index` says which function each belongs to and `event_sample`
    which sample (0: the batch); the states after the resets at events
    are there again, under the number of the function plus that of all functions. `gathered` joins them. A batch that
    steps as one leaves its `resets`. `carry` is
    what the last accepted step ended with, or the first carry where there was none. Of the accepted steps, so many were
    `looked` at for stiffness, and `stiff`. A loop in blocks leaves its steps in `blocks`, with how the outputs in them
    are read.
    """

    kept: list[Any] = field(default_factory=list)
    carry: Carry = ()
    status: list[Status] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    products: list[int] = field(default_factory=list)
    looked: list[int] = field(default_factory=list)
    stiff: list[int] = field(default_factory=list)
    t: list[Any] = field(default_factory=list)
    dt: list[Any] = field(default_factory=list)
    failed_at: list[tuple[float, float]] = field(default_factory=list)
    lead: int = 0
    row_blocks: list[Tensor] = field(default_factory=list)
    ends: list[Tensor] = field(default_factory=list)
    row_places: list[Tensor] = field(default_factory=list)
    updates: int = 0
    event_t_blocks: list[Tensor] = field(default_factory=list)
    event_y_blocks: list[Tensor] = field(default_factory=list)
    event_index: list[int] = field(default_factory=list)
    event_sample: list[int] = field(default_factory=list)
    resets: list[Any] = field(default_factory=list)
    interpolants: list[Any] = field(default_factory=list)
    blocks: list[Any] = field(default_factory=list)

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
            self._join_ends()
            self.row_blocks.append(replayed.rows)
        if replayed.event_t is not None and replayed.event_y is not None:
            self.event_t_blocks.append(replayed.event_t)
            self.event_y_blocks.append(replayed.event_y)

    def jump(self, replayed: Replayed, place: Tensor | None) -> None:
        """Keep what a jump gave out, and where its rows belong."""
        self.add(replayed)
        if place is not None:
            self.row_places.append(place)
        self.carry = replayed.carry

    def name(self, events: Iterable[tuple[int, int]]) -> None:
        """Note which functions, and samples, the next events belong to."""
        for which, sample in events:
            self.event_index.append(which)
            self.event_sample.append(sample)

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows (K, *row), event times (E,) and event states (E, *row)."""
        rows = self.rows()
        return rows, *(self.events() or no_events(rows))

    def rows(self) -> Tensor:
        """Return the output states, (K, *row)."""
        self._join_ends()
        return torch.cat(self.row_blocks) if len(self.row_blocks) > 1 else self.row_blocks[0]

    def events(self) -> tuple[Tensor, Tensor] | None:
        """Return event times (E,) and event states (E, *row), if there are any."""
        return (torch.cat(self.event_t_blocks), torch.cat(self.event_y_blocks)) if self.event_t_blocks else None

    def end(self, state: Tensor, stop: Tensor) -> None:
        """Enter what the numbers of a loop (see `LoopState`) say at its end, with the next stops, (1,) or (1, B)."""
        numbers: list[list[float]] = torch.cat((state, stop)).view(len(state) + 1, -1).tolist()
        t, dt, *_, stops = numbers
        status, *rest = numbers[6], numbers[9], numbers[10], numbers[11], numbers[12]
        self.failed_at = [(now, min(step, abs(end - now))) for now, step, end in zip(t, dt, stops, strict=True)]
        self.status = [Status(int(s)) for s in status]
        self.accepted, self.rejected, self.looked, self.stiff = ([int(x) for x in row] for row in rest)

    def _join_ends(self) -> None:
        if self.ends:
            self.row_blocks.append(torch.stack(self.ends))
            self.ends = []


def no_events(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return times and states of events where there are none, for output states (K, *row)."""
    return rows.new_empty(0, dtype=torch.float64), rows.new_empty((0, *rows.shape[1:]))
