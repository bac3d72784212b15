"""Linear recurrences z_k = A z_{k-1} + B u_k over whole sequences at once, in chunks."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16
"""Steps that are one matrix product; 8 to 64 differ by less than a half in time."""

SHORT = 256
"""Steps up to which matrix products, which are few, are faster than sweeps over chunks, where one number serves all."""


def linear_recurrence(
    A: Tensor, u: Tensor, *, B: Tensor | None = None, C: Tensor | None = None, z0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y_k = C z_k with z_k = A z_{k-1} + B u_k for k = 1 … T, and z_T.

    S systems, of n states, p inputs and q outputs each, read b sequences each.

    Parameters
    ----------
    A
        Shape (S, n, n); or (S, b, T, n, n), of each step its own, where S and b may be 1. All is computed in its dtype
        up to the coefficients of the sums over inputs, or to the end where A changes from step to step; a wider one
        than that of u keeps the digits of propagators over short times.
    u
        Shape (S, b, T, p), T > 0.
    B, C
        Shapes (S, n, p) and (S, q, n); B may change from step to step as A does, if A does. Default: the identity.
    z0
        Shape (S, b, n). Default: zero.

    Returns
    -------
    y, z
        Shapes (S, b, T, q) and (S, b, n), in the dtype of u.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    With one A for all steps, K of them are products with the block Toeplitz matrix of C Aʲ B; what the chunks pass on
    to each other is the same problem for T / K steps with A^K, solved in the same way. That takes O(T K) operations in
    matrix products, and derivatives of all orders by those of products: what is kept for them are u and a state a
    chunk. With A of each step, chunks of √T steps go on side by side, twice, once from zero and once from where the one
    before ended; the gradient is the same recurrence backwards, λ_k = g_k + Aᵀ_{k+1} λ_{k+1}.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import linear_recurrence
    >>> u = torch.ones(1, 1, 4, 1)
    >>> linear_recurrence(torch.tensor([[[0.5]]]), u)[0].flatten()
    tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    n = A.shape[-1] if A.ndim else 0
    if u.ndim != 4 or not u.shape[2]:
        raise ValueError(f"u must have shape (S, b, T, p) with T > 0, got {tuple(u.shape)}")
    S, b, T, p = u.shape
    varying = A.ndim == 5
    fits = A.ndim in (3, 5) and A.shape[-2] == n and A.shape[0] in (1, S) and (varying or A.shape[0] == S)
    if not fits or (varying and (A.shape[1] not in (1, b) or A.shape[2] != T)):
        raise ValueError(f"A must have shape ({S}, n, n) or ({S}, {b}, {T}, n, n), got {tuple(A.shape)}")
    q = n if C is None else C.shape[-2]
    own = varying and B is not None and B.ndim == 5
    for name, value, shape in (
        ("B", B, (*A.shape[:3], n, p) if own else (S, n, p)),
        ("C", C, (S, q, n)),
        ("z0", z0, (S, b, n)),
    ):
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    if B is None and p != n:
        raise ValueError(f"u must have as many inputs as states, {n}, where B is the identity, got {p}")
    if not varying:
        return _constant(A, u, B, C, u.new_zeros(S, b, n) if z0 is None else z0.to(u.dtype))
    forced = u.to(A.dtype)
    if B is not None:
        forced = (B if own else B[:, None, None]).to(A.dtype).mul(forced.unsqueeze(-2)).sum(-1)
    z = torch.as_tensor(_Varying.apply(A, forced, None if z0 is None else z0.to(A.dtype), False))
    y = z if C is None else z @ C.to(A.dtype).mT.unsqueeze(1)
    return y.to(u.dtype), z[:, :, -1].to(u.dtype)


def decaying_sums(a: float, u: Tensor, z0: Tensor | None = None) -> Tensor:
    """Return z_k = a z_{k-1} + u_k for k = 1 … T: one number for b series, which lie side by side at each step.

    Parameters
    ----------
    a
        The number, as a setting: it gets no gradient.
    u
        Shape (T, b), T > 0.
    z0
        Shape (b,). Default: zero.

    Notes
    -----
    Long sequences go the way of `linear_recurrence` with a matrix for each step. Short ones take the time of as many
    operations as there are, and go by four matrix products.

    Examples
    --------
    >>> import torch
    >>> decaying_sums(0.5, torch.ones(4, 1)).flatten()
    tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    T, b = u.shape
    if T > SHORT or u.is_cuda:
        A = u.new_full((1, 1, 1, 1, 1), a).expand(1, 1, T, 1, 1)
        start = None if z0 is None else z0.view(1, b, 1)
        return torch.as_tensor(_Varying.apply(A, u.t().view(1, b, T, 1), start, False)).view(b, T).t()
    within, last, onwards, between, starting = _tables(a, T, u.dtype)
    count, size = len(between), len(within)
    padded = count * size > T
    chunks = (F.pad(u, (0, 0, 0, count * size - T)) if padded else u).view(count, size, b)
    starts = between @ (last @ chunks).view(count, b)
    if z0 is not None:
        starts = torch.addcmul(starts, starting, z0)
    z = torch.baddbmm(onwards * starts.unsqueeze(1), within.expand(count, size, size), chunks).view(-1, b)
    return z[:T] if padded else z


