"""Two thousand random cases: fields, systems, methods, modes, dtypes, shapes, times, steps and events.

Everything about a case follows from its number; ``PYTHONPATH=tests python -m stress 123`` runs one again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from stress.bounds import Difference
from stress.cases import Case, draw
from stress.checks import check

from hbode import SolverError

KNOWN: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    (
        "second derivatives through implicit steps lose the term through the derivative of the solution",
        lambda case: case.check == "second" and case.implicit,
    ),
    (
        "stages beyond a discontinuity see its time held: order two, and a gradient as if it were not held",
        lambda case: case.field == "discontinuous" and case.method in ("yoshida4", "kvaerno5", "auto"),
    ),
    (
        "the continuous adjoint of a first-order system iterates over a state of shape ()",
        lambda case: case.gradient == "continuous_adjoint" and case.system == "first" and case.shape == (),
    ),
    (
        "implicit_adams iterates until all samples agree, so that one more iterate of a sample depends on the others",
        lambda case: case.method == "implicit_adams" and case.per_sample,
    ),
    (
        "prox_bdf4 takes steps beyond what variable steps of its order are stable for",
        lambda case: case.method == "prox_bdf4",
    ),
)
"""Faults that are not mended yet, and the cases that may meet them."""

CASES, CHUNK = 2000, 25
CHEAP = [n for n in range(200) if not ((case := draw(n)).implicit or case.samples or case.rtol < 1e-6)][:30]


def run(numbers: Iterable[int]) -> None:
    """Run cases, and name all that differ."""
    differ, untold = [], 0
    for number in numbers:
        case = draw(number)
        try:
            untold += not check(case)
        except (Difference, SolverError, RuntimeError, ValueError, TypeError) as error:
            if not any(applies(case) for _, applies in KNOWN):
                differ.append(f"{case}: {type(error).__name__}: {error}")
    assert not differ, "\n".join(differ)
    assert untold <= CHUNK // 5  # differences that meet a kink are few


def test_cheap_cases():
    run(CHEAP)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CASES // CHUNK))
def test_chunk_of_cases(chunk):
    run(range(chunk * CHUNK, (chunk + 1) * CHUNK))
