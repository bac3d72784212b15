"""Work on stiff problems at equal error: schemes and inner solvers, beside torchdiffeq and scipy.

Evaluations of the field count products with its Jacobian, and those that scipy spends on difference quotients. The
error is the largest over the outputs of the root-mean-square error relative to the largest values of each component;
work at an error is read off the log-log curve over the tolerances 1e-2 … 1e-8, and is that of the loosest one where it
is more accurate than asked for. Time is seconds per evaluation, a median over the tolerances, times evaluations. A run
of more than 30,000 evaluations is given up (–), and with it all tighter tolerances, as they are after 8 seconds. Bar:
on the three diffusions, the default proximal solver (prox_bdf3 with anderson) needs at most 0.15 of the
evaluations of torchdiffeq's dopri5.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torchdiffeq
from _common import header, table
from _inner_solvers import OTHERS
from torch import Tensor, nn

from hbode import FirstOrder, HeavyBall, SolverError, hbodeint
from hbode.analysis import WorkPrecision
from hbode.solvers.implicit.inner import Inner
from hbode.systems import System

ERRORS = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
TOLERANCES = [10.0**-k for k in range(2, 9)]
SECONDS = 8.0
"""What a method may spend on a problem before its remaining tolerances are left out."""
MOST = 30_000
DEFAULT = "prox_bdf3"
SCHEMES = ("prox_euler", "prox_cn", "prox_multistage3", "prox_bdf2", "prox_bdf3", "prox_bdf4", "kvaerno3", "kvaerno5")
INNER = {name: name for name in ("newton_krylov", "fletcher_reeves", "barzilai_borwein", "lbfgs")} | OTHERS
SCIPY = ("BDF", "Radau", "LSODA")
PEER = "torchdiffeq dopri5"


@dataclass(frozen=True)
class Problem:
    """A system, its start, and where it is asked for; `scale` is that of atol for each component."""

    system: System
    y0: Tensor
    times: Tensor
    m0: Tensor | None = None
    scale: float | Tensor = 1.0
    inner: bool = False
    reference: tuple[str, float] = ("scipy:Radau", 1e-11)
    components: tuple[int, ...] = field(default=())

    @property
    def f(self) -> Counted:
        f = self.system.f
        if not isinstance(f, Counted):
            raise TypeError(f"the field must be Counted, got {type(f).__name__}")
        return f

    @property
    def start(self) -> Tensor:
        return self.y0 if self.m0 is None else torch.stack((self.y0, self.m0))


def diffusion(n: int, rate: float, reaction: Callable[[Tensor], Tensor] | None, end: float) -> Problem:
    """u_t = κ u_xx + r(u) on the unit interval, zero at both ends."""
    x = torch.linspace(0, 1, n + 2, dtype=torch.float64)[1:-1]

    def f(t: Tensor, u: Tensor) -> Tensor:
        padded = nn.functional.pad(u, (1, 1))
        out = (padded[..., 2:] - 2 * u + padded[..., :-2]) * (rate * (n + 1) ** 2)
        return out if reaction is None else out + reaction(u)

    u0 = torch.sin(math.pi * x) + 0.5 * torch.sin(7 * math.pi * x) + 0.2 * torch.sin(31 * math.pi * x)
    times = torch.linspace(0, end, 9, dtype=torch.float64)
    return Problem(FirstOrder(Counted(f)), u0.unsqueeze(0), times, inner=True, reference=("dopri8", 1e-12))


def graph_diffusion(nodes: int = 2000, channels: int = 4) -> Problem:
    """Diffusion on a random graph; edges conduct less the more their ends differ; strengths over three decades."""
    rng = torch.Generator().manual_seed(0)
    edges = torch.randint(0, nodes, (2, 5 * nodes), generator=rng)
    a, b = edges[:, edges[0] != edges[1]]
    strength = 10 ** (3 * torch.rand(len(a), 1, generator=rng, dtype=torch.float64) - 1)

    def f(t: Tensor, h: Tensor) -> Tensor:
        gap = h[b] - h[a]
        flow = strength * gap / (1 + gap.square())
        return torch.zeros_like(h).index_add(0, a, flow).index_add(0, b, -flow)

    h0 = torch.randn(nodes, channels, generator=rng, dtype=torch.float64)
    times = torch.linspace(0, 4.0, 9, dtype=torch.float64)
    return Problem(FirstOrder(Counted(f)), h0, times, inner=True, reference=("dopri8", 1e-11))


def stiff_heavy_ball() -> Problem:
    """A heavy ball in a valley: curvatures from 1 to 1e5, quartic walls, the floor of the valley moving."""
    curvature = torch.logspace(0, 5, 16, dtype=torch.float64)

    def f(t: Tensor, h: Tensor) -> Tensor:
        x = h - torch.cos(t)
        return -curvature * (x + 0.2 * x**3)

    h0 = torch.full((1, 16), 0.5, dtype=torch.float64)
    times = torch.linspace(0, 10.0, 9, dtype=torch.float64)[[0, 4, 5, 6, 7, 8]]
    return Problem(HeavyBall(Counted(f), 20.0, trainable=False), h0, times, torch.zeros_like(h0))


def van_der_pol(mu: float = 1e3) -> Problem:
    def f(t: Tensor, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack((b, mu * (1 - a * a) * b - a), -1)

    times = torch.linspace(0, 2000.0, 5, dtype=torch.float64)
    return Problem(FirstOrder(Counted(f)), torch.tensor([[2.0, 0.0]], dtype=torch.float64), times, components=(0,))


def rober() -> Problem:
    def f(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        slow, fast, decay = 0.04 * a, 1e4 * b * c, 3e7 * b * b
        return torch.stack((fast - slow, slow - fast - decay, decay), -1)

    times = torch.tensor([0.0, 0.4, 4.0, 40.0, 400.0, 4000.0, 1e4], dtype=torch.float64)
    return Problem(FirstOrder(Counted(f)), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), times, scale=1e-4)


def hires() -> Problem:
    """High irradiance responses, eight reactions (Schäfer 1975; Hairer, Wanner 1996, IV.10)."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        a, b, c, d, e, g, h, i = y.unbind(-1)
        bound = 280 * g * i - 1.81 * h
        return torch.stack(
            (
                -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
                1.71 * a - 8.75 * b,
                -10.03 * c + 0.43 * d + 0.035 * e,
                8.32 * b + 1.71 * c - 1.12 * d,
                -1.745 * e + 0.43 * g + 0.43 * h,
                -280 * g * i + 0.69 * d + 1.71 * e - 0.43 * g + 0.69 * h,
                bound,
                -bound,
            ),
            -1,
        )

    y0 = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0.0057]], dtype=torch.float64)
    times = torch.linspace(0, 321.8122, 9, dtype=torch.float64)
    return Problem(FirstOrder(Counted(f)), y0, times, scale=1e-2)


