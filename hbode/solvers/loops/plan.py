"""What a loop is told besides the problem."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..clock import Node
from ..field import Field
from ..method import Carry, Method
from ..noise import noise_state
from ..tape.jumps import Jump, Updates
from ..tape.tape import Crossing, Tape
from .control import GRID_SLACK, Controller

Hook = Callable[[float, Tensor, float], None]


class Keep(NamedTuple):
    """How accepted steps are kept for a gradient.

    ``add(steps, step)`` adds one to the list of those before it; what it leaves out is not kept. `whole` says that it
    leaves out nothing.
    """

    add: Callable[[list[Any], Any], None]
    whole: bool = False


KEEP_ALL = Keep(list.append, whole=True)


@dataclass(frozen=True)
class Plan:
    """Where a solve goes and how: everything about the loop that is no tensor of the problem."""

    control: Controller
    adaptive: bool
    stops: tuple[Node, ...]
    """Nodes that steps must end on, in the direction of time; the last one is the end."""
    step_size: float = math.inf
    """Length of a step on a fixed grid; infinite: from stop to stop."""
    jumps: tuple[float, ...] = ()
    """Times, in increasing order, at which the field is discontinuous; those inside the span are stops too."""
    sample_stops: tuple[tuple[float, ...], ...] = ()
    """Times that the steps of single samples must end on besides, where samples step by themselves; empty: none."""
    crossings: tuple[Crossing, ...] = ()
    updates: Updates | None = None
    max_steps: int = 2**31 - 1
    check_finite: bool = True
    """Whether a state that is not finite ends a solve on a fixed grid; an adaptive one it always ends."""
    keep: Keep | None = None
    """How the accepted steps are kept for a gradient; None: not at all."""
    keep_interpolants: bool = False
    noise: bool = False
    """Whether to keep, with each step, the state in which it found the generators of random numbers."""
    on_step: Hook | None = None
    on_accept: Hook | None = None
    on_reject: Hook | None = None

    @property
    def special(self) -> str | None:
        """What the host must see or do between two steps, if anything."""
        named = {
            "events": self.crossings,
            "points of discontinuity": self.jumps,
            "a norm of their own": self.control.norm,
            "dense output": self.keep_interpolants,
            "hooks": self.on_step or self.on_accept or self.on_reject,
            "random numbers": self.noise,
            "steps that are not all kept": self.keep is not None and not self.keep.whole,
        }
        return next((name for name, present in named.items() if present), None)

    def enter(self, tape: Tape, step: Any, stages: Any) -> None:
        """Keep an accepted step or a jump, and its interpolant, as far as they are wanted."""
        if self.keep is not None:
            self.keep.add(tape.kept, step)
        if self.keep_interpolants:
            tape.interpolants.append(stages)

    def jumped(self, tape: Tape, method: Method, field: Field, clock: Any, jump: Jump, place: Tensor | None) -> Carry:
        """Return the carry after a jump, kept with what it gave out; the rows of it belong to a place."""
        jump.noise = noise_state(clock.times.device) if self.noise else None
        tape.events.name(jump.named(len(self.crossings)))
        replayed = jump.replay(method, field, clock, ())
        tape.add(replayed)
        if place is not None:
            tape.rows.places.append(place)
        self.enter(tape, jump, None)
        tape.carry = replayed.carry
        return tape.carry

    def sides(self, t: float, sign: float) -> tuple[float, float] | None:
        """Return the discontinuities around the interval that starts at t in a direction of time."""
        if not self.jumps:
            return None
        line = self.jumps if sign > 0 else self.jumps[::-1]
        i = bisect_right([sign * jump for jump in line], sign * t)
        return (line[i - 1] if i else -sign * math.inf, line[i] if i < len(line) else sign * math.inf)

    def step_count(self, start: float | None) -> int | None:
        """Return how many steps a fixed grid has from a first time on; None: nobody knows, as with resets at events."""
        if self.adaptive or start is None or any(crossing.reset is not None for crossing in self.crossings):
            return None
        count = 0 if self.updates is None else self.updates.count
        if math.isinf(self.step_size):
            return count + len(self.stops)
        for stop in self.stops:
            count += max(1, math.ceil((abs(stop.value - start) - self.slack(stop.value)) / self.step_size))
            start = stop.value
        return count

    def slack(self, target: float) -> float:
        """Return what may be left before a target on a fixed grid without a step of its own (see `propose`)."""
        return GRID_SLACK * self.step_size + 2 * math.ulp(target)
