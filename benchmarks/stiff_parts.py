"""Stiff parts at an error of 1e-4: rkc and imex beside the proximal methods, auto, dopri5 and torchdiffeq's dopri5.

Evaluations count products with the Jacobian, and each part of a field in two parts by itself. The error is the largest
over the outputs of the root-mean-square error relative to the largest values of each component. The tolerance of a
method is the loosest of 10^-2, 10^-2.25, … whose error is at most 1e-4; evaluations and time are those of that run, the
time the median of three in turn with torchdiffeq's. imex_ark3 and 4 take the field as one (all of it stiff), and with
"split" in two parts. Bars, on the three diffusions: the better of rkc and imex needs at most 0.6 of the evaluations of
prox_bdf3, and at most 0.1 of the time of torchdiffeq's dopri5. Inner solvers: `inner_solvers.py`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torchdiffeq
from _common import header, table
from torch import Tensor, nn

from hbode import FirstOrder, HeavyBall, SolverError, SplitField, hbodeint
from hbode.systems import System

ERROR = 1e-4
TOLERANCES = [10 ** -(2 + 0.25 * k) for k in range(25)]
METHODS = ("rkc", "imex_ark3", "imex_ark4", "prox_bdf2", "prox_bdf3", "prox_bdf4", "kvaerno5", "esdirk4", "auto")
BETTER = ("rkc", "imex_ark3", "imex_ark4", "imex_ark3, split", "imex_ark4, split")
PEER = "torchdiffeq dopri5"

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """y' = stiff + nonstiff, from a start; the exact solution at the times, or None for one by dopri8 at 1e-12.

    With a damping, y'' + γ y' = stiff + nonstiff, from rest.
    """

    stiff: Field
    nonstiff: Field
    y0: Tensor
    times: Tensor
    exact: Callable[[Tensor], Tensor] | None = None
    damping: float | None = None

    def whole(self, t: Tensor, y: Tensor) -> Tensor:
        return self.stiff(t, y) + self.nonstiff(t, y)

    def system(self, f: Field | SplitField) -> System:
        return FirstOrder(f) if self.damping is None else HeavyBall(f, self.damping, trainable=False)


def diffusion(rate: float, reaction: Callable[[Tensor], Tensor], end: float, n: int = 128) -> Problem:
    """u_t = κ u_xx + r(u) on the unit interval, zero at both ends."""
    x = torch.linspace(0, 1, n + 2, dtype=torch.float64)[1:-1]

    def laplacian(t: Tensor, u: Tensor) -> Tensor:
        padded = nn.functional.pad(u, (1, 1))
        return (padded[..., 2:] - 2 * u + padded[..., :-2]) * (rate * (n + 1) ** 2)

    u0 = torch.sin(math.pi * x) + 0.5 * torch.sin(7 * math.pi * x) + 0.2 * torch.sin(31 * math.pi * x)
    times = torch.linspace(0, end, 9, dtype=torch.float64)
    return Problem(laplacian, lambda t, u: reaction(u), u0.unsqueeze(0), times)


def graph_diffusion(nodes: int = 400, channels: int = 4) -> Problem:
    """Diffusion on a contextual stochastic block model, with a source that keeps nodes at their features.

    Two classes, 10 edges a node inside and 3 across; features are ±1 of the class plus unit noise. Edges conduct by
    strengths over three decades, as attention may learn them, less the more their ends differ.
    """
    rng = torch.Generator().manual_seed(0)
    label = torch.arange(nodes) % 2
    same = label.unsqueeze(0) == label.unsqueeze(1)
    chance = torch.where(same, 20.0, 6.0) / nodes
    a, b = (torch.rand(nodes, nodes, generator=rng) < chance).triu(1).nonzero().T
    strength = 10 ** (3 * torch.rand(len(a), 1, generator=rng, dtype=torch.float64) - 1)
    features = (2.0 * label - 1).double().unsqueeze(1) + torch.randn(nodes, channels, generator=rng).double()

    def flow(t: Tensor, h: Tensor) -> Tensor:
        gap = h[b] - h[a]
        flow = strength * gap / (1 + gap.square())
        return torch.zeros_like(h).index_add(0, a, flow).index_add(0, b, -flow)

    times = torch.linspace(0, 4.0, 9, dtype=torch.float64)
    return Problem(flow, lambda t, h: 0.1 * (features - h), features, times)


def stiff_scalar(rate: float = -1e3) -> Problem:
    """y' = k y + (1 - k) cos t - (1 + k) sin t, y = sin t + cos t: the scalar problem of the proximal paper."""
    times = torch.linspace(0, 10.0, 9, dtype=torch.float64)
    return Problem(
        lambda t, y: rate * (y - torch.cos(t) - torch.sin(t)),
        lambda t, y: torch.cos(t) - torch.sin(t) + torch.zeros_like(y),
        torch.ones(1, 1, dtype=torch.float64),
        times,
        lambda t: torch.sin(t) + torch.cos(t),
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "heat, n = 128": lambda: diffusion(1.0, torch.zeros_like, 0.1),
    "Allen–Cahn, n = 128": lambda: diffusion(0.01, lambda u: 10 * (u - u**3), 5.0),
    "graph diffusion, 400 nodes": graph_diffusion,
    "stiff scalar, k = -1e3": stiff_scalar,
}
DIFFUSIONS = tuple(PROBLEMS)[:3]

