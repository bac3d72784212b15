"""Peak memory of a training step: discrete adjoint over backpropagation.

A heavy ball with a two-layer tanh network, 64-dimensional, 512 hidden units, batch 256, float32, 2,000 steps of
dprkn6 on a fixed grid. Each mode runs in a process of its own; the figure is the growth of the peak resident
memory over that after one step. Bar: ≤ 0.2.
"""

from __future__ import annotations

import multiprocessing
import resource

import torch
from _common import header, network, table

from hbode import HeavyBall, hbodeint

STEPS = 2000


def peak(gradient: str) -> float:
    """Return the growth of the peak memory, in MiB."""
    net = network(64, 512)
    system = HeavyBall(lambda t, h: net(h), 0.05, trainable=False)
    h0 = torch.randn(256, 64, requires_grad=True)

    def step(steps: int) -> float:
        t = torch.tensor([0.0, 0.004 * steps])
        sol = hbodeint(system, h0, t, method="dprkn6", gradient=gradient, options={"step_size": 0.004})
        sol.h[-1].square().mean().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = step(1)
    return step(STEPS) - before


def main() -> None:
    """Print the table."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        used = {mode: pool.apply(peak, (mode,)) for mode in ("discrete_adjoint", "backprop")}
    print(header(f"Peak memory of {STEPS} steps, 512 hidden units (MiB)"))
    print(table(["mode", "MiB"], [[mode, f"{value:.0f}"] for mode, value in used.items()]))
    print(f"\ndiscrete_adjoint / backprop: {used['discrete_adjoint'] / used['backprop']:.3f}")


if __name__ == "__main__":
    main()
