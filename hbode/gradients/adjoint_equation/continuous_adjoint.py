"""The continuous adjoint: the heavy-ball adjoint equation, solved backwards with steps of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ...solvers import KEEP_ALL, METHODS, Carry, Clock, Coupled, Field, Method, MovingStart, Plan, Tape, solve
from ..backprop import Backprop, differentiates_steps
from ..captured import Guard
from ..problem import Explicit, Problem, Solved
from ..without_graph import same_autocast, without_graph
from .cotangents import Received, Rows, received
from .linearisation import Linearisation
from .time_gradients import Slopes, differentiable_events, requested_times_bar
from .trajectories import BetweenJumps, Interpolated, SolvedBackwards, parts_between_jumps, stops_between
from .transposed import Impulses, States, Transposed
from .transposed_jumps import TransposedJumps


@dataclass(frozen=True)
class ContinuousAdjoint:
    """Solve the adjoint equation along the solution, with tolerances of its own.

    With a = ∂L/∂h and p = ∂L/∂m: a' = -p (∂f/∂h - ξ), p' = -a ⊙ σ'(m) + γ p, which for σ = id is a heavy ball for p
    with the same damping (Xia et al. 2021, Propositions 1 and 2). One sweep goes back over all output times: the steps
    do not end there, cotangents enter by the transpose of the method's interpolant. Where an update or a reset replaced
    the state the adjoint jumps by its transpose; that of a reset, whose time depends on the state, is the transpose of
    the saltation matrix. The gradients of parameters are sums over the same products. The gradient is
    that of the exact solution to within the tolerances of both solves, not that of the computed one.

    Parameters
    ----------
    adjoint_rtol, adjoint_atol
        Tolerances (default: those of the solve). Absolute errors are in units of the largest cotangent of an output,
        so that they do not depend on how the loss is scaled.
    adjoint_method
        Explicit one-step method (default: that of the solve; dopri5 where that cannot take the adjoint equation).
    adjoint_state
        Where the states come from: "interpolating", the interpolants of all steps, kept; "backsolve", a second solve
        backwards in constant memory, which damping makes unstable between outputs many 1/γ apart.
    adjoint_norm
        What the step size is chosen by: the error of "state" (a, p), or of the integrals as well, "full".

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.gradients import ContinuousAdjoint
    >>> h0 = torch.ones(2, requires_grad=True)
    >>> sol = hbodeint(lambda t, h: -h, h0, [0.0, 1.0], gradient=ContinuousAdjoint(adjoint_rtol=1e-4))
    >>> sol.h[-1].sum().backward()
    >>> sol.stats.nfe_backward > 0
    True
    """

    adjoint_rtol: float | Tensor | None = None
    adjoint_atol: float | Tensor | None = None
    adjoint_method: str | None = None
    adjoint_state: str = "interpolating"
    adjoint_norm: str = "state"

    def __post_init__(self) -> None:
        for key, allowed in (("adjoint_state", ("interpolating", "backsolve")), ("adjoint_norm", ("state", "full"))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} must be one of {', '.join(allowed)}, got {getattr(self, key)!r}")
        one_step = [name for name, method in METHODS.items() if method.explicit_one_step]
        if self.adjoint_method is not None and self.adjoint_method not in one_step:
            raise ValueError(f"adjoint_method must be one of {', '.join(one_step)}, got {self.adjoint_method!r}")
        for key in ("adjoint_rtol", "adjoint_atol"):
            tol = getattr(self, key)
            if tol is not None and not bool((torch.as_tensor(tol) >= 0).all()):
                raise ValueError(f"{key} must not be negative, got {tol!r}")

    def adapt(self, method: Method) -> Method:
        return method

    def solve(self, problem: Problem, on_backward: Callable[[int], None]) -> Solved:
        """Solve without a graph; `on_backward` receives the evaluations that a backward pass made."""
        if problem.clock.per_sample:
            raise ValueError(
                "gradient='continuous_adjoint' needs one time axis and step size for the batch; with times or steps "
                "per sample take gradient='discrete_adjoint'"
            )
        stepped = problem.method.base if isinstance(problem.method, MovingStart) else problem.method
        one_step = stepped.explicit_one_step and not isinstance(stepped, Coupled)
        if problem.plan.keep_interpolants and not one_step:
            raise ValueError(
                "dense=True with gradient='continuous_adjoint' needs an explicit one-step method without coupling; "
                "take gradient='discrete_adjoint'"
            )
        if differentiates_steps():
            return Backprop().solve(problem, on_backward)
        self.method(problem.method, problem.bind(problem.explicit, True)[0] if problem.damped else None)
        self.tolerances(problem.plan)
        tape, (rows, event_t, event_y, *nodes) = without_graph(_Sweep, problem, self, on_backward)
        if not rows.requires_grad:
            return Solved(tape, rows, event_t, event_y)
        clock = problem.clock
        field, crossings = problem.bind(problem.explicit)
        if tape.events.which:
            event_t, event_y = differentiable_events(Slopes(problem, field), crossings, tape, event_t, event_y)

        def carry(n: int) -> Carry:
            step, y = tape.steps[n], nodes[0][n]
            t = clock.at(step.start)
            if n and t.requires_grad:  # a node moves with the times, and the state with it
                y = y + problem.slope(field, t, y) * (t - t.detach()).to(y.real.dtype)
            return problem.method.start(field.within(step.sides), t, y)

        return Solved(tape, rows, event_t, event_y, carry if nodes else None)

    def tolerances(self, forward: Plan) -> tuple[float | Tensor, float | Tensor]:
        """Return the tolerances of the adjoint."""
        rtol = forward.control.rtol if self.adjoint_rtol is None else self.adjoint_rtol
        atol = forward.control.atol if self.adjoint_atol is None else self.adjoint_atol
        if self.adjoint_norm == "full" and max(torch.as_tensor(tol).numel() for tol in (rtol, atol)) > 1:
            raise ValueError("adjoint_rtol and adjoint_atol must be numbers where adjoint_norm is 'full'")
        return rtol, atol

    def method(self, forward: Method, field: Field | None) -> Method:
        """Return the method of the adjoint, for the damped form of the field if there is one."""
        while isinstance(forward, MovingStart | Coupled):
            forward = forward.base
        chosen = forward if self.adjoint_method is None else METHODS[self.adjoint_method]
        fits = chosen.explicit_one_step and not (chosen.damped and (field is None or field.sigma is not None))
        if not fits and self.adjoint_method is not None:
            raise ValueError(
                f"adjoint_method={self.adjoint_method!r} needs a heavy ball with h' = m; take dopri5 for this system"
            )
        return chosen if fits else METHODS["dopri5"]


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        mode: ContinuousAdjoint,
        field: Field,
        start: Carry | None,
        on_backward: Callable[[int], None],
        tapes: list[Tape],
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        y0, times, *_ = inputs
        dense = problem.plan.keep_interpolants
        interpolants = dense or mode.adjoint_state == "interpolating"
        plan = replace(problem.plan, keep=KEEP_ALL if dense else None, keep_interpolants=interpolants)
        frozen = replace(problem, y0=y0.detach(), clock=replace(problem.clock, times=times.detach()), plan=plan)
        tape = frozen.solve(field, start)
        outputs = tape.gathered()
        tapes.append(tape)
        ctx.save_for_backward(*inputs, outputs[0])
        ctx.autocast = same_autocast(y0.device.type)
        ctx.set_materialize_grads(False)
        ctx.problem, ctx.mode, ctx.on_backward = frozen, mode, on_backward
        ctx.tape = replace(tape, rows=replace(tape.rows, blocks=[]))
        ctx.mark_non_differentiable(outputs[1])
        return outputs if not dense or not tape.steps else (*outputs, torch.stack([s.carry[0] for s in tape.steps]))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(bar is None for bar in cotangents):
            return (None,) * (6 + len(ctx.saved_tensors) - 1)
        if torch.is_grad_enabled():
            raise RuntimeError(
                "gradient='continuous_adjoint' gives first derivatives only; for create_graph=True, and any second "
                "derivative, solve with gradient='discrete_adjoint' or 'backprop'"
            )
        if differentiates_steps():
            raise RuntimeError(
                "gradient='continuous_adjoint' takes one cotangent at a time; for batched ones, as of a vectorised "
                "Jacobian, solve with gradient='discrete_adjoint' or 'backprop'"
            )
        with ctx.autocast:
            return (None,) * 6 + _swept(ctx, cotangents)


def _swept(ctx: Any, cotangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    problem, mode, tape = ctx.problem, ctx.mode, ctx.tape
    _, times, *inputs, states = ctx.saved_tensors
    explicit, captured = problem.divided(inputs)
    explicit = explicit.filled([x.detach().requires_grad_(x.requires_grad) for x in explicit.present])
    instead = {id(x): x.detach().requires_grad_() for x in captured if not x.is_leaf}
    leaves = [instead.get(id(x), x) for x in captured]
    coefficients = [explicit.gamma, explicit.xi] if problem.damped else []
    others = explicit.args if problem.damped else explicit.present
    wanted = [x for x in (*others, *leaves) if x.requires_grad]
    guard = Guard(wanted, instead, strict=problem.leaves is None)
    field, _ = problem.bind(explicit, problem.damped)
    linear = Linearisation(field, problem.damped, coefficients, wanted, guard)

    rows = Rows.of(problem, tape, states)
    given = received(problem, tape, rows, cotangents)
    forward, _ = problem.bind(explicit.detach())
    slopes, times_bar = Slopes(problem, forward), torch.zeros_like(times) if times.requires_grad else None
    y0_bar, found = given.first[0], linear.zeros()
    z, calls = torch.zeros_like(y0_bar), 0
    if given.passed or given.times:
        z, found, calls = _swept_back(problem, mode, tape, linear, explicit, given, rows, slopes, times_bar)
    if times_bar is not None:
        rows_bar = None if cotangents[0] is None else cotangents[0][tape.rows.lead :]
        times_bar += requested_times_bar(slopes, times, rows, z, rows_bar)
    ctx.on_backward(field.calls + forward.calls + calls)
    names = [x for x in (*coefficients, *wanted) if x is not None and x.requires_grad]
    sums = {id(x): total for x, total in zip(names, found, strict=True)}
    return y0_bar + z, times_bar, *(sums.get(id(x)) for x in explicit.present), *(sums.get(id(x)) for x in leaves)


def _swept_back(
    problem: Problem,
    mode: ContinuousAdjoint,
    tape: Tape,
    linear: Linearisation,
    explicit: Explicit,
    given: Received,
    rows: Rows,
    slopes: Slopes,
    times_bar: Tensor | None,
) -> tuple[Tensor, list[Tensor], int]:
    """Return the adjoint at the first time, the integrals, and evaluations beside the field's own.

    What requested times receive as those of updates is added to `times_bar`.
    """
    forward, times, jumps = problem.plan, problem.clock.times.tolist(), rows.jumps
    method = mode.method(problem.method, linear.field if problem.damped else None)
    adaptive = method.error_order is not None and (forward.adaptive or mode.adjoint_method is not None)
    rtol, atol = mode.tolerances(forward)
    first_step = max(map(abs, tape.dt[-2:]), default=None)  # the last one may have been cut to end the solve
    control = replace(forward.control, rtol=rtol, atol=atol, norm=None, first_step=first_step)
    points = tuple(stop.value for stop in forward.stops) if adaptive else (*tape.t, *forward.jumps)
    start, end = given.latest, times[0]
    grid = list(dict.fromkeys((start, *(jump.t for jump in reversed(jumps[: given.passed])), end)))
    plan = Plan(control, adaptive, stops_between(grid, points), jumps=forward.jumps, max_steps=forward.max_steps)

    again, _ = problem.bind(explicit.detach(), method.damped)
    parts, sign = parts_between_jumps(tape, [jump.length for jump in jumps]), slopes.sign

    def part(number: int) -> States:
        if mode.adjoint_state == "interpolating":
            return Interpolated(problem.method, parts[number], sign)
        known = rows.between(number, times)
        if number == len(jumps):
            known.append((tape.t[-1] + tape.dt[-1], tape.carry[0]))
        return SolvedBackwards(method, again, plan, points, known, sign)

    scale = torch.linalg.vector_norm(torch.cat((given.bars, given.first[1:])), math.inf)
    impulses = Impulses(given.times, given.bars.div_(scale), sign, given.slack)
    between = BetweenJumps([jump.t for jump in jumps], part, sign)
    backwards = Transposed(method, linear, between, impulses, mode.adjoint_norm == "full")
    moved = None if times_bar is None else torch.zeros_like(times_bar)
    transposed: TransposedJumps | None = None
    if given.passed:
        met = zip(jumps[: given.passed], given.first[1:].div_(scale), strict=False)
        groups = [list(group) for _, group in groupby(met, key=lambda pair: pair[0].t)][::-1]
        place = {t: n for n, t in enumerate(grid)}
        anchors = torch.tensor([place[group[0][0].t] for group in groups])
        transposed = TransposedJumps(anchors, adjoint=backwards, groups=groups, slopes=slopes, times_bar=moved)
    z = backwards.join(torch.zeros_like(rows.states[0]), linear.zeros())[0]
    clock = Clock.of(torch.tensor(grid, dtype=torch.float64))
    swept = solve(backwards, linear.field, z, clock, replace(plan, updates=transposed))
    (ended,) = swept.outcomes
    if ended.status.failed:
        raise RuntimeError(
            f"the adjoint solve failed at t = {ended.t:.6g} with {ended.status.name}: {ended.status.remedy}"
        )
    z, sums = backwards.divided(swept.carry)
    if times_bar is not None and moved is not None:
        times_bar.add_(moved * scale)
    return z * scale, [x * scale for x in sums], again.calls
