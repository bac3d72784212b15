"""A case, from its number to whether it comes out as it must."""

from __future__ import annotations

import warnings

from stress.bounds import Kink
from stress.cases import Case
from stress.gradients import first, second
from stress.problems import build
from stress.relations import reversal, samples
from stress.values import values

CHECKS = {"values": lambda problem: None, "first": first, "second": second, "reversal": reversal, "samples": samples}


def check(case: Case) -> bool:
    """Raise `Difference`, or what the solve raised, unless the case comes out as it must; whether it could be told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem = build(case)
        values(problem)
        try:
            CHECKS[case.check](problem)
        except Kink:
            return False
    return True
