"""Solves on fixed grids: hbode.compat beside torchdiffeq, method by method.

y' = f(y) with a two-layer tanh network of 20 units on a state (64, 20), float32, t = 0 … 1 with 1, 10, 100 and 1000
steps and all grid points as outputs; without gradients, and forward and backward by backpropagation, of the mean
square of all states with respect to the weights and the first state. The same function is given to both, and counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from _common import alternate, header, network, ratio, table
from torch import Tensor

import hbode.compat

METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")
BATCH, DIM = 64, 20


def solves(solver: Any, method: str, steps: int) -> tuple[Callable[[], int], Callable[[], int]]:
    """Return the solve without gradients and the training step of a library; both return how often f was called."""
    net = network(DIM, DIM)
    y0 = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1)).requires_grad_()
    t = torch.linspace(0, 1, steps + 1)
    calls = 0

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return net(y)

    def forward() -> int:
        nonlocal calls
        calls = 0
        with torch.no_grad():
            solver.odeint(f, y0, t, method=method)
        return calls

    def training() -> int:
        nonlocal calls
        calls = 0
        solver.odeint(f, y0, t, method=method).square().mean().backward()
        return calls

    return forward, training


def measure(method: str, steps: int, repeats: int) -> list[str]:
    """Return the row of the table for a method and a number of steps."""
    ours, theirs = solves(hbode.compat, method, steps), solves(torchdiffeq, method, steps)
    row = [method, str(steps), f"{ours[0]()} / {theirs[0]()}"]
    for own, other in zip(ours, theirs, strict=True):
        timing = alternate({"hbode": own, "torchdiffeq": other}, repeats)
        row += [str(timing["hbode"]), str(timing["torchdiffeq"]), ratio(timing["hbode"], timing["torchdiffeq"])]
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 10, 100, 1000])
    options = parser.parse_args()
    repeats = {steps: max(7, min(201, 2000 // steps)) for steps in options.steps}
    rows = [measure(method, steps, repeats[steps]) for method in options.methods for steps in options.steps]
    print(header("Fixed grids: hbode.compat beside torchdiffeq (ms: median, range)"))
    columns = ["method", "steps", "calls of f", "hbode", "torchdiffeq", "ratio"]
    print(table([*columns, "training: hbode", "torchdiffeq", "ratio"], rows))


if __name__ == "__main__":
    main()
