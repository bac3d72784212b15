"""When to keep which carry, if there is room for few: binomial checkpointing.

With s slots, one of them taken by the carry of the first step, n steps can be walked back without advancing over
any step more than r times if n ≤ C(s + r, s). The least number of advances in all is r n - C(s + r, s + 1) for the
least such r (Griewank and Walther, ACM TOMS 26, 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def advances(count: int, slots: int) -> int:
    """Return the least number of steps to advance over in walking `count` steps back from the first carry.

    The advances of the first sweep, to the start of the last step, are counted.
    """
    r = _repetitions(count, slots)
    return r * count - comb(slots + r, slots + 1)


def split(count: int, slots: int) -> int:
    """Return how far to advance before the next carry is kept, so that `advances` is met; 0 for one step.

    Any number is right that leaves both parts in reach: what lies ahead with one slot less and the same number of
    repetitions, what lies behind with one repetition less.
    """
    if count <= 1:
        return 0
    r = _repetitions(count, slots)
    behind = comb(slots + r - 2, slots) if r > 1 else 1
    return max(behind, count - comb(slots - 1 + r, r))


def first_sweep(count: int, slots: int) -> list[int]:
    """Return the steps whose carries the optimal schedule keeps on the way to the last one, in order."""
    places, first = [], 0
    while count > 1 and slots:
        places.append(first)
        ahead = split(count, slots)
        first, count, slots = first + ahead, count - ahead, slots - 1
    return places


def least_useful(kept: Sequence[int], end: int, slots: int) -> int:
    """Return the index in `kept` of the carry whose loss makes walking back over `end` steps cost least.

    `kept` are the steps whose carries are at hand, one more than there are slots. The first one stays.
    """
    gaps = [b - a for a, b in zip(kept, [*kept[1:], end], strict=True)]
    before = [0]
    for n, gap in enumerate(gaps):
        before.append(before[-1] + advances(gap, slots - n) if n < slots else 0)
    after = 0
    best, drop = -1, len(kept) - 1
    for n in range(len(kept) - 1, 0, -1):
        cost = before[n - 1] + advances(gaps[n - 1] + gaps[n], slots - n + 1) + after
        if best < 0 or cost <= best:
            best, drop = cost, n
        after += advances(gaps[n], slots - n + 1)
    return drop


def _repetitions(count: int, slots: int) -> int:
    r = 0
    while comb(slots + r, slots) < count:
        r += 1
    return r
