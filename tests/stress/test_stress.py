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
        "stages beyond the step see a discontinuity at its end from the wrong side, held in time: order two there",
        lambda case: case.field == "discontinuous" and case.method in ("yoshida4", "kvaerno5"),
    ),
    (
        "the equation of one long step across kinks may have no solution, which is said",
        lambda case: case.field == "kinked" and case.implicit and case.steps == "requested",
    ),
    (
        "an additive method may find no root of one long stiff step that is given, which is said",
        lambda case: case.field == "stiff" and case.method.startswith("imex") and case.steps != "adaptive",
    ),
    (
        "the pair of the coupled scheme comes apart where a first-order system decays, which is said",
        lambda case: case.field == "stiff" and case.system == "first" and case.gradient == "reversible",
    ),
)
"""What is not as it might be, and the cases that may meet it."""

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


@pytest.mark.slow
def test_cheap_cases():
    run(CHEAP)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CASES // CHUNK))
def test_chunk_of_cases(chunk):
    run(range(chunk * CHUNK, (chunk + 1) * CHUNK))
