"""What a recurrent cell computes, and a layer over a whole sequence: an accumulation of the input and a recurrence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .accumulation import Accumulation, Weights
from .recurrences import Recurrence, State

CHUNK = 128
"""Steps between which what is as wide as the gates stays in the cache of a CPU; 64 to 256 differ little in time."""


@dataclass(frozen=True)
class Dynamics:
    """A recurrent cell as a pure function: its state is that of the recurrence, then what the accumulation remembers.

    One object serves cells, and all layers and directions of a layer, which own the parameters.
    """

    recurrence: Recurrence
    accumulation: Accumulation

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors of the state."""
        return (*self.recurrence.names, *self.accumulation.names)

    @cached_property
    def own_names(self) -> tuple[str, ...]:
        """Names of the parameters that torch's cells do not have."""
        return tuple(self.start(1, 1, True))

    def widths(self, inputs: int, hidden: int, bias: bool, projected: int = 0) -> tuple[int, ...]:
        """Return the widths of the tensors of the state."""
        remembered = self.accumulation.widths(inputs, self.recurrence.gates * hidden, bias)
        return (*self.recurrence.widths(hidden, projected), *remembered)

    def start(self, inputs: int, hidden: int, bias: bool) -> dict[str, Tensor]:
        """Return the start of the parameters that torch's cells do not have, by name."""
        of_input = self.accumulation.start(inputs, self.recurrence.gates * hidden, bias)
        return of_input | self.recurrence.start(hidden)

    def step(self, x: Tensor, state: State, w: Weights) -> State:
        """Return the state after the input x (N, C)."""
        h, remembered = self._halves(state, x, w)
        driven = self.accumulation(x.unsqueeze(0), remembered, w)
        return (*self.recurrence.step(driven.input[0], h, driven.weights), *(m[0] for m in driven.memory))

    def sequence(
        self, x: Tensor, state: State, w: Weights, lengths: Tensor | None, train: bool
    ) -> tuple[Tensor, State]:
        """Return h after each step of x (T, N, C), and the states at the ends of the sequences.

        `lengths` and `train` as for a `Recurrence`. What `state` does not have starts from zero.
        """
        if self.accumulation.wide and lengths is None and not x.is_cuda and len(x) > CHUNK:
            outs = []
            for piece in x.split(CHUNK):
                out, state = self.sequence(piece, state, w, lengths, train)
                outs.append(out)
            return torch.cat(outs), state
        h, remembered = self._halves(state, x[0], w)
        driven = self.accumulation(x, remembered, w)
        out, end = self.recurrence.sequence(driven.input, h, driven.weights, lengths, train)
        if lengths is None:
            return out, (*end, *(m[-1] for m in driven.memory))
        last, sample = (lengths - 1).to(x.device), torch.arange(x.shape[1], device=x.device)
        return out, (*end, *(m[last, sample] for m in driven.memory))

    def _halves(self, state: State, x: Tensor, w: Weights) -> tuple[State, State]:
        """Return the state of the recurrence and what is remembered, for the input x (N, C)."""
        own = len(self.recurrence.names)
        if state:
            return state[:own], state[own:]
        hidden = w["weight_hh"].shape[0] // self.recurrence.gates
        projected = len(w["weight_hr"]) if "weight_hr" in w else 0
        return tuple(x.new_zeros(len(x), width) for width in self.recurrence.widths(hidden, projected)), ()

    def checked(self, hx: Tensor | Sequence[Tensor] | None, lead: tuple[int, ...], widths: Sequence[int]) -> State:
        """Return an initial state of shapes (*lead, width), empty for none.

        Raises
        ------
        ValueError
            Unless it is the state of the recurrence, or that and what is remembered, of these shapes.
        """
        own = len(self.recurrence.names)
        if hx is None:
            return ()
        given = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        if len(given) not in (own, len(widths)):
            wanted = " or ".join(dict.fromkeys(", ".join(names) for names in (self.recurrence.names, self.names)))
            raise ValueError(f"hx must be {wanted}, got {len(given)} tensors")
        for name, width, value in zip(self.names, widths, given, strict=False):
            if value.shape != (*lead, width):
                raise ValueError(f"{name} in hx must have shape {(*lead, width)}, got {tuple(value.shape)}")
        return given


def joined(recurrence: Recurrence, accumulation: Callable[..., Accumulation]) -> Callable[..., Dynamics]:
    """Return the function that makes the dynamics from the settings of the accumulation."""

    def make(**settings: Any) -> Dynamics:
        return Dynamics(recurrence, accumulation(**settings))

    return make
