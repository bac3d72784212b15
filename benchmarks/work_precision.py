"""Evaluations of f against error: dprkn6, dprkn8 and dopri5 of hbode, dopri5 and dopri8 of torchdiffeq.

Heavy-ball problems in float64, 17 outputs each; the error is the largest root-mean-square error of (h, m) over the
outputs, relative to the root-mean-square of the solution. Work at equal error is read off the log-log curves at
1e-2 … 1e-8 and compared by geometric means. Bar: best Nyström method over torchdiffeq dopri5 ≤ 0.65.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torchdiffeq
from _common import header, table
from torch import Tensor, nn

from hbode import HeavyBall, hbodeint
from hbode.analysis import WorkPrecision

ERRORS = [10.0**-k for k in range(2, 9)]
TOLERANCES = [10.0 ** (-k / 2) for k in range(1, 25)]
OURS, THEIRS = ("dprkn6", "dprkn8", "dopri5"), ("dopri5", "dopri8")


@dataclass(frozen=True)
class Problem:
    """h'' + γ h' = f(t, h) from (h0, m0) to `end`, with its exact solution where there is one."""

    f: Callable[[Tensor, Tensor], Tensor]
    gamma: float
    h0: Tensor
    m0: Tensor
    end: float
    exact: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None


def learned(activation: type[nn.Module], end: float) -> Problem:
    """A random network with a restoring part, as a trained field has: f(t, h) = W2 σ(W1 h + sin t) - h."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 64), activation(), nn.Linear(64, 20)).double().requires_grad_(False)
    h0 = torch.randn(8, 20, dtype=torch.float64)
    return Problem(lambda t, h: 3.0 * net(h + 0.3 * torch.sin(t)) - h, 0.0474, h0, torch.zeros_like(h0), end)


def duffing() -> Problem:
    h0 = torch.tensor([[0.5], [1.0], [-1.2], [0.1]], dtype=torch.float64)
    return Problem(lambda t, h: h - h**3 + 0.3 * torch.cos(1.2 * t), 0.2, h0, torch.zeros_like(h0), 20.0)


def henon_heiles() -> Problem:
    def f(t: Tensor, h: Tensor) -> Tensor:
        x, y = h.unbind(-1)
        return torch.stack((-x - 2 * x * y, -y - x**2 + y**2), -1)

    h0 = torch.tensor([[0.0, 0.1], [0.1, 0.0]], dtype=torch.float64)
    return Problem(f, 0.0, h0, torch.tensor([[0.4, 0.0], [0.2, 0.3]], dtype=torch.float64), 30.0)


def kepler() -> Problem:
    e = 0.5
    h0 = torch.tensor([[1 - e, 0.0]], dtype=torch.float64)
    m0 = torch.tensor([[0.0, math.sqrt((1 + e) / (1 - e))]], dtype=torch.float64)
    return Problem(lambda t, h: -h / h.norm(dim=-1, keepdim=True) ** 3, 0.0, h0, m0, 20.0)


def driven_oscillator() -> Problem:
    """h'' + γ h' + k h = cos(ω t): the exact solution is the steady state plus a decaying oscillation."""
    gamma, k, omega = 0.1, 4.0, 1.5
    h0, m0 = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[0.0]], dtype=torch.float64)
    amplitude = 1 / (k - omega**2 + 1j * gamma * omega)
    root = complex(-gamma / 2, math.sqrt(k - gamma**2 / 4))
    rest, speed = 1.0 - amplitude.real, -(1j * omega * amplitude).real
    weight = complex(rest, (root.real * rest - speed) / root.imag)

    def exact(t: Tensor) -> tuple[Tensor, Tensor]:
        steady, free = amplitude * torch.exp(1j * omega * t), weight * torch.exp(root * t)
        return (steady + free).real.view(-1, 1, 1), (1j * omega * steady + root * free).real.view(-1, 1, 1)

    return Problem(lambda t, h: torch.cos(omega * t) - k * h, gamma, h0, m0, 20.0, exact)


PROBLEMS = {
    "tanh network": learned(nn.Tanh, 12.0),
    "ReLU network": learned(nn.ReLU, 12.0),
    "ELU network": learned(nn.ELU, 12.0),
    "driven Duffing": duffing(),
    "Hénon–Heiles": henon_heiles(),
    "Kepler e = 0.5": kepler(),
    "driven oscillator": driven_oscillator(),
}


