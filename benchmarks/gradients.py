"""Gradient modes side by side: time, peak memory, backward evaluations and gradient error of a training step.

The problem is that of training_step.py: h'' + γ h' = f(h), γ = 0.05, a two-layer tanh network, float32, t = 0 … 8 with
65 outputs, the loss the mean square of all positions and momenta. torchdiffeq's adjoint runs at rtol = atol = 1e-6,
plain and with the seminorm; each mode of hbode at the loosest tolerances of ladders at which the errors of positions
and gradients, against float64 at 1e-12, are at most the smaller ones of torchdiffeq's two: one tolerance, or for the
continuous adjoint one of the solve and one of the adjoint. All eager, method dprkn6.

Evaluations are those of f in the backward pass, products those of its Jacobian with a cotangent: one each for every
evaluation of torchdiffeq's adjoint. Peak memory, in MiB, is the growth of the peak of a process that has done nothing
but the same with two outputs 0.01 apart before; freed tensors go back to the system at once. The least of two.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torchdiffeq
from _common import SIZES, Joined, alternate, header, peak_memory, ratio, table
from torch import Tensor, nn
from training_step import GAMMA, TOL, error, problem

from hbode import HeavyBall, hbodeint
from hbode.gradients import Backprop, ContinuousAdjoint, DiscreteAdjoint, Gradient, Reversible

MODES: dict[str, Gradient] = {
    "backprop": Backprop(),
    "discrete_adjoint": DiscreteAdjoint(),
    "discrete_adjoint, 4 checkpoints": DiscreteAdjoint(checkpoints=4),
    "reversible": Reversible(),
    "continuous_adjoint": ContinuousAdjoint(),
    "continuous_adjoint, backsolve": ContinuousAdjoint(adjoint_state="backsolve"),
}
PEERS = {"torchdiffeq adjoint": None, "torchdiffeq adjoint, seminorm": {"norm": "seminorm"}}
LADDER = [10.0 ** -(e / 2) for e in range(5, 15)]
FINER = [10.0 ** -(e / 4) for e in range(8, 28)]


@dataclass(frozen=True)
class Entry:
    """A line of the table: its name, the tolerance of the solve, and that of the adjoint where it has one."""

    name: str
    tol: float
    adjoint_tol: float | None = None

    def mode(self) -> Gradient:
        """Return the gradient mode."""
        mode = MODES[self.name]
        if self.adjoint_tol is None:
            return mode
        return replace(mode, adjoint_rtol=self.adjoint_tol, adjoint_atol=self.adjoint_tol)

    def __str__(self) -> str:
        return f"{self.tol:.1e}" + ("" if self.adjoint_tol is None else f" / {self.adjoint_tol:.1e}")


class Counted(nn.Module):
    """A network that counts its evaluations and the products with its Jacobian."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.evaluations, self.products = net, 0, 0

    def forward(self, h: Tensor) -> Tensor:
        self.evaluations += 1
        out = self.net(h)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, _: Tensor) -> None:
        self.products += 1


def ours(net: nn.Module, h0: Tensor, t: Tensor, tol: float, mode: Gradient, method: str = "dprkn6"):
    """Return positions, gradients and the backward counts of one training step."""
    counted, h0 = Counted(net), h0.detach().requires_grad_()
    system = HeavyBall(lambda t, h: counted(h), GAMMA, trainable=False)
    sol = hbodeint(system, h0, t, rtol=tol, atol=tol, gradient=mode, method=method)
    forward = counted.evaluations
    wanted = (h0, *net.parameters())
    grads = torch.autograd.grad((sol.h.square() + sol.m.square()).mean(), wanted)
    return sol.h.detach(), list(grads), (counted.evaluations - forward, counted.products)


