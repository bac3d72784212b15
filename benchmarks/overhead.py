"""Seconds of a forward solve over the seconds of the same number of evaluations of f alone.

The heavy ball h'' + γ h' = f(h) with a two-layer tanh network, float32, t = 0 … 8 with 2 and with 65 outputs,
tolerance 1e-6: dprkn6 (the default), eager and compiled, and dopri5 of hbode, dopri5 of torchdiffeq. f alone is eager.
"""

from __future__ import annotations

import torch
import torchdiffeq
from _common import SIZES, Joined, alternate, header, network, ratio, table

from hbode import HeavyBall, hbodeint

GAMMA, TOL = 0.05, 1e-6


def measure(name: str, batch: int, dim: int, hidden: int, outputs: int) -> list[list[str]]:
    """Return the rows of the table for one size and number of outputs."""
    t = torch.linspace(0, 8, outputs)
    net = network(dim, hidden)
    system, joined = HeavyBall(lambda t, h: net(h), GAMMA, trainable=False), Joined(net, GAMMA)
    h0 = torch.randn(batch, dim)
    y0 = torch.cat((h0, torch.zeros_like(h0)), -1)

    def ours(method: str, compile: bool = False) -> int:
        with torch.no_grad():
            return hbodeint(system, h0, t, rtol=TOL, atol=TOL, method=method, compile=compile).stats.nfe

    def theirs() -> int:
        joined.nfe = 0
        with torch.no_grad():
            torchdiffeq.odeint(joined, y0, t, rtol=TOL, atol=TOL)
        return joined.nfe

    def alone(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                net(h0)

    solves = {
        "hbode dprkn6": lambda: ours("dprkn6"),
        "hbode dprkn6 compiled": lambda: ours("dprkn6", compile=True),
        "hbode dopri5": lambda: ours("dopri5"),
        "torchdiffeq dopri5": theirs,
    }
    counts = {solver: run() for solver, run in solves.items()}
    runs = {}
    for solver, run in solves.items():
        runs[solver] = run
        runs[f"f of {solver}"] = lambda count=counts[solver]: alone(count)
    timing = alternate(runs, repeats=21 if dim < 256 else 9)
    rows = []
    for solver in solves:
        own = timing[f"f of {solver}"]
        quotient = ratio(timing[solver], own)
        rows.append([name, str(outputs), solver, str(counts[solver]), str(timing[solver]), str(own), quotient])
    return rows


def main() -> None:
    """Print the table."""
    rows = [row for name, size in SIZES.items() for outputs in (2, 65) for row in measure(name, *size, outputs)]
    print(header("Forward solve over its evaluations of f alone (ms: median, range)"))
    print(table(["size", "outputs", "solver", "NFE", "solve", "f alone", "solve / f"], rows))


if __name__ == "__main__":
    main()