@lru_cache(maxsize=64)
def _tables(a: float, T: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the factors of inputs and of the start in the states of a chunk, and of its end; and those in the starts.

    The latter are factors of the ends of chunks, from no start, and of z_0.
    """
    size = _chunk(T)
    count = -(-T // size)

    def toeplitz(a: float, size: int, lag: int) -> Tensor:
        rows = [[a ** (k - j) if k >= j else 0.0 for j in range(lag, lag + size)] for k in range(size)]
        return torch.tensor(rows, dtype=torch.float64)

    within, between = toeplitz(a, size, 0), toeplitz(a**size, count, 1)
    starting = torch.tensor([[a ** (size * k)] for k in range(count)], dtype=torch.float64)
    within, onwards, between, starting = (x.to(dtype) for x in (within, a * within[:, :1], between, starting))
    return within, within[-1:], onwards, between, starting


def _constant(A: Tensor, u: Tensor, B: Tensor | None, C: Tensor | None, z0: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and z_T as `linear_recurrence` does, for one A (S, n, n); powers of A and B, C are of its dtype."""
    (S, b, T, p), n, dtype = u.shape, A.shape[-1], u.dtype
    size = _chunk(T)
    count = -(-T // size)
    powers = _powers(A, size)
    reach = powers[:, :size] if B is None else powers[:, :size] @ B.to(A.dtype).unsqueeze(1)  # Aʲ B: (S, K, n, p)
    left = powers[:, 1:] if C is None else C.to(A.dtype).unsqueeze(1) @ powers[:, 1:]  # C Aʲ⁺¹: (S, K, q, n)
    kernel = reach if C is None else C.to(A.dtype).unsqueeze(1) @ reach
    q = kernel.shape[2]
    lag = torch.arange(size, device=u.device)
    lag = lag - lag.unsqueeze(1) + size - 1  # of output k behind input j, (j, k), from the first of the padded kernel
    toeplitz = F.pad(kernel, (0, 0, 0, 0, size - 1, 0))[:, lag]  # (S, j, k, q, p)
    toeplitz = toeplitz.permute(0, 1, 4, 2, 3).reshape(S, size * p, size * q).to(dtype)
    onwards = left.permute(0, 3, 1, 2).reshape(S, n, size * q).to(dtype)
    ending = reach.flip(1).permute(0, 1, 3, 2).reshape(S, size * p, n).to(dtype)
    padding = count * size - T
    x = (F.pad(u, (0, 0, 0, padding)) if padding else u).reshape(S, b * count, size * p)
    starts = z0.unsqueeze(2)
    if count > 1:
        whole = (x @ ending).view(S, b, count, n)[:, :, :-1]  # the last chunk may not be full
        through = _constant(powers[:, size], whole, None, None, z0)[0]
        starts = torch.cat((starts, through), 2)
    y = torch.baddbmm(starts.reshape(S, b * count, n) @ onwards, x, toeplitz).view(S, b, count * size, q)
    rest = T - (count - 1) * size
    last = starts[:, :, -1] @ powers[:, rest].mT.to(dtype) + (
        u[:, :, T - rest :].reshape(S, b, rest * p) @ ending[:, (size - rest) * p :]
    )
    return y[:, :, :T], last


def _chunk(T: int) -> int:
    """Return the steps of a chunk, of which T has full ones if it can."""
    return T if T <= CHUNK else next((k for k in range(CHUNK, 2 * CHUNK) if T % k == 0), CHUNK)


def _powers(A: Tensor, count: int) -> Tensor:
    """Return A⁰ … A^count on an axis before the last two."""
    found = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A).unsqueeze(-3)
    top = A.unsqueeze(-3)
    while found.shape[-3] <= count:
        found, top = torch.cat((found, found @ top), -3), top @ top
    return found[..., : count + 1, :, :]


class _Varying(torch.autograd.Function):
    """z_k = A_k z_{k-1} + b_k, or A_k z_{k+1} + b_k backwards from zero: A (S, b, T, n, n), S and b 1 or as of b_k."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, forced: Tensor, start: Tensor | None, backwards: bool) -> Tensor:
        first = None if start is None else start.permute(2, 0, 1)
        z = _states(A.permute(3, 4, 2, 0, 1), forced.permute(3, 2, 0, 1), first, backwards).permute(2, 3, 1, 0)
        ctx.save_for_backward(A, z, start)
        ctx.backwards = backwards
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        A, z, start = ctx.saved_tensors
        back = A.roll(1 if ctx.backwards else -1, 2).mT  # what the end of z gets is multiplied by zero
        grad = torch.as_tensor(_Varying.apply(back, grads[0], None, not ctx.backwards))
        of_A = of_start = None
        if ctx.needs_input_grad[0]:
            before = F.pad(z[:, :, 1:], (0, 0, 0, 1)) if ctx.backwards else F.pad(z[:, :, :-1], (0, 0, 1, 0))
            if start is not None:
                before = torch.cat((start.unsqueeze(2), before[:, :, 1:]), 2)
            of_A = (grad.unsqueeze(-1) * before.unsqueeze(-2)).sum_to_size(A.shape)
        if start is not None:
            of_start = (A[:, :, 0] * grad[:, :, 0].unsqueeze(-1)).sum(-2)
        return of_A, grad, of_start, None


def _states(A: Tensor, forced: Tensor, start: Tensor | None, backwards: bool) -> Tensor:
    """Return z as `_Varying` does, (n, T, ...), of A (n, n, T, ...), b (n, T, ...) and z_0 (n, ...), None for zero.

    Chunks of some √T steps go on side by side, in two sweeps of as many operations; steps that fill none come last.
    """
    A, forced = (x.contiguous() if 0 < x.stride(-3) < max(x.stride()[-2:]) else x for x in (A, forced))  # step by step
    n, T = forced.shape[:2]
    root = max(math.isqrt(T // 2), 1)
    size = next((k for k in range(root, 2 * root) if T % k == 0), root)
    count = T // size
    rest = T - count * size
    begin, order, chunks, last = 0, range(size), range(count), range(T - rest, T)
    if backwards:
        begin, order, chunks, last = rest, order[::-1], chunks[::-1], range(rest)[::-1]
    found = torch.empty_like(forced)
    if n == 1:
        A = A[0]

    def step(A: Tensor, z: Tensor, forced: Tensor, out: Tensor) -> Tensor:
        return torch.addcmul(forced, A, z, out=out) if n == 1 else torch.add((A * z).sum(1), forced, out=out)

    matrices, inputs, states = (
        x.narrow(-3, begin, T - rest).unflatten(-3, (count, size)).unbind(-3) for x in (A, forced, found)
    )
    first, *others = order
    # Where each chunk ends and starts from stands in the place of its last and first state, in the layout of b.
    through, ends, starts = matrices[first], inputs[first], states[first]
    for k in others:
        through = matrices[k] * through if n == 1 else (matrices[k].unsqueeze(2) * through.unsqueeze(0)).sum(1)
        ends = step(matrices[k], ends, inputs[k], states[order[-1]])
    z, end, whole = starts.unbind(1), ends.unbind(1), through.unbind(-3)
    z[chunks[0]].zero_() if start is None else z[chunks[0]].copy_(start)
    for j, after in pairwise(chunks):
        step(whole[j], z[j], end[j], z[after])
    for k in order:
        starts = step(matrices[k], starts, inputs[k], states[k])
    for k in last:
        step(A.select(-3, k), found.select(1, k + 1 if backwards else k - 1), forced.select(1, k), found.select(1, k))
    return found
