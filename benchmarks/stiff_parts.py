"""Stiff parts at an error of 1e-4: rkc and imex beside the proximal methods, auto, dopri5 and torchdiffeq's dopri5.

Evaluations count products with the Jacobian, and each part of a field in two parts by itself. The error is the largest
over the outputs of the root-mean-square error relative to the largest values of each component. The tolerance of a
method is the loosest of 10^-2, 10^-2.25, … whose error is at most 1e-4; evaluations and time are those of that run, the
time the median of three in turn with torchdiffeq's. imex_ark3 and 4 take the field as one (all of it stiff), and with
"split" in two parts. Bars, on the three diffusions: the better of rkc and imex needs at most 0.6 of the evaluations of
prox_bdf3, and at most 0.1 of the time of torchdiffeq's dopri5. Inner solvers: `inner_solvers.py`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from _common import header, table
from torch import Tensor

from hbode.experiments.stiff.problems import Problem, error_of, heat, stiff_scalar
from hbode.experiments.stiff.solves import ERROR, Run, ladder, loosest, ours, theirs

METHODS = ("rkc", "imex_ark3", "imex_ark4", "prox_bdf2", "prox_bdf3", "prox_bdf4", "kvaerno5", "esdirk4", "auto")
BETTER = ("rkc", "imex_ark3", "imex_ark4", "imex_ark3, split", "imex_ark4, split")
PEER = "torchdiffeq dopri5"


def allen_cahn() -> Problem:
    """u_t = 0.01 u_xx + 10 (u - u³) on the unit interval, zero at both ends, to t = 5."""
    return replace(heat(0.01, 5.0), nonstiff=lambda t, u: 10 * (u - u**3), exact=None)


def graph_diffusion(nodes: int = 400, channels: int = 4) -> Problem:
    """Diffusion on a contextual stochastic block model, with a source that keeps nodes at their features.

    Two classes, 10 edges a node inside and 3 across; features are ±1 of the class plus unit noise. Edges conduct by
    strengths over three decades, as attention may learn them, less the more their ends differ.
    """
    rng = torch.Generator().manual_seed(0)
    label = torch.arange(nodes) % 2
    same = label.unsqueeze(0) == label.unsqueeze(1)
    chance = torch.where(same, 20.0, 6.0) / nodes
    a, b = (torch.rand(nodes, nodes, generator=rng) < chance).triu(1).nonzero().T
    strength = 10 ** (3 * torch.rand(len(a), 1, generator=rng, dtype=torch.float64) - 1)
    features = (2.0 * label - 1).double().unsqueeze(1) + torch.randn(nodes, channels, generator=rng).double()

    def flow(t: Tensor, h: Tensor) -> Tensor:
        gap = h[b] - h[a]
        flow = strength * gap / (1 + gap.square())
        return torch.zeros_like(h).index_add(0, a, flow).index_add(0, b, -flow)

    times = torch.linspace(0, 4.0, 9, dtype=torch.float64)
    return Problem(flow, lambda t, h: 0.1 * (features - h), features, times)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "heat, n = 128": heat,
    "Allen–Cahn, n = 128": allen_cahn,
    "graph diffusion, 400 nodes": graph_diffusion,
    "stiff scalar, k = -1e3": stiff_scalar,
}
DIFFUSIONS = tuple(PROBLEMS)[:3]


def seconds(run: Run, tol: float) -> float:
    begun = time.perf_counter()
    run(tol)
    return time.perf_counter() - begun


def methods() -> None:
    """Print evaluations and time of every method, and the bars."""
    bars = []
    for name, make in PROBLEMS.items():
        problem = make()
        error = error_of(problem)
        runs = {PEER: theirs(problem), "dopri5": ours(problem, "dopri5")}
        runs |= {method: ours(problem, method) for method in METHODS}
        runs |= {f"{method}, split": ours(problem, method, True) for method in ("imex_ark3", "imex_ark4")}
        found = {run: at for run, go in runs.items() if (at := loosest(ladder(go, error, ERROR))) is not None}
        spent: dict[str, list[float]] = {run: [] for run in found}
        for _ in range(3):
            for run, at in found.items():
                spent[run].append(seconds(runs[run], at.tol))
        base, prox = found[PEER].nfe, found["prox_bdf3"].nfe
        rows = []
        for run in runs:
            if run not in found:
                rows.append([run, *["–"] * 5])
                continue
            tol, nfe, _ = found[run]
            ratios = [a / b for a, b in zip(spent[run], spent[PEER], strict=True)]
            span = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
            rows.append([run, f"{math.log10(tol):.2f}", f"{nfe:,.0f}", f"{nfe / prox:.2f}", f"{nfe / base:.3f}", span])
        print(f"{name}: to an error of 1e-4")
        print(table(["method", "log tolerance", "evaluations", "/ prox_bdf3", f"/ {PEER}", "time / the same"], rows))
        print(flush=True)
        if name in DIFFUSIONS:
            least = min((found[run].nfe / prox, run) for run in BETTER if run in found)
            quick = min(
                (statistics.median(a / b for a, b in zip(spent[run], spent[PEER], strict=True)), run)
                for run in BETTER
                if run in found
            )
            bars.append([name, f"{least[0]:.2f} ({least[1]})", f"{quick[0]:.3f} ({quick[1]})"])
    if bars:
        print("The better of rkc and imex")
        print(table(["problem", "evaluations / prox_bdf3 (bar 0.6)", f"time / {PEER} (bar 0.1)"], bars))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="problems whose names contain this")
    only = parser.parse_args().only
    for name in [name for name in PROBLEMS if only not in name]:
        del PROBLEMS[name]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        print(header("Stiff parts"))
        methods()


if __name__ == "__main__":
    main()
