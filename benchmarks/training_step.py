"""Forward and backward of a solve with 65 outputs: hbode's gradient modes beside torchdiffeq's.

The heavy ball h'' + γ h' = f(h), γ = 0.05, with a two-layer tanh network, float32, t = 0 … 8; the loss is the mean
square of all positions and momenta, the gradients those of the initial state and of all weights. torchdiffeq runs
dopri5 at rtol = atol = 1e-6; hbode runs at the loosest tolerance of a ladder that gives an equal or smaller error,
forward and in the gradient, both measured against float64 at 1e-12. All eager.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchdiffeq
from _common import SIZES, Joined, alternate, header, network, ratio, table
from torch import Tensor

from hbode import HeavyBall, hbodeint

GAMMA, TOL = 0.05, 1e-6
LADDER = [10.0**-e for e in (3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7)]


def problem(batch: int, dim: int, hidden: int, dtype: torch.dtype):
    """Return network, initial position and times, equal for every dtype up to rounding."""
    net = network(dim, hidden, torch.float64).to(torch.float32).to(dtype)
    h0 = torch.randn(batch, dim, generator=torch.Generator().manual_seed(1)).to(dtype)
    return net, h0, torch.linspace(0, 8, 65, dtype=dtype)


def ours(net, h0: Tensor, t: Tensor, tol: float, gradient: str, method: str = "dprkn6"):
    """Return positions, gradients and counts of one training step."""
    h0 = h0.detach().requires_grad_()
    for p in net.parameters():
        p.grad = None
    system = HeavyBall(lambda t, h: net(h), GAMMA, trainable=False)
    sol = hbodeint(system, h0, t, rtol=tol, atol=tol, gradient=gradient, method=method)
    loss = (sol.h.square() + sol.m.square()).mean()
    loss.backward()
    return sol.h.detach(), [h0.grad, *(p.grad for p in net.parameters())], (sol.stats.nfe, sol.stats.nfe_backward)


def theirs(net, h0: Tensor, t: Tensor, adjoint: bool):
    """The same with torchdiffeq."""
    joined = Joined(net, GAMMA)
    h0 = h0.detach().requires_grad_()
    for p in net.parameters():
        p.grad = None
    y0 = torch.cat((h0, torch.zeros_like(h0)), -1)
    solve: Callable[..., Tensor] = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
    h, m = solve(joined, y0, t, rtol=TOL, atol=TOL, method="dopri5").chunk(2, -1)
    forward = joined.nfe
    (h.square() + m.square()).mean().backward()
    return h.detach(), [h0.grad, *(p.grad for p in net.parameters())], (forward, joined.nfe - forward)


def error(result, reference) -> tuple[float, float]:
    """Return the relative errors of positions and gradients."""

    def norm(xs, ys):
        difference = sum(float((x.double() - y).square().sum()) for x, y in zip(xs, ys, strict=True))
        return (difference / sum(float(y.square().sum()) for y in ys)) ** 0.5

    return norm([result[0]], [reference[0]]), norm(result[1], reference[1])


def measure(name: str, batch: int, dim: int, hidden: int) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table for one size, and its row of ratios."""
    exact = ours(*problem(batch, dim, hidden, torch.float64), 1e-12, "discrete_adjoint", "dprkn8")
    net, h0, t = problem(batch, dim, hidden, torch.float32)
    theirs_errors = {kind: error(theirs(net, h0, t, kind == "adjoint"), exact) for kind in ("backprop", "adjoint")}
    target = [min(e[i] for e in theirs_errors.values()) for i in (0, 1)]
    for tol in LADDER:
        reached = error(ours(net, h0, t, tol, "discrete_adjoint"), exact)
        if reached[0] <= target[0] and reached[1] <= target[1]:
            break
    runs = {
        "hbode discrete_adjoint": lambda: ours(net, h0, t, tol, "discrete_adjoint"),
        "hbode backprop": lambda: ours(net, h0, t, tol, "backprop"),
        "torchdiffeq backprop": lambda: theirs(net, h0, t, False),
        "torchdiffeq adjoint": lambda: theirs(net, h0, t, True),
    }
    first = {key: run() for key, run in runs.items()}
    timing = alternate(runs, repeats=9 if dim < 256 else 5, warmup=0)
    rows = []
    for key in runs:
        forward, gradient = error(first[key], exact)
        tolerance = tol if key.startswith("hbode") else TOL
        counts = "{} / {}".format(*first[key][2])
        rows.append([name, key, f"{tolerance:.1e}", f"{forward:.1e}", f"{gradient:.1e}", counts, str(timing[key])])
    best = min(("hbode discrete_adjoint", "hbode backprop"), key=lambda key: timing[key].median)
    over_adjoint = ratio(timing["torchdiffeq adjoint"], timing["hbode discrete_adjoint"])
    return rows, [name, over_adjoint, ratio(timing["torchdiffeq backprop"], timing[best]), best]


def main() -> None:
    """Print the tables."""
    measured = [measure(name, *size) for name, size in SIZES.items()]
    print(header("Training step with 65 outputs (ms: median, range)"))
    columns = ["size", "run", "tol", "error", "gradient error", "NFE f / b", "time"]
    print(table(columns, [row for rows, _ in measured for row in rows]))
    print()
    columns = ["size", "torchdiffeq adjoint / hbode discrete_adjoint", "torchdiffeq backprop / best hbode", "best"]
    print(table(columns, [ratios for _, ratios in measured]))


if __name__ == "__main__":
    main()
