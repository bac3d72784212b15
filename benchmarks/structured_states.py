"""What a dict of three tensors costs, as h0 of one solve, over a field that packs and unpacks one tensor by hand.

The heavy ball on 20 numbers, 64 samples, a two-layer tanh network, float64, t = 0 … 10 with 11 outputs, tolerance 1e-5:
parts of shape (64, 3), (64, 2, 8) and (64,). The solves are the same bit by bit (tests/test_structured_states.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _common import alternate, header, network, ratio, table
from torch import Tensor

from hbode import hbodeint

SAMPLES, GAMMA, TOL = 64, 0.1, 1e-5
T = torch.linspace(0, 10, 11)
Parts = dict[str, Tensor]


def pack(h: Parts) -> Tensor:
    """Return the parts as (B, 20)."""
    return torch.cat([h["a"], h["b"].flatten(1), h["c"][:, None]], 1)


def unpack(y: Tensor) -> Parts:
    """Return the parts of (B, 20)."""
    return {"a": y[:, :3], "b": y[:, 3:19].unflatten(1, (2, 8)), "c": y[:, 19]}


def main() -> None:
    net = network(20, 20, torch.float64)
    y0 = torch.randn(SAMPLES, 20, dtype=torch.float64)

    def of_parts(t: Tensor, h: Parts) -> Parts:
        return unpack(net(pack(h)))

    def by_hand(t: Tensor, y: Tensor) -> Tensor:
        return pack(of_parts(t, unpack(y)))

    def solve(f: Callable[..., Any], h0: Any, train: bool) -> int:
        with torch.set_grad_enabled(train):
            sol = hbodeint(f, h0, T, gamma=GAMMA, rtol=TOL, atol=TOL)
            if train:
                (sol.h["a"] if isinstance(sol.h, dict) else sol.h[..., :3])[-1].sum().backward()
        return sol.stats.nfe

    print(header("A state of three tensors (ms: median, range)"))
    rows = []
    for train in (False, True):
        runs = {
            "dict": lambda train=train: solve(of_parts, unpack(y0), train),
            "packed by hand": lambda train=train: solve(by_hand, y0, train),
            "f of one tensor": lambda train=train: solve(lambda t, y: net(y), y0, train),
        }
        timing = alternate(runs, repeats=61, warmup=3)
        for name, run in runs.items():
            over = ratio(timing["dict"], timing[name]) if name != "dict" else ""
            rows.append(["training step" if train else "forward", name, str(run()), str(timing[name]), over])
    print(table(["", "state", "NFE", "time", "dict over it"], rows))


if __name__ == "__main__":
    main()
