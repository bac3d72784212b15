"""The few tensor expressions that every step is made of."""

from __future__ import annotations

import torch
from torch import Tensor


class Columns:
    """The tensors that the stages of one step combine: a stack that grows, each combination one product.

    With a graph, the tensors are stacked anew for every product. Without one they lie in one preallocated block,
    zero where nothing was written yet, and each product runs over the whole block with weights that are zero
    there: cheaper than cutting both to size.
    """

    __slots__ = ("_block", "_flat", "_rows", "_tensors")

    def __init__(self, first: tuple[Tensor, ...], capacity: int) -> None:
        self._tensors = list(first)
        self._block: Tensor | None = None
        if not torch.is_grad_enabled():
            x = first[0]
            self._block = block = x.new_zeros((capacity, *x.shape))
            self._flat = block.view(capacity, x.numel()).t()
            self._rows = block.unbind()
            for row, tensor in zip(self._rows, first, strict=False):
                row.copy_(tensor)

    def append(self, tensor: Tensor) -> None:
        """Add a tensor of the common shape."""
        if self._block is not None:
            self._rows[len(self._tensors)].copy_(tensor)
        self._tensors.append(tensor)

    def combine(self, weights: Tensor) -> Tensor:
        """Return Σ_j weights[j] x_j over the tensors so far.

        `weights` has shape (capacity,), or (capacity, *broadcastable to the tensors) where they differ over
        samples or channels, and is zero beyond the tensors so far.
        """
        if self._block is None:
            return combine(weights[: len(self._tensors)], torch.stack(self._tensors))
        if weights.ndim > 1:
            return combine(weights, self._block)
        return torch.mv(self._flat, weights).view(self._tensors[0].shape)

    def stack(self) -> Tensor:
        """Return the full set as one tensor, shape (capacity, ...)."""
        return torch.stack(self._tensors) if self._block is None else self._block


def combine(weights: Tensor, stack: Tensor) -> Tensor:
    """Return Σ_j weights[j] stack[j], in one pass over the stack.

    `weights` has shape (k,) for numbers, or (k, *broadcastable to the entries) where the weights differ over
    samples or channels; `stack` has shape (k, ...).
    """
    if weights.ndim == 1:
        return torch.mv(_flat(stack).t(), weights).view(stack.shape[1:])
    return (weights * stack).sum(0)


def combine_rows(weights: Tensor, stack: Tensor) -> Tensor:
    """Return the rows Σ_j weights[i, j] stack[j]: `combine` for a matrix (n, k) or (n, k, ...) of weights."""
    if weights.ndim == 2:
        return (weights @ _flat(stack)).view(len(weights), *stack.shape[1:])
    return (weights * stack).sum(1)


def lift(x: Tensor, ndim: int, keep: int) -> Tensor:
    """Insert axes of length one after the first `keep` axes of `x`, until it has `keep + ndim` axes.

    A number (no axes beyond the first `keep`) stays as it is, so that it can still enter a matrix product.
    """
    trailing = x.ndim - keep
    if trailing == 0 or trailing == ndim:
        return x
    return x.reshape(*x.shape[:keep], *[1] * (ndim - trailing), *x.shape[keep:])


def powers(theta: Tensor, first: int, last: int) -> Tensor:
    """Return θ^first … θ^last on a new last axis."""
    exponents = torch.arange(first, last + 1, dtype=theta.dtype, device=theta.device)
    return theta.unsqueeze(-1) ** exponents


def stage_times(t: Tensor, dt: Tensor, nodes: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return t + c dt for every node c (float64, shape (s,)), as separate tensors of the shape of t.

    The sums are made in float64 and rounded once to `dtype`, the one in which the field reads the time.
    """
    if t.ndim:
        nodes = nodes.view(-1, *[1] * t.ndim)
    return torch.addcmul(t, nodes, dt).to(dtype).unbind()


def _flat(stack: Tensor) -> Tensor:
    return stack.reshape(len(stack), stack.numel() // len(stack))
