"""Run cases by their numbers: PYTHONPATH=tests python -m stress 123 456."""

import sys

from stress.cases import draw
from stress.checks import check

for number in map(int, sys.argv[1:]):
    case = draw(number)
    print(case, flush=True)
    print("as it must be" if check(case) else "a kink: no derivative to compare")
