"""Order conditions of every table, from trees generated here, and the errors that a bad table raises.

A method is of order p when sum_i w_i Phi_i(tree) equals an exact value for all trees of order up to p
(Hairer, Norsett, Wanner 1993, sections II.2 and II.14). The tolerance of each condition is a bound on its own
rounding: the same sum over absolute values, times the number of roundings of a term, times the unit roundoff.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import pytest

from hbode.solvers.methods.explicit.butcher_tables import BUTCHER
from hbode.solvers.methods.explicit.nystrom_tables import NYSTROM
from hbode.solvers.methods.explicit.tableau import ButcherTableau, NystromTableau

THETAS = (0.1, 0.37, 0.55, 0.83, 1.0)
"""Not 0.5, where the velocity of the quintic Hermite interpolant happens to be one order higher."""


class Tree(NamedTuple):
    """A rooted tree: its children, and how many leaves for u' hang on its root (Nystrom trees only)."""

    order: int
    leaves: int
    children: tuple[Tree, ...]


def forests(total: int, size: Callable[[Tree], int], trees: Sequence[Tree]) -> Iterator[tuple[Tree, ...]]:
    """Multisets of trees whose sizes sum to total."""
    if total == 0:
        yield ()
    for i, tree in enumerate(trees):
        if size(tree) <= total:
            for rest in forests(total - size(tree), size, trees[i:]):
                yield (tree, *rest)


@cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    smaller = [tree for n in range(1, order) for tree in rooted_trees(n)]
    return tuple(Tree(order, 0, children) for children in forests(order - 1, lambda tree: tree.order, smaller))


@cache
def nystrom_trees(order: int) -> tuple[Tree, ...]:
    """Trees of u'' = g(u): a child that is itself a force counts one more, for the velocity between them."""
    smaller = [tree for n in range(1, order - 1) for tree in nystrom_trees(n)]
    return tuple(
        Tree(order, leaves, children)
        for leaves in range(order)
        for children in forests(order - 1 - leaves, lambda tree: tree.order + 1, smaller)
    )


def force(tree: Tree, *, second_order: bool) -> Fraction:
    """The coefficient e of the exact derivative e t^(order-1) that the tree stands for."""
    e = Fraction(1)
    for child in tree.children:
        n = child.order
        e *= force(child, second_order=second_order) / (n * (n + 1) if second_order else n)
    return e


def stage_weights(tree: Tree, a: Sequence[Sequence[float]], c: Sequence[float]) -> list[float]:
    """Phi_i(tree) of every stage i."""
    phi = [x**tree.leaves for x in c]
    for child in tree.children:
        inner = stage_weights(child, a, c)
        phi = [x * math.fsum(w * y for w, y in zip(row, inner, strict=False)) for x, row in zip(phi, a, strict=True)]
    return phi


class Defect(NamedTuple):
    size: float
    rounding: float


def defects(
    tableau: ButcherTableau | NystromTableau,
    weights: Sequence[float],
    order: int,
    theta: float = 1.0,
    spread: Sequence[float] | None = None,
    *,
    position: bool = False,
) -> list[Defect]:
    """How far the weights miss the conditions of the trees of one order.

    `spread` bounds the terms that each weight was summed from, where it was.
    """
    second_order = isinstance(tableau, NystromTableau)
    absolute = [[abs(x) for x in row] for row in tableau.a]
    found = []
    for tree in nystrom_trees(order) if second_order else rooted_trees(order):
        exact = float(force(tree, second_order=second_order)) * theta**order / order
        if position:
            exact *= theta / (order + 1)
        phi = stage_weights(tree, tableau.a, tableau.c)
        value = math.fsum(w * x for w, x in zip(weights, phi, strict=True))
        bound = stage_weights(tree, absolute, tableau.c)
        total = math.fsum(abs(w) * x for w, x in zip(spread or weights, bound, strict=True)) + abs(exact)
        # Each term is a product of at most 2 * order coefficients, each rounded once, times powers of theta.
        found.append(Defect(abs(value - exact), 4 * (order + 2) * sys.float_info.epsilon * total))
    return found


