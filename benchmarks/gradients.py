"""Gradient modes side by side: time, peak memory, backward evaluations and gradient error of a training step.

The problem is that of training_step.py: h'' + γ h' = f(h), γ = 0.05, a two-layer tanh network, float32, t = 0 … 8 with
65 outputs, the loss the mean square of all positions and momenta. torchdiffeq's adjoint runs at rtol = atol = 1e-6,
plain and with the seminorm; each mode of hbode at the loosest tolerance of a ladder at which the errors of positions
and gradients, against float64 at 1e-12, are at most the smaller ones of torchdiffeq's two. All eager, method dprkn6.

Evaluations are those of f in the backward pass, products those of its Jacobian with a cotangent: one each for every
evaluation of torchdiffeq's adjoint. Peak memory is the growth of the resident memory of a process that has done
nothing but the same with two outputs 0.01 apart before: the least of two, in MiB.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys

import torch
import torchdiffeq
from _common import SIZES, Joined, alternate, header, ratio, table
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


def run(name: str, net: nn.Module, h0: Tensor, t: Tensor, tol: float):
    """Run one entry of the table."""
    return theirs(net, h0, t, PEERS[name]) if name in PEERS else ours(net, h0, t, tol, MODES[name])


def peak(name: str, size: tuple[int, int, int], tol: float) -> float:
    """Return the growth of the peak memory, in MiB."""
    net, h0, t = problem(*size, torch.float32)

    def used() -> float:
        scale = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale

    run(name, net, h0, t[:2] * 0.08, tol)
    before = used()
    run(name, net, h0, t, tol)
    return used() - before


def memory(name: str, size: tuple[int, int, int], tol: float) -> float:
    """Return the least peak of two processes."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return min(pool.apply(peak, (name, size, tol)) for _ in range(2))


def measure(label: str, size: tuple[int, int, int]) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table for one size, and its row of ratios."""
    exact = ours(*problem(*size, torch.float64), 1e-12, DiscreteAdjoint(), "dprkn8")
    net, h0, t = problem(*size, torch.float32)
    first = {name: run(name, net, h0, t, TOL) for name in PEERS}
    target = [min(error(first[name], exact)[i] for name in PEERS) for i in (0, 1)]
    tols = dict.fromkeys(PEERS, TOL)
    for name in MODES:
        for tol in LADDER:
            first[name] = run(name, net, h0, t, tol)
            reached = error(first[name], exact)
            if reached[0] <= target[0] and reached[1] <= target[1]:
                break
        tols[name] = tol
    names = [*MODES, *PEERS]
    timing = alternate(
        {name: (lambda name=name: run(name, net, h0, t, tols[name])) for name in names},
        repeats=9 if size[1] < 256 else 3,
        warmup=0,
    )
    rows = []
    for name in names:
        errors = [f"{x:.1e}" for x in error(first[name], exact)]
        counts = [str(x) for x in first[name][2]]
        used = f"{memory(name, size, tols[name]):.1f}"
        rows.append([label, name, f"{tols[name]:.1e}", *errors, *counts, used, str(timing[name])])
    mine = first["continuous_adjoint"][2]
    ratios = [label]
    for name in PEERS:
        ratios += [f"{mine[i] / first[name][2][i]:.3f}" for i in (0, 1)]
        ratios.append(ratio(timing[name], timing["continuous_adjoint"]))
    return rows, ratios


def main() -> None:
    """Print the tables."""
    measured = [measure(label, size) for label, size in SIZES.items()]
    print(header("Gradient modes, training step with 65 outputs (time in ms: median, range)"))
    columns = ["size", "mode", "tol", "error", "gradient error", "evaluations", "products", "MiB", "time"]
    print(table(columns, [row for rows, _ in measured for row in rows]))
    print("\ncontinuous_adjoint over torchdiffeq's adjoint: evaluations, products; torchdiffeq's time over its own")
    columns = ["size", *(f"{name}: {what}" for name in ("plain", "seminorm") for what in ("evals", "products", "time"))]
    print(table(columns, [ratios for _, ratios in measured]))


if __name__ == "__main__":
    main()
