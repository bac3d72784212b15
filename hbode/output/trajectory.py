"""The accepted steps of a solve, to be looked at and taken again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..gradients import Problem
from ..solvers import Adams, MovingStart, Status
from .dense import DenseOutput


class Trajectory:
    """States at the nodes of a solve, and the steps between them; read-only, and without a graph of the solve.

    A step is a function of the state it starts from alone: whatever else a method carries follows from that state. The
    state is y = h of shape (*h0), or (h, m) stacked to (2, *h0) for a second-order system.

    Attributes
    ----------
    times
        The nodes t_0, …, t_N of the N accepted steps; a terminal event ends the last one where it happened.
    second_order
        Whether the state is (h, m).
    h0
        The position that the solve started from.
    gamma, xi
        Damping and restoring coefficient that it was given, None where the system has none.
    rtol, atol, adaptive
        Tolerances, and whether they chose the steps.
    jumps, max_steps
        Where the field is discontinuous in time, and how many steps the solve was allowed.

    Raises
    ------
    TypeError
        If the state is complex.
    ValueError
        If steps do not follow from states alone (an Adams method, a step after an event with a reset), samples have
        times or steps of their own, the state has no entries, or the solve failed or made no step.

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder, hbodeint
    >>> sol = hbodeint(FirstOrder(lambda t, h: -h), torch.ones(1), [0.0, 1.0], dense=True)
    >>> steps = sol.trajectory
    >>> len(steps) == sol.stats.accepted
    True
    >>> bool(torch.isclose(steps.advance(0, steps.state(0)), steps.state(1)))
    True
    """

    def __init__(self, dense: DenseOutput, second_order: bool) -> None:
        problem, tape = dense.problem, dense.solved.tape
        self.h0 = (problem.y0[0] if second_order else problem.y0).detach()
        _check(problem, tape, self.h0)
        explicit = problem.explicit.filled([x.detach().clone() for x in problem.explicit.present])
        self._problem, self._tape = problem, tape
        self._field, _ = problem.bind(explicit)
        self.second_order = second_order
        self.gamma, self.xi = explicit.gamma, explicit.xi
        control = problem.plan.control
        self.rtol, self.atol, self.adaptive = control.rtol, control.atol, problem.plan.adaptive
        self.jumps, self.max_steps = tuple(problem.plan.jumps), problem.plan.max_steps
        ended = tape.outcomes[0].status is Status.EVENT
        end = dense.solved.event_t[-1] if ended else problem.clock.times[-1]
        self.times = (*(step.start.value for step in tape.steps), float(end.detach()))

    def __len__(self) -> int:
        """Return the number N of steps."""
        return len(self._tape.steps)

    def is_of(self, system: Any) -> bool:
        """Return whether a system, or another one around the same f, was solved."""
        return any(owner is system or getattr(owner, "f", None) == system.f for owner in self._problem.owners)

    @torch.no_grad()
    def state(self, n: int) -> Tensor:
        """Return y_n, n from 0 to N: as the solve recorded it, the last one by its step."""
        if n == len(self):
            return self.advance(n - 1, self.state(n - 1)).detach()
        carry = self._tape.steps[n].carry
        if carry:
            return torch.as_tensor(carry[0]).detach()
        start = torch.zeros(1, dtype=torch.float64, device=self.h0.device)
        return self._problem.method.interpolate(self._tape.interpolants[n], start)[0].detach()

    def between(self, n: int, shares: tuple[float, ...]) -> Tensor:
        """Return the states (len(shares), *y) at shares from 0 to 1 of step n, by the method's interpolant."""
        theta = torch.tensor(shares, dtype=torch.float64, device=self.h0.device)
        return self._problem.method.interpolate(self._tape.interpolants[n], theta).detach()

    def advance(self, n: int, y: Tensor, back: bool = False) -> Tensor:
        """Return where step n leads from a state y, differentiable; taken `back` in time from its end if asked for."""
        start, end = reversed(self.times[n : n + 2]) if back else self.times[n : n + 2]
        t, field = self._time(start), self._field.within(self._tape.steps[n].sides)
        method = self._problem.method
        carry, _ = method.step(field, t, self._time(end - start), method.start(field, t, y))
        return carry[0]

    def slope(self, t: float | Tensor, y: Tensor, n: int | None = None) -> Tensor:
        """Return dy/dt at (t, y), differentiable, within step n where the field is discontinuous in time."""
        field = self._field if n is None else self._field.within(self._tape.steps[n].sides)
        t = t if isinstance(t, Tensor) else self._time(t)
        field, method = field.at(t), self._problem.method
        return method.slope(field, method.start(field, t, y))

    def _time(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.h0.device)


def _check(problem: Problem, tape: Any, h0: Tensor) -> None:
    """Raise where steps cannot be taken again from their states."""
    if problem.clock.per_sample:
        raise ValueError("sol must have one time axis: t of shape (T,), and per_sample=False")
    if h0.is_complex():
        raise TypeError(f"sol must have a real state, got {h0.dtype}")
    if h0.numel() == 0:
        raise ValueError(f"sol must have entries in its state, got h0 of shape {tuple(h0.shape)}")
    if isinstance(problem.method, Adams):
        raise ValueError(
            "sol must come from a one-step method such as dprkn6, dopri5 or leapfrog; Adams methods step "
            "from several states"
        )
    if isinstance(problem.method, MovingStart):
        raise ValueError(
            "sol must come from a solve without resets: a step after an event starts at a time that depends on the "
            "state, and has no propagator of its own"
        )
    if tape.outcomes[0].status.failed:
        raise ValueError(f"sol must have reached its last time, but its status is {tape.outcomes[0].status.name}")
    if not tape.steps:
        raise ValueError("sol must have at least one step, but its times are all the same")