def assert_order(
    tableau: ButcherTableau | NystromTableau,
    weights: Sequence[float],
    order: int,
    theta: float = 1.0,
    spread: Sequence[float] | None = None,
    *,
    position: bool = False,
) -> None:
    for n in range(1, order + 1):
        for defect in defects(tableau, weights, n, theta, spread, position=position):
            assert defect.size <= defect.rounding, f"order {n} at theta = {theta}"


def assert_not_order(
    tableau: ButcherTableau | NystromTableau,
    weights: Sequence[float],
    order: int,
    theta: float = 1.0,
    *,
    position: bool = False,
) -> None:
    assert any(d.size > 100 * d.rounding for d in defects(tableau, weights, order, theta, position=position))


def polynomials(rows: Sequence[Sequence[float]], theta: float, lowest: int) -> list[float]:
    return [math.fsum(x * theta ** (k + lowest) for k, x in enumerate(row)) for row in rows]


def magnitudes(rows: Sequence[Sequence[float]], theta: float, lowest: int) -> list[float]:
    return polynomials([[abs(x) for x in row] for row in rows], theta, lowest)


def unit(size: int, index: int) -> list[float]:
    weights = [0.0] * size
    weights[index] = 1.0
    return weights


def test_number_of_trees() -> None:
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert [len(nystrom_trees(n)) for n in range(1, 9)] == [1, 1, 2, 3, 6, 10, 20, 36]


@pytest.mark.parametrize("name", BUTCHER)
def test_runge_kutta_step_has_its_order_and_no_more(name: str) -> None:
    tableau = BUTCHER[name]
    b = (*tableau.a[-1], 0.0)
    assert_order(tableau, b, tableau.order)
    assert_not_order(tableau, b, tableau.order + 1)


@pytest.mark.parametrize("name", [name for name, tableau in BUTCHER.items() if tableau.b_error is not None])
def test_embedded_runge_kutta_step_has_its_order_and_no_more(name: str) -> None:
    tableau = BUTCHER[name]
    assert tableau.b_error is not None and tableau.error_order is not None
    b = (*tableau.a[-1], 0.0)
    embedded = [x - y for x, y in zip(b, tableau.b_error, strict=True)]
    spread = [abs(x) + abs(y) for x, y in zip(b, tableau.b_error, strict=True)]
    assert_order(tableau, embedded, tableau.error_order, spread=spread)
    assert_not_order(tableau, embedded, tableau.error_order + 1)


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("name", BUTCHER)
def test_runge_kutta_dense_output_has_its_order_and_no_more(name: str, theta: float) -> None:
    tableau = BUTCHER[name]
    weights = polynomials(tableau.dense, theta, 1)
    assert_order(tableau, weights, tableau.dense_order, theta, magnitudes(tableau.dense, theta, 1))
    if theta < 1:
        assert_not_order(tableau, weights, tableau.dense_order + 1, theta)


@pytest.mark.parametrize("name", BUTCHER)
def test_runge_kutta_dense_output_has_the_derivatives_of_both_ends(name: str) -> None:
    tableau = BUTCHER[name]
    slopes = [[(k + 1) * x for k, x in enumerate(row)] for row in tableau.dense]
    assert [row[0] for row in slopes] == unit(tableau.stages, 0)
    _assert_close(slopes, unit(tableau.stages, -1))


@pytest.mark.parametrize("name", NYSTROM)
def test_nystrom_step_has_its_order_and_no_more(name: str) -> None:
    tableau = NYSTROM[name]
    assert_order(tableau, (*tableau.a[-1], 0.0), tableau.order - 1, position=True)
    assert_order(tableau, tableau.bp, tableau.order)
    assert_not_order(tableau, tableau.bp, tableau.order + 1)


