"""Coefficients as they are written and as they are checked: what the tableaus share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

Number = float | Fraction
"""A coefficient as it is written in a table: an exact fraction where it has one."""

TOLERANCE = 1e-13


def row(text: str) -> list[Fraction]:
    """Read coefficients such as ``"1/32 0 3/32"`` exactly; they are rounded once, as the tableau is made."""
    return [Fraction(word) for word in text.split()]


def floats(values: Iterable[Number]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def rows(rows: Iterable[Iterable[Number]]) -> tuple[tuple[float, ...], ...]:
    return tuple(floats(row) for row in rows)


def cubic_hermite(step: Sequence[Number]) -> list[list[Number]]:
    """Weights on the stages of the cubic through y0, y1 with slopes f0, f1; ``step`` is the last row of a."""
    rows: list[list[Number]] = [[0 * b, 3 * b, -2 * b] for b in (*step, Fraction(0))]
    first, last = rows[0], rows[-1]
    rows[0] = [first[0] + 1, first[1] - 2, first[2] + 1]
    rows[-1] = [last[0], last[1] - 1, last[2] + 1]
    return rows


def quintic_hermite(b: Sequence[Number], bp: Sequence[Number]) -> list[list[Number]]:
    """Weights on the stages, of theta^2 to theta^5, of the quintic through u, u', u'' at both ends."""
    last = len(bp) - 1
    rows: list[list[Number]] = []
    for i in range(len(bp)):
        k0, k1 = int(i == 0), int(i == last)
        position, velocity, force = b[i] - Fraction(k0, 2), bp[i] - k0, Fraction(k1 - k0, 2)
        rows.append(
            [
                Fraction(k0, 2),
                10 * position - 4 * velocity + force,
                -15 * position + 7 * velocity - 2 * force,
                6 * position - 3 * velocity + force,
            ]
        )
    return rows


def differs(terms: Sequence[float], expected: float) -> bool:
    """Whether the terms miss ``expected`` by more than the rounding of each of them explains."""
    scale = max(1.0, math.fsum(abs(term) for term in terms))
    return not abs(math.fsum(terms) - expected) <= TOLERANCE * scale


def check_orders(**orders: int | None) -> None:
    for name, order in orders.items():
        if order is not None and order < 1:
            raise ValueError(f"{name} must be at least 1; got {order}")


def check_nodes(c: Sequence[Number], a: Sequence[Sequence[Number]]) -> None:
    if len(c) < 2:
        raise ValueError(f"c needs at least two nodes, the start and the end of the step; got {len(c)}")
    if c[0] != 0 or c[-1] != 1:
        raise ValueError(f"c must run from 0 to 1; got c[0] = {c[0]} and c[-1] = {c[-1]}")
    check_length("a", a, c)
    for i, row in enumerate(a):
        if len(row) != i:
            raise ValueError(f"row {i} of a must have {i} entries, the method being explicit; got {len(row)}")


def check_length(name: str, values: Sequence[object], c: Sequence[Number]) -> None:
    if len(values) != len(c):
        raise ValueError(f"{name} must have {len(c)} entries, one for each node; got {len(values)}")


def check_sum(name: str, terms: Sequence[float], expected: float, meaning: str) -> None:
    if differs(terms, expected):
        raise ValueError(f"{name} must sum to {meaning} = {expected}; got {math.fsum(terms)}")


def check_quadrature(name: str, weights: Sequence[float], c: tuple[float, ...], up_to: int, *, velocity: bool) -> None:
    """Check that the weights integrate t^(q-1), q = 1..up_to, once (velocity) or twice (position)."""
    for q in range(1, up_to + 1):
        expected = 1 / q if velocity else 1 / (q * (q + 1))
        terms = [w * x ** (q - 1) for w, x in zip(weights, c, strict=True)]
        check_sum(f"{name} times c^{q - 1}", terms, expected, f"1/{q}" if velocity else f"1/{q * (q + 1)}")


def check_error_weights(order: int | None, c: tuple[float, ...], **weights: tuple[float, ...] | None) -> None:
    """Check that the embedded solution integrates t^(q-1) as the propagated one does, for q = 1..order.

    The last weights are those of a velocity; those of a position do for q < order. All come together or not at all.
    """
    if any((values is None) != (order is None) for values in weights.values()):
        raise ValueError(f"{', '.join(weights)} and error_order come together; only some of them are None")
    for less, (name, values) in enumerate(reversed(weights.items())):
        if values is None or order is None:
            continue
        check_length(name, values, c)
        for q in range(1, order - less + 1):
            terms = [w * x ** (q - 1) for w, x in zip(values, c, strict=True)]
            check_sum(f"{name} times c^{q - 1}", terms, 0.0, "zero")


def check_dense(
    name: str,
    dense: tuple[tuple[float, ...], ...],
    weights: Sequence[float],
    step_name: str,
    c: tuple[float, ...],
    up_to: int,
    *,
    velocity: bool,
) -> None:
    """Check that dense output ends at the step and integrates t^(q-1), q = 1..up_to, at every theta."""
    check_length(name, dense, c)
    degree = len(dense[0])
    if degree == 0 or any(len(row) != degree for row in dense):
        raise ValueError(f"{name} must have rows of one length, at least 1; got {[len(row) for row in dense]}")
    for i, row in enumerate(dense):
        if differs(row, weights[i]):
            raise ValueError(
                f"{name} at theta = 1 must be {step_name}: row {i} sums to {math.fsum(row)}, not {weights[i]}"
            )
    for q in range(1, up_to + 1):
        for k in range(degree):
            terms = [row[k] * x ** (q - 1) for row, x in zip(dense, c, strict=True)]
            exact = 1 / q if velocity else 1 / (q * (q + 1))
            power = k + 1 if velocity else k + 2
            meaning = f"the coefficient of theta^{power} that order {up_to} implies"
            check_sum(f"column {k} of {name} times c^{q - 1}", terms, exact if k + 1 == q else 0.0, meaning)
