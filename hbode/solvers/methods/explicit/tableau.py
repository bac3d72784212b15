"""Coefficient tables of explicit one-step methods, validated when they are made.

A table is data: plain Python floats in tuples, so that a step which closes over one is traced with the
coefficients as constants. Both tables are normalised the same way: the last stage is the derivative at the
end of the step (first-same-as-last), hence the last row of ``a`` is the step itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ...coefficients import (
    Number,
    check_dense,
    check_error_weights,
    check_length,
    check_nodes,
    check_orders,
    check_quadrature,
    check_sum,
    cubic_hermite,
    floats,
    quintic_hermite,
    rows,
)


@dataclass(frozen=True, slots=True)
class ButcherTableau:
    """Explicit Runge-Kutta method for y' = f(t, y), with an error estimate and dense output.

    The stages are k_i = f(t0 + c_i dt, y0 + dt sum_j a_ij k_j), and the last one is f(t0 + dt, y1).

    Parameters
    ----------
    order
        Order p of the propagated solution: its local error is O(dt^(p+1)).
    c
        The s nodes; ``c[0] == 0`` and ``c[-1] == 1``.
    a
        Strictly lower triangular, ``len(a[i]) == i``. The last row is the step:
        y1 = y0 + dt sum_j a[-1][j] k_j.
    b_error
        Weights, length s, of the error estimate y1 - y1_hat = dt sum_i b_error_i k_i; None where the method
        has no embedded solution y1_hat.
    error_order
        Order q of the embedded solution: the estimate is O(dt^(q+1)). None where there is none.
    dense
        Dense output y(t0 + theta dt) = y0 + dt sum_i k_i sum_k dense[i][k] theta^(k+1), length s.
    dense_order
        Order of the dense output: its local error is O(dt^(dense_order+1)), uniformly for theta in [0, 1].

    Raises
    ------
    ValueError
        If the shapes do not fit together or the coefficients break a condition that the orders imply.

    Examples
    --------
    >>> from hbode.solvers import ButcherTableau
    >>> table = ButcherTableau.from_butcher(2, (0, 1), ((), (1,)), (0.5, 0.5))  # Heun
    >>> table.order, table.stages
    (2, 3)
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b_error: tuple[float, ...] | None
    error_order: int | None
    dense: tuple[tuple[float, ...], ...]
    dense_order: int

    def __post_init__(self) -> None:
        check_orders(order=self.order, error_order=self.error_order, dense_order=self.dense_order)
        check_nodes(self.c, self.a)
        for i, row in enumerate(self.a):
            check_sum(f"row {i} of a", row, self.c[i], "c[i]")
        b = (*self.a[-1], 0.0)
        check_quadrature("the last row of a", b, self.c, self.order, velocity=True)
        check_error_weights(self.error_order, self.c, b_error=self.b_error)
        check_dense("dense", self.dense, b, "the last row of a", self.c, self.dense_order, velocity=True)

    @property
    def stages(self) -> int:
        """Number of stages, with the one at the end of the step that the next step reuses."""
        return len(self.c)

    @classmethod
    def from_butcher(
        cls,
        order: int,
        c: Sequence[Number],
        a: Sequence[Sequence[Number]],
        b: Sequence[Number],
        b_error: Sequence[Number] | None = None,
        error_order: int | None = None,
        dense: Sequence[Sequence[Number]] | None = None,
        dense_order: int | None = None,
    ) -> ButcherTableau:
        """Make a tableau from the table (c, a, b) as papers print it.

        A method whose last row of ``a`` is not already ``b`` gets one more stage, f(t1, y1), with weight 0 in
        ``b_error``; it costs nothing, since it is the first stage of the next step. Without ``dense``, dense
        output is the cubic Hermite interpolant of y0, f0, y1, f1, of order min(order, 3).

        Raises
        ------
        ValueError
            If the parts do not make a valid tableau, or only one of ``dense`` and ``dense_order`` is given.
        """
        if len(b) != len(c):
            raise ValueError(f"b has {len(b)} weights for {len(c)} nodes")
        if (dense is None) != (dense_order is None):
            raise ValueError("dense and dense_order come together; only one of them is given")
        step = list(b)
        if len(a) == len(c) > 1 and c[-1] == 1 and b[-1] == 0 and list(a[-1]) == step[:-1]:
            step = step[:-1]
        else:
            c, a = [*c, Fraction(1)], [*a, step]
            b_error = None if b_error is None else [*b_error, Fraction(0)]
        if dense is None or dense_order is None:
            dense, dense_order = cubic_hermite(step), min(order, 3)
        return cls(
            order=order,
            c=floats(c),
            a=rows(a),
            b_error=None if b_error is None else floats(b_error),
            error_order=error_order,
            dense=rows(dense),
            dense_order=dense_order,
        )


