"""Inner solvers of implicit methods: those of the package beside the others that the proximal paper names.

To an error of 1e-4 on the problems of `stiff_parts.py`, and on a heavy ball, whose equations are those of its
acceleration alone: evaluations, products with the Jacobian among them, at the loosest tolerance that is enough, and CPU
time over that of anderson, the median of three in turn (range). A solver is worth having where no other needs both no
more evaluations and less time.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from _common import header, table
from _inner_solvers import OTHERS
from stiff_parts import PROBLEMS
from torch import Tensor

from hbode.experiments.stiff.problems import Problem, error_of
from hbode.experiments.stiff.solves import ERROR, Point, ladder, loosest, ours
from hbode.solvers.implicit.inner import INNER, Inner

MOST = 20_000
"""Evaluations after which an inner solver is given up."""
ROUNDS = 3


def heavy_ball(damping: float = 700.0) -> Problem:
    """A heavy ball in a valley with a moving floor, curvatures from 1 to 1e5, quartic walls; no mode oscillates."""
    curvature = torch.logspace(0, 5, 16, dtype=torch.float64)

    def force(t: Tensor, h: Tensor) -> Tensor:
        x = h - torch.cos(t)
        return -curvature * (x + 0.2 * x**3)

    times = torch.linspace(0, 10.0, 9, dtype=torch.float64)
    start = torch.full((1, 16), 0.5, dtype=torch.float64)
    return Problem(force, lambda t, h: torch.zeros_like(h), start, times, damping=damping)


def counted(problem: Problem) -> Problem:
    """Return the problem with a field that gives up."""
    calls = 0

    def stiff(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > MOST:
            raise OverflowError
        return problem.stiff(t, y)

    return replace(problem, stiff=stiff)


def work_of(problem: Problem, method: str, inner: Inner, error: Callable[[Tensor], float]) -> Point | None:
    """Return the loosest tolerance that is enough with an inner solver, and the evaluations there."""
    try:
        return loosest(ladder(ours(counted(problem), method, options={"inner": inner}), error, ERROR))
    except OverflowError:
        return None


def measure(problems: dict[str, Callable[[], Problem]]) -> None:
    """Print evaluations and time of every inner solver, in a proximal and in a Runge-Kutta method, and who loses."""
    solvers: dict[str, Inner] = INNER | OTHERS
    ahead = dict.fromkeys(solvers, 0)
    pairs = 0
    for name, make in problems.items():
        problem = make()
        error = error_of(problem)
        cells: dict[str, list[str]] = {inner: [] for inner in solvers}
        for method in ("prox_bdf3", "esdirk4"):
            work = {inner: found for inner in solvers if (found := work_of(problem, method, solvers[inner], error))}
            spent: dict[str, list[float]] = {inner: [] for inner in work}
            for _ in range(ROUNDS):
                for inner, at in work.items():
                    begun = time.process_time()
                    ours(problem, method, options={"inner": solvers[inner]})(at.tol)
                    spent[inner].append(time.process_time() - begun)
            shares = {k: [a / b for a, b in zip(v, spent["anderson"], strict=True)] for k, v in spent.items()}
            for inner in solvers:
                if inner not in work:
                    cells[inner] += ["–", "–"]
                    continue
                nfe, share = work[inner].nfe, shares[inner]
                cells[inner] += [f"{nfe:,.0f}", f"{statistics.median(share):.2f} ({min(share):.2f}–{max(share):.2f})"]
                ahead[inner] += not any(
                    work[k].nfe <= nfe and statistics.median(shares[k]) < statistics.median(share) for k in work
                )
            pairs += 1
        print(f"{name}: to an error of 1e-4; – stands for more than {MOST:,} evaluations over the tolerances, or never")
        columns = ["inner solver", "prox_bdf3", "time / anderson", "esdirk4", "time / anderson"]
        print(table(columns, [[inner, *row] for inner, row in cells.items()]), end="\n\n", flush=True)
    print(f"In how many of {pairs} pairs of problem and method no other needs both no more evaluations and less time")
    print(table(["inner solver", "pairs"], [[inner, f"{count}"] for inner, count in ahead.items()]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="problems whose names contain this")
    only = parser.parse_args().only
    problems = PROBLEMS | {"heavy ball, γ = 700": heavy_ball}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        print(header("Inner solvers"))
        measure({name: make for name, make in problems.items() if only in name})


if __name__ == "__main__":
    main()