def curve(run: Callable[[float], tuple[float, float]]) -> WorkPrecision:
    """Return the curve of ``run(tolerance) -> (work, error)``, up to the finest error that is asked for."""
    points = []
    for tolerance in TOLERANCES:
        points.append(run(tolerance))
        if points[-1][1] < ERRORS[-1]:
            break
    work, error = zip(*points, strict=True)
    return WorkPrecision(work, error)


def curves(problem: Problem) -> dict[str, WorkPrecision]:
    """Return the work-precision curve of every method."""
    t = torch.linspace(0, problem.end, 17, dtype=torch.float64)
    system = HeavyBall(problem.f, problem.gamma, trainable=False)
    if problem.exact is not None:
        reference = torch.stack(problem.exact(t))
    else:
        exact = hbodeint(system, problem.h0, t, m0=problem.m0, method="dopri8", rtol=1e-12, atol=1e-12)
        check = hbodeint(system, problem.h0, t, m0=problem.m0, method="dprkn8", rtol=1e-12, atol=1e-12)
        reference = torch.stack((check.h, check.m))
        gap = float((torch.stack((exact.h, exact.m)) - reference).abs().max() / reference.abs().max())
        if gap > 1e-9:
            print(f"  (two reference solutions differ by {gap:.1e})")
    size = reference.square().mean().sqrt()

    def error(h: Tensor, m: Tensor) -> float:
        return float((torch.stack((h, m)) - reference).square().mean((0, *range(2, h.ndim + 1))).sqrt().max() / size)

    def ours(method: str, tol: float) -> tuple[float, float]:
        sol = hbodeint(system, problem.h0, t, m0=problem.m0, method=method, rtol=tol, atol=tol, throw=False)
        return float(sol.stats.nfe), error(sol.h, sol.m)

    def theirs(method: str, tol: float) -> tuple[float, float]:
        calls = 0

        def joined(t: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return torch.stack((y[1], problem.f(t, y[0]) - problem.gamma * y[1]))

        start = torch.stack((problem.h0, problem.m0))
        try:
            y = torchdiffeq.odeint(joined, start, t, rtol=tol, atol=tol, method=method)
        except AssertionError:  # its way to say that the step underflowed: at loose tolerances orbits may escape
            return float(calls), math.nan
        return float(calls), error(y[:, 0], y[:, 1])

    found = {}
    with torch.no_grad():
        for name, run, methods in (("hbode", ours, OURS), ("torchdiffeq", theirs, THEIRS)):
            for method in methods:
                found[f"{name} {method}"] = curve(partial(run, method))
    return found


def mean(values: list[float]) -> float:
    """Return the geometric mean of the finite values."""
    logs = [math.log(v) for v in values if math.isfinite(v)]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def main() -> None:
    """Print the table."""
    print(header("Evaluations of f at equal error"))
    base = "torchdiffeq dopri5"
    rows, ratios = [], []
    for name, problem in PROBLEMS.items():
        found = curves(problem)
        for method, curve in found.items():
            work = [curve.work_at(e) for e in ERRORS]
            rows.append([name, method, *("–" if math.isnan(w) else f"{w:.0f}" for w in work)])
        over = {m: [c.work_at(e) / found[base].work_at(e) for e in ERRORS] for m, c in found.items()}
        over["best Nyström"] = [min(a, b) for a, b in zip(over["hbode dprkn6"], over["hbode dprkn8"], strict=True)]
        ratios.append((name, {m: mean(v) for m, v in over.items()}))
    print(table(["problem", "method", *(f"{e:.0e}" for e in ERRORS)], rows))
    columns = ["hbode dprkn6", "hbode dprkn8", "best Nyström", "hbode dopri5", "torchdiffeq dopri8"]
    print(f"\nWork over that of {base}, geometric mean over the errors:")
    lines = [[name, *(f"{values[c]:.2f}" for c in columns)] for name, values in ratios]
    lines.append(["all problems", *(f"{mean([values[c] for _, values in ratios]):.2f}" for c in columns)])
    print(table(["problem", *columns], lines))


if __name__ == "__main__":
    main()