def stiffened_network() -> Problem:
    """A tanh network as it may be learned, relaxing at rates from 1 to 1e4: no gradient field, complex eigenvalues."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32)).double().requires_grad_(False)
    rates = torch.logspace(0, 4, 32, dtype=torch.float64)
    y0 = torch.randn(16, 32, dtype=torch.float64)
    times = torch.linspace(0, 5.0, 9, dtype=torch.float64)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return rates * (2 * net(y + torch.sin(t)) - y)

    return Problem(FirstOrder(Counted(f)), y0, times, inner=True)


PROBLEMS = {
    "heat, n = 128": lambda: diffusion(128, 1.0, None, 0.1),
    "Allen–Cahn, n = 128": lambda: diffusion(128, 0.01, lambda u: 10 * (u - u**3), 5.0),
    "graph diffusion, 2,000 nodes": graph_diffusion,
    "stiff heavy ball": stiff_heavy_ball,
    "Van der Pol, μ = 1e3": van_der_pol,
    "ROBER": rober,
    "HIRES": hires,
    "stiffened network": stiffened_network,
}


DIFFUSIONS = tuple(PROBLEMS)[:3]


class Counted:
    """A vector field that counts its evaluations, and gives up."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.f, self.calls, self.most = f, 0, MOST

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.most:
            raise OverflowError
        return self.f(t, y)


Run = Callable[[float], tuple[Tensor, float]]


def ours(problem: Problem, method: str, inner: str | Inner | None, tol: float) -> tuple[Tensor, float]:
    """Return the states and the evaluations of a solve by hbode; scipy's methods too."""
    options: dict[str, object] = {} if inner is None else {"inner": inner}
    atol = tol * problem.scale
    if ":" not in method:
        options["max_steps"] = MOST // 5
    sol = hbodeint(
        problem.system, problem.y0, problem.times, m0=problem.m0, method=method, rtol=tol, atol=atol, options=options
    )
    states = sol.h if sol.m is None else torch.stack((sol.h, sol.m), 1)
    return states, float(sol.stats.nfe)


