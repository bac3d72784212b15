"""Peak memory of gradients.

A heavy ball with a two-layer tanh network, 64-dimensional, 512 hidden units, batch 256, float32, on a fixed grid of
dprkn6. First table: discrete adjoint over backpropagation at 2,000 steps. Bar: ≤ 0.2. Second table: the reversible
gradient of leapfrog at 10,000 steps over that at 100, in a process as a whole and over what it held after one
step. Bar: 1.1. Each figure is from a process of its own, in which freed tensors go back to the system at once.
"""

from __future__ import annotations

import multiprocessing
import os
import resource

import torch
from _common import header, network, table

from hbode import HeavyBall, hbodeint

STEPS = 2000


def peak(gradient: str, method: str, count: int) -> tuple[float, float]:
    """Return the peak memory after one step and after `count`, in MiB."""
    net = network(64, 512)
    system = HeavyBall(lambda t, h: net(h), 0.05, trainable=False)
    h0 = torch.randn(256, 64, requires_grad=True)

    def step(steps: int) -> float:
        t = torch.tensor([0.0, 0.004 * steps])
        sol = hbodeint(system, h0, t, method=method, gradient=gradient, options={"step_size": 0.004})
        sol.h[-1].square().mean().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    return step(1), step(count)


def measure(gradient: str, method: str, count: int) -> tuple[float, float]:
    """Return the peak memory, in MiB, and its growth over that of one step."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        one, many = pool.apply(peak, (gradient, method, count))
    return many, many - one


def main() -> None:
    """Print the tables."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    grown = {mode: measure(mode, "dprkn6", STEPS)[1] for mode in ("discrete_adjoint", "backprop")}
    print(header(f"Peak memory of {STEPS} steps, 512 hidden units (MiB over that of one step)"))
    print(table(["mode", "MiB"], [[mode, f"{value:.0f}"] for mode, value in grown.items()]))
    print(f"\ndiscrete_adjoint / backprop: {grown['discrete_adjoint'] / grown['backprop']:.3f}\n")
    held = {count: measure("reversible", "leapfrog", count) for count in (100, 10_000)}
    columns = ["reversible leapfrog, steps", "MiB, whole process", "MiB over one step"]
    print(table(columns, [[str(count), f"{a:.1f}", f"{b:.1f}"] for count, (a, b) in held.items()]))
    whole, over = (held[10_000][i] / held[100][i] for i in (0, 1))
    print(f"\n10,000 over 100 steps: {whole:.3f} whole, {over:.3f} over one step")


if __name__ == "__main__":
    main()