@pytest.mark.parametrize("name", NYSTROM)
def test_embedded_nystrom_step_has_its_order_and_no_more(name: str) -> None:
    tableau = NYSTROM[name]
    assert tableau.b_error is not None and tableau.bp_error is not None and tableau.error_order is not None
    b = (*tableau.a[-1], 0.0)
    for step, error, order, position in (
        (b, tableau.b_error, tableau.error_order - 1, True),
        (tableau.bp, tableau.bp_error, tableau.error_order, False),
    ):
        embedded = [x - y for x, y in zip(step, error, strict=True)]
        spread = [abs(x) + abs(y) for x, y in zip(step, error, strict=True)]
        assert_order(tableau, embedded, order, spread=spread, position=position)
        assert_not_order(tableau, embedded, order + 1, position=position)


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("name", [*NYSTROM, "hermite"])
def test_nystrom_dense_output_has_its_order_and_no_more(name: str, theta: float) -> None:
    tableau = NYSTROM[name] if name != "hermite" else _with_hermite("dprkn6")
    for rows, order, position in (
        (tableau.dense, tableau.dense_order - 1, True),
        (tableau.dense_p, tableau.dense_p_order, False),
    ):
        weights = polynomials(rows, theta, 1 + position)
        assert_order(tableau, weights, order, theta, magnitudes(rows, theta, 1 + position), position=position)
        if theta < 1:
            assert_not_order(tableau, weights, order + 1, theta, position=position)


@pytest.mark.parametrize("name", [*NYSTROM, "hermite"])
def test_nystrom_dense_output_has_the_derivatives_of_both_ends(name: str) -> None:
    tableau = NYSTROM[name] if name != "hermite" else _with_hermite("dprkn6")
    assert [2 * row[0] for row in tableau.dense] == unit(tableau.stages, 0)
    assert [row[0] for row in tableau.dense_p] == unit(tableau.stages, 0)
    _assert_close([[(k + 2) * x for k, x in enumerate(row)] for row in tableau.dense], tableau.bp)
    _assert_close(
        [[(k + 2) * (k + 1) * x for k, x in enumerate(row)] for row in tableau.dense],
        unit(tableau.stages, -1),
    )
    _assert_close([[(k + 1) * x for k, x in enumerate(row)] for row in tableau.dense_p], unit(tableau.stages, -1))


def test_a_method_that_already_ends_at_its_last_stage_gets_no_further_one() -> None:
    assert BUTCHER["dopri5"].stages == 7
    assert BUTCHER["bosh3"].stages == 4
    assert BUTCHER["rk4"].stages == 5
    assert BUTCHER["dopri8"].stages == 14


def test_tables_are_plain_floats_and_cannot_be_changed() -> None:
    tableaus: list[ButcherTableau | NystromTableau] = [*BUTCHER.values(), *NYSTROM.values()]
    for tableau in tableaus:
        assert all(type(x) is float for rows in (tableau.a, tableau.dense, (tableau.c,)) for row in rows for x in row)
        with pytest.raises(AttributeError):
            tableau.order = 1  # type: ignore[misc]


def _with_hermite(name: str) -> NystromTableau:
    tableau = NYSTROM[name]
    return NystromTableau.from_nystrom(tableau.order, tableau.c, tableau.a, tableau.bp)


def _assert_close(rows: Sequence[Sequence[float]], expected: Sequence[float]) -> None:
    """Each row sums to what is expected, up to the rounding of its terms."""
    for row, value in zip(rows, expected, strict=True):
        scale = math.fsum(abs(x) for x in row) + abs(value)
        assert abs(math.fsum(row) - value) <= 8 * sys.float_info.epsilon * scale