def theirs(problem: Problem, method: str, tol: float) -> tuple[Tensor, float]:
    """Return the same of torchdiffeq; implicit_adams on a grid of √tol / 10 of the span."""
    coefficients = [None if c is None else c.to(problem.y0) for c in problem.system.coefficients()]
    options = {}

    def rhs(t: Tensor, y: Tensor) -> Tensor:
        return problem.system.rhs(t, y, *coefficients)

    if method == "implicit_adams":
        options["step_size"] = float(problem.times[-1]) * tol**0.5 / 10
    atol = tol * problem.scale
    states = torchdiffeq.odeint(rhs, problem.start, problem.times, rtol=tol, atol=atol, method=method, options=options)
    return states, float(problem.f.calls)


def runs(problem: Problem) -> dict[str, Run]:
    """Return every run of a problem by name."""
    explicit = "dopri5" if problem.m0 is None else "dprkn6"
    found: dict[str, Run] = {PEER: partial(theirs, problem, "dopri5")}
    found["torchdiffeq implicit_adams"] = partial(theirs, problem, "implicit_adams")
    for name in dict.fromkeys(("dopri5", explicit, "auto", *SCHEMES)):
        found[name] = partial(ours, problem, name, None)
    for name, inner in INNER.items() if problem.inner else ():
        found[f"{DEFAULT}, {name}"] = partial(ours, problem, DEFAULT, inner)
    for name in SCIPY if problem.y0.numel() < 5000 else ():  # their Jacobians would be dense
        found[f"scipy {name}"] = partial(ours, problem, f"scipy:{name}", None)
    return found


@dataclass(frozen=True)
class Curve:
    """Evaluations over the error, and seconds per evaluation."""

    points: WorkPrecision
    pace: float

    def work_at(self, error: float) -> float:
        """Return the least evaluations that reach an error."""
        reached = zip(self.points.work, self.points.error, strict=True)
        enough = [work for work, e in reached if e <= error]
        read = self.points.work_at(error)
        return read if math.isfinite(read) else min(enough, default=math.nan)


def measured(problem: Problem) -> dict[str, Curve]:
    """Return the curve of every run."""
    method, tol = problem.reference
    problem.f.most = 10**9
    exact, _ = ours(problem, method, None, tol)
    kept = problem.components
    size = exact.abs().amax(0).clamp(min=1e-300)
    if problem.components:
        exact, size = exact[..., kept], size[..., kept]

    def error(states: Tensor) -> float:
        states = states[..., kept] if kept else states
        return float(((states - exact) / size)[1:].square().flatten(1).mean(1).sqrt().max())

    curves = {}
    for name, run in runs(problem).items():
        work, errors, paces, spent = [], [], [], 0.0
        for tol in TOLERANCES:
            if spent > (4 if name == PEER else 1) * SECONDS:
                break
            problem.f.calls, problem.f.most = 0, MOST
            begun = time.perf_counter()
            try:
                states, nfe = run(tol)
            except (SolverError, AssertionError):  # unstable at a loose tolerance, it may be stable at a tighter one
                spent += time.perf_counter() - begun
                continue
            except OverflowError:
                break
            seconds = time.perf_counter() - begun
            spent += seconds
            work.append(nfe)
            errors.append(error(states))
            paces.append(seconds / nfe)
        pace = statistics.median(paces) if paces else math.nan
        curves[name] = Curve(WorkPrecision(tuple(work), tuple(errors)), pace)
    return curves


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="problems whose names contain this")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(header("Stiff problems: evaluations of f and products with its Jacobian, at equal error"))
    bars = []
    for name, make in PROBLEMS.items():
        if only not in name:
            continue
        problem = make()
        with torch.no_grad():
            curves = measured(problem)
        base = curves[PEER]
        rows = []
        for run, curve in curves.items():
            values = [curve.work_at(e) for e in ERRORS]
            share = curve.work_at(1e-4) / base.work_at(1e-4)
            pace = share * curve.pace / base.pace
            cells = ["–" if math.isnan(v) else f"{v:,.0f}" for v in values]
            rows.append([run, *cells, *("–" if math.isnan(v) else f"{v:.3f}" for v in (share, pace))])
        print(f"{name}: evaluations at an error of …; evaluations and time at 1e-4 over those of {PEER}")
        print(table(["method", *(f"{e:.0e}" for e in ERRORS), "evaluations", "time"], rows), end="\n\n", flush=True)
        if name in DIFFUSIONS:
            bars.append([name, *(f"{curves[DEFAULT].work_at(e) / base.work_at(e):.3f}" for e in ERRORS)])
    if bars:
        print(f"Evaluations of {DEFAULT} over those of {PEER} (bar: 0.15)")
        print(table(["problem", *(f"{e:.0e}" for e in ERRORS)], bars))


if __name__ == "__main__":
    main()
