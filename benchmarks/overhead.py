"""Seconds of a forward solve over the seconds of the same number of evaluations of f alone.

The heavy ball h'' + γ h' = f(h) with a two-layer tanh network, float32, t = 0 … 8 with 65 outputs, tolerance 1e-6,
default methods: dprkn6 here, dopri5 in torchdiffeq. Bars: hbode ≤ 2.0 at 20 units, ≤ 1.3 at 256→512 units.
"""

from __future__ import annotations

import torch
import torchdiffeq
from common import SIZES, Joined, alternate, header, network, ratio, table

from hbode import HeavyBall, hbodeint

GAMMA, TOL = 0.05, 1e-6


def main() -> None:
    """Print the table."""
    rows = []
    t = torch.linspace(0, 8, 65)
    for name, (batch, dim, hidden) in SIZES.items():
        net = network(dim, hidden)
        system, joined = HeavyBall(lambda t, h, net=net: net(h), GAMMA, trainable=False), Joined(net, GAMMA)
        h0 = torch.randn(batch, dim)
        y0 = torch.cat((h0, torch.zeros_like(h0)), -1)

        def ours(method: str | None = None):
            with torch.no_grad():
                return hbodeint(system, h0, t, rtol=TOL, atol=TOL, method=method)

        def theirs():
            with torch.no_grad():
                return torchdiffeq.odeint(joined, y0, t, rtol=TOL, atol=TOL)

        joined.nfe = 0
        theirs()
        counts = {"hbode dprkn6": ours().stats.nfe, "hbode dopri5": ours("dopri5").stats.nfe, "torchdiffeq dopri5": joined.nfe}

        def alone(count: int):
            with torch.no_grad():
                for _ in range(count):
                    net(h0)

        solves = {"hbode dprkn6": ours, "hbode dopri5": lambda: ours("dopri5"), "torchdiffeq dopri5": theirs}
        runs = {key: run for solver, run in solves.items() for key, run in (
            (solver, run), (f"f of {solver}", lambda solver=solver: alone(counts[solver])))}
        repeats = 21 if dim < 256 else 9
        timing = alternate(runs, repeats)
        for solver in solves:
            own = timing[f"f of {solver}"]
            rows.append([name, solver, str(counts[solver]), str(timing[solver]), str(own), ratio(timing[solver], own)])
    print(header("Forward solve over its evaluations of f alone (ms: median, range)"))
    print(table(["size", "solver", "NFE", "solve", "f alone", "solve / f"], rows))


if __name__ == "__main__":
    main()