def theirs(net: nn.Module, h0: Tensor, t: Tensor, options: dict[str, str] | None):
    """The same with torchdiffeq's adjoint."""
    counted, h0 = Counted(net), h0.detach().requires_grad_()
    joined = Joined(counted, GAMMA)
    y0 = torch.cat((h0, torch.zeros_like(h0)), -1)
    y = torchdiffeq.odeint_adjoint(joined, y0, t, rtol=TOL, atol=TOL, method="dopri5", adjoint_options=options or {})
    forward = counted.evaluations
    h, m = y.chunk(2, -1)
    wanted = (h0, *net.parameters())
    grads = torch.autograd.grad((h.square() + m.square()).mean(), wanted)
    return h.detach(), list(grads), (counted.evaluations - forward, counted.products)


def run(entry: Entry, net: nn.Module, h0: Tensor, t: Tensor):
    """Run one entry of the table."""
    if entry.name in PEERS:
        return theirs(net, h0, t, PEERS[entry.name])
    return ours(net, h0, t, entry.tol, entry.mode())


def peak(entry: Entry, size: tuple[int, int, int]) -> float:
    """Return the growth of the peak memory, in MiB."""
    net, h0, t = problem(*size, torch.float32)
    run(entry, net, h0, t[:2] * 0.08)
    before = peak_memory()
    run(entry, net, h0, t)
    return peak_memory() - before


def memory(entry: Entry, size: tuple[int, int, int]) -> float:
    """Return the least peak of two processes."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return min(pool.apply(peak, (entry, size)) for _ in range(2))


def loosest(name: str, solve: Callable[[Entry], tuple[float, float]], target: list[float]) -> Entry:
    """Return the entry whose errors meet the target at the loosest tolerances."""
    adjoint = name.startswith("continuous")
    for tol in LADDER:
        entry = Entry(name, tol, 1e-7 if adjoint else None)
        reached = solve(entry)
        if reached[0] <= target[0] and (adjoint or reached[1] <= target[1]):
            break
    for adjoint_tol in FINER if adjoint else ():
        entry = Entry(name, tol, adjoint_tol)
        if solve(entry)[1] <= target[1]:
            break
    return entry


def measure(label: str, size: tuple[int, int, int]) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table for one size, and its row of ratios."""
    exact = ours(*problem(*size, torch.float64), 1e-12, DiscreteAdjoint(), "dprkn8")
    net, h0, t = problem(*size, torch.float32)
    entries = {name: Entry(name, TOL) for name in PEERS}
    first = {name: run(entry, net, h0, t) for name, entry in entries.items()}
    target = [min(error(first[name], exact)[i] for name in PEERS) for i in (0, 1)]
    for name in reversed(MODES):
        entry = loosest(name, lambda entry: error(run(entry, net, h0, t), exact), target)
        entries = {name: entry, **entries}
        first[name] = run(entry, net, h0, t)
    timing = alternate(
        {name: (lambda entry=entry: run(entry, net, h0, t)) for name, entry in entries.items()},
        repeats=9 if size[1] < 256 else 3,
        warmup=0,
    )
    rows = []
    for name, entry in entries.items():
        errors = [f"{x:.1e}" for x in error(first[name], exact)]
        counts = [str(x) for x in first[name][2]]
        used = f"{memory(entry, size):.1f}"
        rows.append([label, name, str(entry), *errors, *counts, used, str(timing[name])])
    mine = first["continuous_adjoint"][2]
    ratios = [label]
    for name in PEERS:
        ratios += [f"{mine[i] / first[name][2][i]:.3f}" for i in (0, 1)]
        ratios.append(ratio(timing[name], timing["continuous_adjoint"]))
    return rows, ratios


def main() -> None:
    """Print the tables."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # of the processes whose memory is measured
    measured = [measure(label, size) for label, size in SIZES.items()]
    print(header("Gradient modes, training step with 65 outputs (time in ms: median, range)"))
    columns = ["size", "mode", "tol", "error", "gradient error", "evaluations", "products", "MiB", "time"]
    print(table(columns, [row for rows, _ in measured for row in rows]))
    print("\ncontinuous_adjoint over torchdiffeq's adjoint: evaluations, products; torchdiffeq's time over its own")
    columns = ["size", *(f"{name}: {what}" for name in ("plain", "seminorm") for what in ("evals", "products", "time"))]
    print(table(columns, [ratios for _, ratios in measured]))


if __name__ == "__main__":
    main()
