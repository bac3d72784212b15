"""The few tensor expressions that every step is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Sums:
    """The sums r_i = Σ_j W_ij x_j of one step, for columns x_j that become known one after the other.

    Row i may be read once all columns with W_ij ≠ 0 are there: first the stages, in their order, then the results.
    Without a graph each new column is added to all rows at once, one pass over a preallocated block. With one,
    the columns are kept and each row is formed when it is read, which leaves less to differentiate. A compiler is
    given each row as a chain of products and sums, which it fuses with what comes before and after.

    Parameters
    ----------
    weights
        W, shape (n, k) for numbers, or (n, k, *broadcastable to the columns) where the weights differ over
        samples or channels; in the dtype of the columns.
    first
        The columns known at the start.
    """

    __slots__ = ("_block", "_columns", "_first", "_flat", "_last", "_rows", "_steps")

    def __init__(self, weights: Tensor, first: tuple[Tensor, ...]) -> None:
        self._columns = list(first)
        self._block: Tensor | None = None
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._rows = weights.unbind()
            return
        self._steps = weights.unbind(1)
        shape = first[0].shape
        self._flat = weights.ndim == 2
        if self._flat:
            block = torch.outer(self._steps[0], first[0].reshape(-1))
            for step, column in zip(self._steps[1:], first[1:], strict=False):
                block.addr_(step, column.reshape(-1))
            self._block = block
            self._rows = block.view(len(weights), *shape).unbind()
        else:
            self._block = block = self._steps[0] * first[0]
            for step, column in zip(self._steps[1:], first[1:], strict=False):
                block.addcmul_(step, column)
            self._rows = block.unbind()
        self._first = block.data_ptr()
        self._last = self._first + block.nbytes - 1

    def add(self, column: Tensor) -> None:
        """Add the next column."""
        if self._block is not None:
            step = self._steps[len(self._columns)]
            if self._first <= column.data_ptr() <= self._last:
                column = column.clone()  # a field may return its argument, which is a row of the block
            if self._flat:
                self._block.addr_(step, column.reshape(-1))
            else:
                self._block.addcmul_(step, column)
        self._columns.append(column)

    def row(self, index: int) -> Tensor:
        """Return the sum of row `index`."""
        if self._block is not None:
            return self._rows[index]
        weights = self._rows[index][: len(self._columns)]
        if not torch.compiler.is_compiling():
            return combine(weights, torch.stack(self._columns))
        total = weights[0] * self._columns[0]
        for j, column in enumerate(self._columns[1:], 1):
            total = total + weights[j] * column
        return total

    def pair(self, index: int) -> Tensor:
        """Return the sums of rows `index` and `index` + 1, stacked; to be read before the next step."""
        if self._block is not None:
            return self._block.view(len(self._rows), *self._rows[0].shape)[index : index + 2]
        return torch.stack((self.row(index), self.row(index + 1)))

    def column(self, index: int) -> Tensor:
        """Return one of the columns."""
        return self._columns[index]

    def columns(self) -> Tensor:
        """Return the columns so far as one tensor, shape (k, ...)."""
        return torch.stack(self._columns)


def along(y: Tensor, dt: Tensor | float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Return y + dt Σ_j w_j k_j, term by term; dt is a number, or has the dtype of y.

    Faster than `Sums` where few of the weights are not zero, as nothing is prepared. The slopes are added up before
    they are added to y, in units of the first weight: the sum is rounded to the digits of y once, in as many passes.
    """
    terms = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    if not terms:
        return y
    unit, total = terms[0]
    for weight, slope in terms[1:]:
        total = torch.add(total, slope, alpha=weight / unit)
    if isinstance(dt, float):
        return torch.add(y, total, alpha=unit * dt)
    return torch.addcmul(y, total, dt, value=unit)


def combine(weights: Tensor, stack: Tensor) -> Tensor:
    """Return Σ_j weights[j] stack[j], in one pass over the stack.

    `weights` has shape (k,) for numbers, or (k, *broadcastable to the entries) where the weights differ over
    samples or channels; `stack` has shape (k, ...).
    """
    if weights.ndim == 1:
        return (weights @ _flat(stack)).view(stack.shape[1:])
    return (weights * stack).sum(0)


def combine_rows(weights: Tensor, stack: Tensor) -> Tensor:
    """Return the rows Σ_j weights[i, j] stack[j]: `combine` for a matrix (n, k) or (n, k, ...) of weights."""
    if weights.ndim == 2:
        return (weights @ _flat(stack)).view(len(weights), *stack.shape[1:])
    return (weights * stack).sum(1)


def write_rows(out: Tensor, weights: Tensor, stack: Tensor) -> None:
    """Write what `combine_rows` returns to `out`, contiguous, of as many numbers."""
    if weights.ndim == 2:
        flat = _flat(stack)
        torch.mm(weights, flat, out=out.view(len(weights), flat.shape[1]))
    else:
        out.copy_(combine_rows(weights, stack).view(out.shape))


def write_spread(out: Tensor, weights: Tensor, rows: Tensor) -> None:
    """Write Σ_i weights[i, j] rows[i] for every j to `out`: the transpose of `combine_rows`, for cotangents of rows."""
    if weights.ndim == 2:
        flat = _flat(rows)
        torch.mm(weights.t(), flat, out=out.view(weights.shape[1], flat.shape[1]))
    else:
        torch.sum(weights * rows.unsqueeze(1), 0, out=out)


def norms(x: Tensor, axes: int = 0) -> Tensor:
    """Return the root-mean-square norm, float64, shape (), or (B,) of samples with which the last `axes` axes begin."""
    if axes:
        samples = x.movedim(x.ndim - axes, 0)
        x = samples.reshape(len(samples), -1)
    size: Tensor = torch.linalg.vector_norm(x, dim=1 if axes else None).double()
    return size / math.sqrt(max(x.numel() // max(size.numel(), 1), 1))


def powers(x: Tensor, exponents: Tensor, highest: int) -> Tensor:
    """Return x ** exponents for exponents 0, 1, …, highest, with derivatives of every order at zero too."""
    if not x.requires_grad:
        return x**exponents
    out = torch.ones_like(x)
    for k in range(1, highest + 1):
        out = torch.where(exponents >= k, out * x, out)
    return out


def lift(x: Tensor, ndim: int, keep: int) -> Tensor:
    """Insert axes of length one after the first `keep` axes of `x`, until it has `keep + ndim` axes.

    A number (no axes beyond the first `keep`) stays as it is, so that it can still enter a matrix product.
    """
    trailing = x.ndim - keep
    if trailing == 0 or trailing == ndim:
        return x
    return x.reshape(*x.shape[:keep], *[1] * (ndim - trailing), *x.shape[keep:])


def expand(weights: Tensor, number: Tensor) -> Tensor:
    """Give weights the trailing axes of length one with which they meet a number of shape () or (B, 1, …, 1)."""
    return weights.reshape(*weights.shape, *[1] * number.ndim) if number.ndim else weights


def stage_times(t: Tensor, dt: Tensor, nodes: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return t + c dt for every node c (float64, shape (s,)), as separate tensors of the shape of t.

    The sums are made in float64 and rounded once to `dtype`, the one in which the field reads the time.
    """
    return torch.addcmul(t, expand(nodes, t), dt).to(dtype).unbind()


def _flat(stack: Tensor) -> Tensor:
    count = stack.shape[0]
    return stack.reshape(count, stack.numel() // count)