BS = BUTCHER["bosh3"]
DP = NYSTROM["dprkn5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 0}, "order must be at least 1; got 0"),
        ({"c": (0.0,)}, "c needs at least two nodes"),
        ({"c": (0.0, 0.5, 0.75, 0.9)}, "c must run from 0 to 1"),
        ({"a": BS.a[:-1]}, "a must have 4 entries, one for each node; got 3"),
        (
            {"a": ((), (0.5,), (0.75,), BS.a[3])},
            "row 2 of a must have 2 entries, the method being explicit; got 1",
        ),
        ({"a": ((), (0.5,), (0.0, 0.7), BS.a[3])}, r"row 2 of a must sum to c\[i\] = 0.75; got 0.7"),
        ({"a": ((), (0.5,), (0.0, float("nan")), BS.a[3])}, "row 2 of a must sum to"),
        ({"order": 4}, r"the last row of a times c\^3 must sum to 1/4"),
        ({"b_error": None}, "b_error and error_order come together"),
        ({"error_order": None}, "b_error and error_order come together"),
        ({"b_error": (0.0, 0.0)}, "b_error must have 4 entries"),
        ({"b_error": (1.0, 0.0, 0.0, 0.0)}, r"b_error times c\^0 must sum to zero"),
        ({"error_order": 3}, r"b_error times c\^2 must sum to zero"),
        ({"dense": BS.dense[:-1]}, "dense must have 4 entries"),
        ({"dense": ((1.0,), *BS.dense[1:])}, "dense must have rows of one length"),
        ({"dense": BS.dense[::-1]}, "dense at theta = 1 must be the last row of a: row 0"),
        ({"dense_order": 4}, r"column \d of dense times c\^3"),
    ],
)
def test_a_bad_runge_kutta_table_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BS, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 0}, "order must be at least 1; got 0"),
        ({"c": (0.0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 0.9)}, "c must run from 0 to 1"),
        ({"a": DP.a[1:]}, "a must have 6 entries"),
        (
            {"a": ((), (1 / 64,), *DP.a[2:])},
            r"row 1 of a must sum to c\[i\]\^2 / 2 = 0.0078125; got 0.015625",
        ),
        ({"a": (*DP.a[:-1], (0.5, 0.0, 0.0, 0.0, 0.0))}, r"the last row of a times c\^1 must sum to 1/6"),
        ({"bp": DP.bp[:-1]}, "bp must have 6 entries"),
        ({"bp": unit(6, 0)}, r"bp times c\^1 must sum to 1/2"),
        ({"order": 7}, r"bp times c\^6|the last row of a times c\^5"),
        ({"b_error": None}, "b_error, bp_error and error_order come together"),
        ({"bp_error": None}, "b_error, bp_error and error_order come together"),
        ({"error_order": None}, "b_error, bp_error and error_order come together"),
        ({"b_error": unit(6, 1)}, r"b_error times c\^0 must sum to zero"),
        ({"bp_error": unit(6, 1)}, r"bp_error times c\^0 must sum to zero"),
        ({"dense": DP.dense[:-1]}, "dense must have 6 entries"),
        ({"dense": DP.dense_p}, "dense at theta = 1 must be the last row of a"),
        ({"dense_p": DP.dense}, "dense_p at theta = 1 must be bp"),
        ({"dense_order": 7}, r"column \d of dense times c\^5"),
        ({"dense_p_order": 6}, r"column \d of dense_p times c\^5"),
    ],
)
def test_a_bad_nystrom_table_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DP, **changes)


def test_from_butcher_refuses_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="b has 1 weights for 2 nodes"):
        ButcherTableau.from_butcher(2, [0, 0.5], [[], [0.5]], [1.0])
    with pytest.raises(ValueError, match="dense and dense_order come together"):
        ButcherTableau.from_butcher(1, [0], [[]], [1.0], dense_order=1)


def test_from_nystrom_refuses_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="bp must have 6 entries"):
        NystromTableau.from_nystrom(5, DP.c, DP.a, DP.bp[:-1])
    with pytest.raises(ValueError, match="row 5 of a must have 5 entries"):
        NystromTableau.from_nystrom(5, DP.c, (*DP.a[:-1], ()), DP.bp)
    with pytest.raises(ValueError, match="dense and dense_order come together"):
        NystromTableau.from_nystrom(5, DP.c, DP.a, DP.bp, dense=DP.dense)
    with pytest.raises(ValueError, match="dense_p and dense_p_order come together"):
        NystromTableau.from_nystrom(5, DP.c, DP.a, DP.bp, dense_p=DP.dense_p)