@dataclass(frozen=True, slots=True)
class NystromTableau:
    """Explicit Runge-Kutta-Nystrom method for u'' = g(t, u), with an error estimate and dense output.

    The stages are k_i = g(t0 + c_i s, u + c_i s u' + s^2 sum_j a_ij k_j), and the last one is g(t0 + s, u1).

    Parameters
    ----------
    order
        Order p of the propagated solution: the local errors of u1 and u1' are O(s^(p+1)).
    c
        The nodes; ``c[0] == 0`` and ``c[-1] == 1``.
    a
        Strictly lower triangular, ``len(a[i]) == i``. The last row is the step of the position:
        u1 = u + s u' + s^2 sum_j a[-1][j] k_j.
    bp
        Weights of the velocity, one per stage: u1' = u' + s sum_i bp_i k_i.
    b_error, bp_error
        Weights of the error estimates u1 - u1_hat = s^2 sum_i b_error_i k_i and
        u1' - u1_hat' = s sum_i bp_error_i k_i; None where the method has no embedded solution.
    error_order
        Order q of the embedded solution: both estimates are O(s^(q+1)). None where there is none.
    dense
        Dense output u(t0 + theta s) = u + theta s u' + s^2 sum_i k_i sum_k dense[i][k] theta^(k+2).
    dense_p
        Dense output u'(t0 + theta s) = u' + s sum_i k_i sum_k dense_p[i][k] theta^(k+1).
    dense_order, dense_p_order
        Orders of the dense output of u and u': their local errors are O(s^(dense_order+1)) and
        O(s^(dense_p_order+1)), uniformly for theta in [0, 1].

    Raises
    ------
    ValueError
        If the shapes do not fit together or the coefficients break a condition that the orders imply.

    Examples
    --------
    >>> from hbode.solvers import NystromTableau, as_method
    >>> isinstance(as_method("dprkn6").tableau, NystromTableau)
    True
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    bp: tuple[float, ...]
    b_error: tuple[float, ...] | None
    bp_error: tuple[float, ...] | None
    error_order: int | None
    dense: tuple[tuple[float, ...], ...]
    dense_p: tuple[tuple[float, ...], ...]
    dense_order: int
    dense_p_order: int

    def __post_init__(self) -> None:
        check_orders(
            order=self.order,
            error_order=self.error_order,
            dense_order=self.dense_order,
            dense_p_order=self.dense_p_order,
        )
        check_nodes(self.c, self.a)
        for i, row in enumerate(self.a):
            check_sum(f"row {i} of a", row, self.c[i] ** 2 / 2, "c[i]^2 / 2")
        b = (*self.a[-1], 0.0)
        check_quadrature("the last row of a", b, self.c, self.order - 1, velocity=False)
        check_length("bp", self.bp, self.c)
        check_quadrature("bp", self.bp, self.c, self.order, velocity=True)
        check_error_weights(self.error_order, self.c, b_error=self.b_error, bp_error=self.bp_error)
        check_dense("dense", self.dense, b, "the last row of a", self.c, self.dense_order - 1, velocity=False)
        check_dense("dense_p", self.dense_p, self.bp, "bp", self.c, self.dense_p_order, velocity=True)

    @property
    def stages(self) -> int:
        """Number of stages, with the one at the end of the step that the next step reuses."""
        return len(self.c)

    @classmethod
    def from_nystrom(
        cls,
        order: int,
        c: Sequence[Number],
        a: Sequence[Sequence[Number]],
        bp: Sequence[Number],
        b_error: Sequence[Number] | None = None,
        bp_error: Sequence[Number] | None = None,
        error_order: int | None = None,
        dense: Sequence[Sequence[Number]] | None = None,
        dense_p: Sequence[Sequence[Number]] | None = None,
        dense_order: int | None = None,
        dense_p_order: int | None = None,
    ) -> NystromTableau:
        """Make a tableau from fractions or floats; the last row of ``a`` is the position step.

        Without ``dense``, dense output is the quintic Hermite interpolant of u, u', u'' at both ends, of
        order min(order, 5), and its derivative, of order min(order, 4). With ``dense`` but without
        ``dense_p``, the velocity is the derivative of the position, one order lower.

        Raises
        ------
        ValueError
            If the parts do not make a valid tableau, or dense output comes without its order, or the reverse.
        """
        if (dense is None) != (dense_order is None):
            raise ValueError("dense and dense_order come together; only one of them is given")
        if (dense_p is None) != (dense_p_order is None):
            raise ValueError("dense_p and dense_p_order come together; only one of them is given")
        check_nodes(c, a)
        check_length("bp", bp, c)
        if dense is None or dense_order is None:
            dense, dense_order = quintic_hermite([*a[-1], Fraction(0)], bp), min(order, 5)
        if dense_p is None or dense_p_order is None:
            dense_p = [[(k + 2) * x for k, x in enumerate(row)] for row in dense]
            dense_p_order = min(order, dense_order - 1)
        return cls(
            order=order,
            c=floats(c),
            a=rows(a),
            bp=floats(bp),
            b_error=None if b_error is None else floats(b_error),
            bp_error=None if bp_error is None else floats(bp_error),
            error_order=error_order,
            dense=rows(dense),
            dense_p=rows(dense_p),
            dense_order=dense_order,
            dense_p_order=dense_p_order,
        )
