"""Ten thousand equal steps of peers.py: fixed-step methods of hbode, torchdiffeq, diffrax and torchsde."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchdiffeq
import torchsde
from _common import alternate, ratio, table
from _peers_jax import Diffrax, Libraries
from _peers_torch import GAMMA, Case, Result, Solver, differentiated, errors, hbode_step, torchdiffeq_step
from torch import Tensor, nn

from hbode import HeavyBall

HBODE = (("leapfrog", "discrete_adjoint"), ("leapfrog", "reversible"))
HBODE += (("rk4", "discrete_adjoint"), ("dprkn6", "discrete_adjoint"))


class Force(nn.Module):
    """A network as f(t, h), counting its calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.nfe = net, 0

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        self.nfe += 1
        return self.net(h)


class NoNoise(torchsde.BaseBrownian):
    """A Brownian motion that does not move: drawing one that is multiplied by zero would be most of a step."""

    def __init__(self, like: Tensor) -> None:
        self.zero = torch.zeros_like(like)

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Tensor:
        return self.zero

    def __repr__(self) -> str:
        return "NoNoise()"

    dtype = property(lambda self: self.zero.dtype)
    device = property(lambda self: self.zero.device)
    shape = property(lambda self: self.zero.shape)
    levy_area_approximation = "none"


def torchsde_step(case: Case, steps: int) -> Result:
    """Take a training step by torchsde's reversible Heun method and its adjoint."""
    force = Force(case.net)
    sde = HeavyBall(force, GAMMA, trainable=False).as_sde(0.0).to(case.h0.device)
    sde.sde_type = "stratonovich"  # the same for noise that does not depend on the state
    dt = float(case.t[-1] - case.t[0]) / steps
    forward: list[int] = []

    def solve(h0: Tensor) -> Result:
        y0 = torch.cat((h0, torch.zeros_like(h0)), -1)
        methods = {"method": "reversible_heun", "adjoint_method": "adjoint_reversible_heun"}
        h, m = torchsde.sdeint_adjoint(sde, y0, case.t, bm=NoNoise(y0), dt=dt, **methods).chunk(2, -1)
        forward.append(force.nfe)
        return Result(h, m, nfe=force.nfe)

    return differentiated(case, solve, lambda: force.nfe - forward[0])


def long_solve(case: Case, steps: int, found: Libraries | None, repeats: int, timed: Callable[..., Any]) -> str:
    """Return the table of training steps with so many equal steps."""
    size = float(case.t[-1] - case.t[0]) / steps
    step = {"options": {"step_size": size, "max_steps": 2 * steps}}
    solvers = []
    for method, mode in HBODE:
        run = partial(hbode_step, case, 1e-5, mode, method=method, **step)
        solvers.append(Solver(f"hbode {method} {mode}", lambda tol, run=run: run()))
        if mode == "discrete_adjoint":
            solvers.append(Solver(f"hbode compiled {method} {mode}", lambda tol, run=run: run(compile=True)))
    for name, solve in (("backprop", torchdiffeq.odeint), ("adjoint", torchdiffeq.odeint_adjoint)):
        run = partial(torchdiffeq_step, case, 1e-5, solve, method="rk4", options={"step_size": size})
        solvers.append(Solver(f"torchdiffeq rk4 {name}", lambda tol, run=run: run()))
    solvers.append(Solver("torchsde reversible_heun adjoint", lambda tol: torchsde_step(case, steps)))
    if found is not None:
        solvers += Diffrax(case, found).training("Tsit5", steps, backsolve=False)
    exact = case.reference()
    results, why = {}, {}
    for solver in solvers:
        try:
            results[solver.name] = solver.read(solver.run(0.0))
        except Exception as error:  # what a library dies of belongs in the table
            why[solver.name] = f"{type(error).__name__}: {str(error)[:60]}"
    timing = alternate({s.name: timed(s, 0.0) for s in solvers if s.name in results}, repeats, warmup=0)
    rows = []
    for name, result in results.items():
        counts = ["–" if n is None else str(n) for n in (result.nfe, result.nfe_backward)]
        found_errors = [f"{x:.1e}" for x in errors(result, exact)]
        micro = f"{1e6 * timing[name].median / steps:.0f}"
        over = ratio(timing["torchdiffeq rk4 backprop"], timing[name])
        rows.append([name, *found_errors, " / ".join(counts), str(timing[name]), micro, over])
    rows += [[name, text, *["–"] * 5] for name, text in why.items()]
    columns = ["solver", "error", "gradient error", "NFE f / b", "time", "µs a step", "torchdiffeq backprop / this"]
    return table(columns, rows)
