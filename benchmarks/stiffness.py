"""What it takes to measure stiffness.

First table: the stiffness ratio of 256 samples at 64 times of systems with a field of 32 dimensions (64 hidden units),
whose first-order form has 2·32 where there is a momentum. Bar: 5 s for the heavy ball, on two cores. The two ways of a
heavy ball, λ² + γ λ = μ and the matrix of the first-order form, are run in turn. Second table: extreme eigenvalues of a
heat equation by products, against closed forms, up to a million unknowns, each in a process of its own for its memory.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import time

import torch
from _common import header, network, peak_memory, table

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder
from hbode.analysis import stiffness_at

SAMPLES, TIMES, SIZE, REPEATS = 256, 64, 32, 5


def measure(device: str) -> None:
    """Print the first table."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        net = network(SIZE, 64).to(device, dtype)
        systems = {
            "NODE": (FirstOrder(lambda t, h, net=net: net(h)), True),
            "heavy ball, λ² + γ λ = μ": (HeavyBall(lambda t, h, net=net: net(h)), True),
            "heavy ball, first-order form": (HeavyBall(lambda t, h, net=net: net(h)), False),
            "generalised heavy ball": (GeneralizedHeavyBall(lambda t, h, net=net: net(h)), True),
            "SONODE": (SecondOrder(lambda t, h, m, net=net: net(h) - m), True),
        }
        t = torch.linspace(0, 1, TIMES, dtype=torch.float64)
        h, m = torch.randn(2, TIMES, SAMPLES, SIZE, dtype=dtype, device=device).unbind()
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(REPEATS):
            for name, (system, closed_form) in systems.items():
                started = time.perf_counter()
                found = stiffness_at(
                    system.to(device), t, h, m if system.second_order else None, closed_form=closed_form
                )
                float(found.ratio.sum())  # waits for the device
                seconds[name].append(time.perf_counter() - started)
        for name, times in seconds.items():
            low, high = min(times), max(times)
            rows.append([name, str(dtype)[6:], f"{statistics.median(times):.2f}", f"{low:.2f} to {high:.2f}"])
    print(header(f"Stiffness ratio of {SAMPLES} samples × {TIMES} times, field of {SIZE} dimensions, on {device}"))
    print(table(["system", "dtype", "s, median", "range"], rows))


def heat(size: int, momentum: bool, most: int) -> tuple[float, float, float, float, float]:
    """Return relative errors of max |λ| and the slow end (NaN if it was not found), seconds, and growth of memory."""

    def f(t: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        z = torch.nn.functional.pad(h, (1, 1))
        return (z[..., 2:] - 2 * h + z[..., :-2]) * (size + 1.0) ** 2

    angle = 0.5 * math.pi / (size + 1)
    slow, fast = (-4 * (size + 1.0) ** 2 * math.sin(k * angle) ** 2 for k in (1, size))
    gamma = 10.0  # overdamps the slowest mode, μ = -π², so that there is a slow end
    system = HeavyBall(f, gamma, trainable=False) if momentum else FirstOrder(f)
    known = (math.sqrt(-fast), 0.5 * gamma - math.sqrt(0.25 * gamma**2 + slow)) if momentum else (-fast, -slow)
    h = torch.randn(1, 1, size, dtype=torch.float64)
    stiffness_at(system, [0.0], h[..., :64], most=2, dense_limit=0)
    before, started = peak_memory(), time.perf_counter()
    found = stiffness_at(system, [0.0], h, most=most, dense_limit=0)
    seconds, grown = time.perf_counter() - started, peak_memory() - before
    errors = (abs(float(x) / y - 1) for x, y in zip((found.largest, found.slowest), known, strict=True))
    return *errors, seconds, grown, grown * 2**20 / (8 * size)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.manual_seed(0)
    measure(device)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # freed tensors go back to the system at once
    rows = []
    for size, momentum, most in ((2000, False, 20_000), (2000, True, 20_000), (10**6, False, 200), (10**6, True, 200)):
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            fast, slow, seconds, grown, states = pool.apply(heat, (size, momentum, most))
        end = "not found" if math.isnan(slow) else f"{slow:.0e}"
        name = "heavy ball, γ = 10" if momentum else "NODE"
        cells = [f"{size:,}", f"{most:,}", f"{fast:.0e}", end, f"{seconds:.1f}", f"{grown:.0f}", f"{states:.0f}"]
        rows.append([name, *cells])
    print("\n" + header("Heat equation by products, float64"))
    names = ["system", "N", "most products", "error of max |λ|", "of the slow end", "s", "MiB more", "vectors of N"]
    print(table(names, rows))


if __name__ == "__main__":
    main()
