"""A case made into tensors: its solve as a function of everything that takes a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from stress.cases import Case
from stress.fields import JUMP, make
from stress.reference import solution
from torch import Tensor, nn

from hbode import METHODS, Event, FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, hbodeint
from hbode.solvers import Invertible

Leaves = dict[str, Tensor]
PARAMETERS = ("w", "b", "v")


class Held(nn.Module):
    """A field whose parameters are those of a module."""

    def __init__(self, f, parameters) -> None:
        super().__init__()
        self.f, self.parameters_of_f = f, nn.ParameterList(parameters)

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.f(*arguments, *self.parameters_of_f)


@dataclass
class Problem:
    """The case, the values of all leaves in double precision, the jump, the points to step to, what events look at."""

    case: Case
    values: Leaves
    jump: float
    step_ts: tuple[float, ...]
    direction: Tensor
    asked: Tensor | None = None

    @property
    def second_order(self) -> bool:
        return self.case.system != "first"

    def leaves(self, dtype: str | None = None) -> Leaves:
        """Return fresh leaves in the dtype of the case, or another; times stay in float64, γ and ξ too."""
        wanted = getattr(torch, dtype or self.case.dtype)
        made = {}
        for name, value in self.values.items():
            to = value.dtype if name in ("t", "gamma", "xi", "level") else wanted
            made[name] = value.to(to, copy=True).requires_grad_()
        return made

    def alone(self, sample: int) -> Problem:
        """Return the problem of one sample of the batch, which steps as one."""
        values = dict(self.values)
        for name in ("h0", "m0"):
            if name in values:
                values[name] = values[name][sample : sample + 1]
        values["t"] = values["t"][sample] if values["t"].ndim == 2 else values["t"]
        values["level"] = values["level"][sample : sample + 1]
        return Problem(self.case, values, self.jump, self.step_ts, self.direction)

    def field(self, x: Leaves, held: str):
        """Return f(t, h, arg), or f(t, h, m, arg)."""
        kernel = make(self.case.field, self.jump, self.case.rate)
        if self.case.system == "second":

            def full(t, h, m, arg, *p):
                return kernel(t, h, arg, *p) - 0.3 * m * (1 + 0.1 * h)
        else:
            full = kernel
        if held == "closure":
            return lambda *arguments: full(*arguments, *(x[k] for k in PARAMETERS))
        module = Held(full, [x[k] for k in PARAMETERS])
        for name, parameter in zip(PARAMETERS, module.parameters_of_f, strict=True):
            x[name] = parameter
        return module

    def solve(self, x: Leaves, gradient: str = "backprop", grid: Tensor | None = None, **changes):
        """Solve at the leaves; a `grid` freezes the steps. What the solve gave out is in `outputs`."""
        case = self.case
        samples = case.samples and x["t"].ndim == 2
        system, call = self._system(x)
        options = dict(changes.pop("options", {}))
        if case.field == "discontinuous":
            options["jump_ts"] = [self.jump]
        if gradient == "discrete_adjoint" and case.checkpoints is not None and not changes.get("dense"):
            options["checkpoints"] = case.checkpoints
        if grid is not None:
            options["grid_constructor"] = lambda f, h, t: torch.cat((t[:1], grid, t[-1:]))
        elif case.steps == "adaptive":
            options["controller"] = case.controller
            if self.step_ts:
                options["step_ts"] = list(self.step_ts)
        elif "step_size" not in options and "grid_constructor" not in options:
            options |= self.fixed(x["t"].detach(), case.number)
        if case.event != "none":
            call["event"] = self._event(x, samples)
        call |= {"rtol": case.rtol, "atol": 1e-2 * case.rtol} | changes
        return hbodeint(
            system,
            x["h0"],
            x["t"],
            m0=x.get("m0"),
            args=(x["arg"],),
            method=case.method,
            gradient=gradient,
            per_sample=case.per_sample and samples,
            options=options,
            **call,
        )

    def fixed(self, t: Tensor, number: int) -> dict:
        """Return the options of a fixed grid of about `number` steps."""
        case = self.case
        if case.steps == "step_size":  # no whole number of steps, lest a change of the times makes one more
            return {"step_size": self.case.span / (number - 0.4)}
        if case.steps == "grid":
            first, last = float(self.values["t"][0]), float(self.values["t"][-1])
            if (float(t[-1]) - float(t[0])) * (last - first) < 0:
                first, last = last, first
            part = (torch.arange(1, number, dtype=torch.float64) / number) ** 1.2
            inside = first + (last - first) * part
            return {"grid_constructor": lambda f, h, t: torch.cat((t[:1], inside, t[-1:]))}
        return {}

    def _system(self, x: Leaves):
        case = self.case
        f = self.field(x, case.held)
        if case.system in ("first", "second"):
            return {"first": FirstOrder, "second": SecondOrder}[case.system](f), {}
        activation = "tanh" if case.system == "tanh" else None
        if case.held != "system":
            return f, {k: x[k] for k in ("gamma", "xi") if k in x} | ({"activation": activation} if activation else {})
        if case.system == "ball":
            return HeavyBall(f, x["gamma"], trainable=False), {}
        return GeneralizedHeavyBall(f, x["gamma"], x["xi"], activation, trainable=False), {}

    def _event(self, x: Leaves, samples: bool) -> Event:
        case = self.case

        def height(t, h, *m):
            if samples:
                return self.height(h).double() - x["level"]
            return self.height(h).sum().double() - x["level"].sum()

        return Event(height, terminal=case.event == "terminal", direction=case.direction)

    def height(self, h: Tensor) -> Tensor:
        """Return what events look at, one number a sample of states (B, ...), or one of a state ()."""
        weighed = (h * self.direction.to(h.real.dtype)).real
        return weighed.flatten(1).sum(1) if weighed.ndim > 1 else weighed

    def outputs(self, x: Leaves, sol) -> list[Tensor]:
        """Return all that the solve gave out, rows that were not reached as zeros."""
        outs = [sol.h] + ([sol.m] if sol.m is not None else [])
        for record in sol.events:
            outs += [y for y in (record.t, record.h, record.m) if y is not None]
        if sol.dense is not None:
            outs += [y for y in sol(self.places(sol)) if y is not None]
        return [torch.where(y.isnan(), 0.0, y) for y in outs]

    def places(self, sol) -> Tensor:
        """Return times for dense output, in the middle of steps of the first solve that asks."""
        if self.asked is None:
            t, dt = sol.stats.t, sol.stats.dt
            moved = ~t.isnan().reshape(len(t), -1).any(1)
            middle = (t + 0.5 * dt)[moved]
            self.asked = middle[[0, len(middle) // 2]].T
        return self.asked


def build(case: Case) -> Problem:
    """Return the problem of a case."""
    rng = torch.Generator().manual_seed(case.seed)
    kind = torch.complex128 if case.dtype == "complex128" else torch.float64

    def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = kind) -> Tensor:
        return scale * torch.randn(shape, generator=rng, dtype=dtype)

    n, k = (case.shape[-1] if case.shape else 1), 3
    small = 0.5 if kind.is_complex else 1.0
    values = {
        "h0": normal(*case.shape, scale=small),
        "arg": normal(n, scale=0.3),
        "w": normal(n, k, scale=0.8 / n**0.5),
        "b": normal(k, scale=0.5),
        "v": normal(k, n, scale=0.8 / k**0.5),
        "t": _times(case, rng),
    }
    if case.system != "first":
        values["m0"] = normal(*case.shape, scale=0.5 * small)
    if case.system not in ("first", "second"):
        per_channel = (n,) if case.shape and torch.rand((), generator=rng) < 0.5 else ()
        values["gamma"] = 0.1 + torch.rand(per_channel, generator=rng, dtype=torch.float64)
    if case.system in ("general", "tanh"):
        values["xi"] = 0.2 + torch.rand((), generator=rng, dtype=torch.float64)
    if case.dtype == "float32":
        values = {k: v if k == "t" else v.float().double() for k, v in values.items()}
    t, batch = values["t"], (case.shape[0] if len(case.shape) and case.samples else 1)
    first, last = float(t.flatten()[0]), float(t.flatten()[-1])
    jump = first + JUMP * (last - first)
    step_ts = (first + 0.23 * (last - first),) if case.step_ts else ()
    direction = torch.randn(case.shape[1:] if case.samples else case.shape, generator=rng, dtype=torch.float64)
    problem = Problem(case, values, jump, step_ts, direction)
    values["level"] = torch.zeros(batch, dtype=torch.float64)
    if case.event != "none":
        at = torch.rand((), generator=rng).item() * 0.6 + 0.2
        for sample in range(batch):
            times = values["t"][sample] if t.ndim == 2 else t
            moment = float(times[0] + at * (times[-1] - times[0]))
            state = torch.as_tensor(solution(problem, sample if case.samples else None)(np.array(moment))[0, 0])
            values["level"][sample] = problem.height(state).sum()
    return problem


def _times(case: Case, rng: torch.Generator) -> Tensor:
    parts = {
        "single": [0.0, 1.0],
        "repeated": [0.0, 0.0, 0.31, 0.31, 0.77, 1.0, 1.0],
    }.get(case.times, [0.0, 0.17, 0.36, 0.71, 1.0])
    sign = -1.0 if case.decreasing else 1.0
    t = 0.3 + sign * case.span * torch.tensor(parts, dtype=torch.float64)
    if case.times in ("tied", "ragged"):
        batch = case.shape[0]
        factor = 0.5 + 0.5 * torch.rand(batch, 1, generator=rng, dtype=torch.float64)
        return 0.3 + (t - 0.3) * factor + 0.1 * torch.rand(batch, 1, generator=rng, dtype=torch.float64)
    return t.expand(case.shape[0], -1).clone() if case.per_sample else t


def couples(case: Case) -> dict:
    """Return the options by which another mode computes what the reversible one does."""
    return {} if case.gradient != "reversible" or isinstance(METHODS[case.method], Invertible) else {"coupling": 0.999}