Run = Callable[[float], tuple[Tensor, float]]


def ours(problem: Problem, method: str, split: bool = False, options: Mapping[str, object] | None = None) -> Run:
    f = SplitField(stiff=problem.stiff, nonstiff=problem.nonstiff) if split else problem.whole

    def run(tol: float) -> tuple[Tensor, float]:
        call = {"rtol": tol, "atol": tol, "method": method, "options": dict(options or {})}
        sol = hbodeint(problem.system(f), problem.y0, problem.times, **call)
        return sol.h, float(sol.stats.nfe)

    return run


def theirs(problem: Problem) -> Run:
    def run(tol: float) -> tuple[Tensor, float]:
        calls = 0

        def f(t: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return problem.whole(t, y)

        return torchdiffeq.odeint(f, problem.y0, problem.times, rtol=tol, atol=tol, method="dopri5"), float(calls)

    return run


def error_of(problem: Problem) -> Callable[[Tensor], float]:
    if problem.exact is None:
        call = {"rtol": 1e-12, "atol": 1e-12, "method": "dopri8"}
        exact = hbodeint(problem.system(problem.whole), problem.y0, problem.times, **call).h
    else:
        exact = problem.exact(problem.times).reshape(-1, 1, 1)
    size = exact.abs().amax(0).clamp(min=1e-300)
    return lambda states: float(((states - exact) / size)[1:].square().flatten(1).mean(1).sqrt().max())


def loosest(run: Run, error: Callable[[Tensor], float]) -> tuple[float, float] | None:
    """Return the loosest tolerance that is enough, and the evaluations there."""
    for tol in TOLERANCES:
        try:
            states, nfe = run(tol)
        except (SolverError, AssertionError):
            continue
        if error(states) <= ERROR:
            return tol, nfe
    return None


def seconds(run: Run, tol: float) -> float:
    begun = time.perf_counter()
    run(tol)
    return time.perf_counter() - begun


def methods() -> None:
    """Print evaluations and time of every method, and the bars."""
    bars = []
    for name, make in PROBLEMS.items():
        problem = make()
        error = error_of(problem)
        runs = {PEER: theirs(problem), "dopri5": ours(problem, "dopri5")}
        runs |= {method: ours(problem, method) for method in METHODS}
        runs |= {f"{method}, split": ours(problem, method, True) for method in ("imex_ark3", "imex_ark4")}
        found = {run: at for run, go in runs.items() if (at := loosest(go, error)) is not None}
        spent: dict[str, list[float]] = {run: [] for run in found}
        for _ in range(3):
            for run, (tol, _) in found.items():
                spent[run].append(seconds(runs[run], tol))
        base, prox = found[PEER][1], found["prox_bdf3"][1]
        rows = []
        for run in runs:
            if run not in found:
                rows.append([run, *["–"] * 5])
                continue
            tol, nfe = found[run]
            ratios = [a / b for a, b in zip(spent[run], spent[PEER], strict=True)]
            span = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
            rows.append([run, f"{math.log10(tol):.2f}", f"{nfe:,.0f}", f"{nfe / prox:.2f}", f"{nfe / base:.3f}", span])
        print(f"{name}: to an error of 1e-4")
        print(table(["method", "log tolerance", "evaluations", "/ prox_bdf3", f"/ {PEER}", "time / the same"], rows))
        print(flush=True)
        if name in DIFFUSIONS:
            least = min((found[run][1] / prox, run) for run in BETTER if run in found)
            quick = min(
                (statistics.median(a / b for a, b in zip(spent[run], spent[PEER], strict=True)), run)
                for run in BETTER
                if run in found
            )
            bars.append([name, f"{least[0]:.2f} ({least[1]})", f"{quick[0]:.3f} ({quick[1]})"])
    if bars:
        print("The better of rkc and imex")
        print(table(["problem", "evaluations / prox_bdf3 (bar 0.6)", f"time / {PEER} (bar 0.1)"], bars))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="problems whose names contain this")
    only = parser.parse_args().only
    for name in [name for name in PROBLEMS if only not in name]:
        del PROBLEMS[name]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        print(header("Stiff parts"))
        methods()


if __name__ == "__main__":
    main()
