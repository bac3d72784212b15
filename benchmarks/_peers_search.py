"""The search of peers.py for the loosest tolerance at which a solver meets a level of error."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from _peers_torch import NotSolvedError, Result, Solver, errors

LADDER = [10.0 ** -(e / 2) for e in range(2, 17)]


@dataclass(frozen=True)
class Found:
    """A solver at its tolerance, with errors and result there; or why there is none."""

    solver: Solver
    tol: float | None = None
    errors: Sequence[float] = ()
    result: Result | None = None
    why: str = "not reached"

    @property
    def nfe(self) -> tuple[str, str]:
        """The evaluations forward and backward."""
        counts = (self.result.nfe, self.result.nfe_backward) if self.result else (None, None)
        forward, backward = ("–" if n is None else str(n) for n in counts)
        return forward, backward


class Ladder:
    """Searches, each starting where the last one ended for a solver of the same name and the same level."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, float], int] = {}

    def loosest(self, solver: Solver, exact: Result, level: float, guess: float | None = None) -> Found:
        """Return the solver at the loosest tolerance at which its errors are at most the level.

        Looser ones are tried as long as they meet it, else tighter ones until one does.
        """
        tried: dict[int, Found] = {}

        def meets(i: int) -> bool:
            try:
                result = solver.read(solver.run(LADDER[i]))
            except NotSolvedError:
                return False
            tried[i] = Found(solver, LADDER[i], errors(result, exact), result)
            return all(x <= level for x in tried[i].errors)

        key = solver.name, level
        nearest = min(range(len(LADDER)), key=lambda i: abs(LADDER[i] - (guess or level)))
        i = self.last.get(key, nearest) if guess is None else nearest
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "compile=True", RuntimeWarning)  # a solve that runs uncompiled
                if meets(i):
                    while i and meets(i - 1):
                        i -= 1
                else:
                    i = next((j for j in range(i + 1, len(LADDER)) if meets(j)), len(LADDER))
        except Exception as error:  # what a library dies of belongs in the table
            said = next(iter(str(error).splitlines()), "")
            return Found(solver, why=f"{type(error).__name__}: {said[:60]}")
        if i == len(LADDER):
            return Found(solver)
        self.last[key] = i
        return tried[i]
