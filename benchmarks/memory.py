"""Peak memory of gradients.

A heavy ball with a two-layer tanh network, 64-dimensional, 512 hidden units, batch 256, float32, on a fixed grid of
dprkn6. First table: discrete adjoint over backpropagation at 2,000 steps. Bar: ≤ 0.2. Second table: the reversible
gradient of leapfrog at 10,000 steps over that at 100, in a process as a whole and over what it held before any
step. Bar: 1.1. Each figure is from a process of its own, in which freed tensors go back to the system at once.
"""

from __future__ import annotations

import multiprocessing
import os

import torch
from _common import header, network, peak_memory, table

from hbode import HeavyBall, hbodeint

STEPS = 2000


def peak(gradient: str, method: str, count: int, size: float) -> tuple[float, float, float]:
    """Return the peak memory before any step, after one and after `count` steps of a size, in MiB."""
    net = network(64, 512)
    system = HeavyBall(lambda t, h: net(h), 0.05, trainable=False)
    h0 = torch.randn(256, 64, requires_grad=True)

    def step(steps: int) -> float:
        t = torch.tensor([0.0, size * steps], dtype=torch.float64)
        sol = hbodeint(system, h0, t, method=method, gradient=gradient, options={"step_size": size})
        sol.h[-1].square().mean().backward()
        return peak_memory()

    return peak_memory(), step(1), step(count)


def measure(gradient: str, method: str, count: int, size: float) -> tuple[float, float, float]:
    """Return `peak` of a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(peak, (gradient, method, count, size))


def main() -> None:
    """Print the tables."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    grown = {}
    for mode in ("discrete_adjoint", "backprop"):
        _, one, many = measure(mode, "dprkn6", STEPS, 0.004)
        grown[mode] = many - one
    print(header(f"Peak memory of {STEPS} steps, 512 hidden units (MiB over that of one step)"))
    print(table(["mode", "MiB"], [[mode, f"{value:.0f}"] for mode, value in grown.items()]))
    print(f"\ndiscrete_adjoint / backprop: {grown['discrete_adjoint'] / grown['backprop']:.3f}\n")
    held = {count: measure("reversible", "leapfrog", count, 0.0004) for count in (100, 10_000)}
    columns = ["reversible leapfrog, steps", "MiB, whole process", "MiB over that before any step"]
    rows = [[str(count), f"{many:.1f}", f"{many - idle:.1f}"] for count, (idle, _, many) in held.items()]
    print(table(columns, rows))
    whole, over = held[10_000][2] / held[100][2], float(rows[1][2]) / float(rows[0][2])
    print(f"\n10,000 over 100 steps: {whole:.3f} whole, {over:.3f} over that before any step")


if __name__ == "__main__":
    main()
