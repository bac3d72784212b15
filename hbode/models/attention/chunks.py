"""Causal momentum attention in chunks: O(L) operations and memory, with a backward of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .weights import geometric_sums, powers

BLOCK = 2**17
"""Numbers of each of q, k and v that are worked on at a time on a CPU, so that they stay in its cache."""
CHUNKS = 32
"""Chunks at a time, at most: going on from one to the next takes as many products for each entry of a state."""


@dataclass(frozen=True, eq=False)
class ChunkWeights:
    """What momentum does within a chunk of C positions and from one to the next, for one μ or for one of each head.

    With S and P before a chunk, S + read_i P is read at its position i = 1 … C besides what the chunk itself adds, and
    S⁺ = S + passed P + Σ to_S_j k_j v_jᵀ and P⁺ = kept P + Σ to_P_j k_j v_jᵀ are there after it.

    Attributes
    ----------
    within
        1 + μ + … + μ^(i-j) for j ≤ i, zero for others, (C, C) or (H, 1, C, C).
    read, to_S, to_P
        (C, 1) or (H, 1, C, 1).
    passed, kept
        (1, 1) or (H, 1).
    """

    within: Tensor
    read: Tensor
    to_S: Tensor
    to_P: Tensor
    passed: Tensor
    kept: Tensor

    @classmethod
    def of(cls, momentum: Tensor, size: int, dtype: torch.dtype) -> ChunkWeights:
        """Return those of μ (h,), whose dtype they are computed in."""
        power, sums = powers(momentum, size), geometric_sums(momentum, size)
        lag = torch.arange(size, device=momentum.device)
        within = sums[:, (lag.unsqueeze(1) - lag + 1).clamp(min=0)]
        beyond = sums[:, 1:] * momentum.unsqueeze(-1)  # μ + … + μ^i
        columns = (x.unsqueeze(-1) for x in (beyond, sums[:, 1:].flip(-1), power[:, :size].flip(-1)))
        square = (x[0] if len(x) == 1 else x.unsqueeze(1) for x in (within, *columns))
        return cls(*(x.to(dtype) for x in (*square, beyond[:, -1:], power[:, -1:])))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All, in the order of the attributes."""
        return self.within, self.read, self.to_S, self.to_P, self.passed, self.kept


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, momentum: Tensor | None, S: Tensor, P: Tensor | None, z: Tensor
) -> Tensor:
    """Return q_iᵀ S_i / (q_iᵀ z_i) for all positions, zero where q_iᵀ z_i is.

    Parameters
    ----------
    q, k, v
        Features of queries and keys (B, H, L, D), and values (B, H, L, M), L > 0.
    momentum
        μ, shape (1,) or (H,); None: there is none, at a smaller cost.
    S, P, z
        What came before: (B, H, D, M) twice and (B, H, D); P is None where there is no momentum.

    Returns
    -------
    (B, H, L, M).
    """
    rows, (length, D), M = q.shape[0] * q.shape[1], q.shape[2:], v.shape[-1]
    size = min(length, 32 if max(D, M) <= 32 else 64)
    padding = -length % size
    if padding:
        q, k, v = (F.pad(x, (0, 0, 0, padding)) for x in (q, k, v))
    many = CHUNKS if q.device.type != "cpu" else min(CHUNKS, max(1, BLOCK // (max(D, M) * size * rows)))
    moving = () if momentum is None or P is None else (P, *ChunkWeights.of(momentum, size, q.dtype).tensors)
    return torch.as_tensor(_Causal.apply(size, many, q, k, v, S, z, *moving))[:, :, :length]


class _Causal(torch.autograd.Function):
    """What `causal_attention` does, for a length that is a multiple of the size of a chunk.

    It goes through the sequence in blocks of some chunks. Kept for the backward are, besides the arguments and the
    result, the states before each chunk and the normalisers; products of queries and keys are computed again. Where a
    graph of the gradient is asked for, all is computed again with one.
    """

    @staticmethod
    def forward(
        ctx: Any, size: int, many: int, q: Tensor, k: Tensor, v: Tensor, S: Tensor, z: Tensor, *moving: Tensor
    ) -> Tensor:
        walk = _Walk(size, many, moving[1:], q)
        out, inverse = torch.empty_like(v), q.new_empty(*q.shape[:3], 1)
        kept = []
        state = [S.flatten(2), z, *(P.flatten(2) for P in moving[:1])]
        for block in walk.blocks:
            out[:, :, block], inverse[:, :, block], before = walk.ahead(state, *(x[:, :, block] for x in (q, k, v)))
            kept += before
        ctx.save_for_backward(q, k, v, S, z, *moving, out, inverse, *kept)
        ctx.sizes = size, many, len(moving)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grads[0].device.type, enabled=False):
            return _Causal.gradients(ctx, grads[0])

    @staticmethod
    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return what `backward` does, of the gradient of the result."""
        size, many, count = ctx.sizes
        given, (out, inverse, *kept) = ctx.saved_tensors[: 5 + count], ctx.saved_tensors[5 + count :]
        q, k, v, S, z, *moving = given
        wanted = ctx.needs_input_grad[2:]
        walk = _Walk(size, many, moving[1:], q)
        if torch.is_grad_enabled():
            state = [S.flatten(2), z, *(P.flatten(2) for P in moving[:1])]
            again = torch.cat([walk.ahead(state, *(x[:, :, b] for x in (q, k, v)))[0] for b in walk.blocks], 2)
            trained = [x for x, want in zip(given, wanted, strict=True) if want]
            found = iter(torch.autograd.grad(again, trained, grad, create_graph=True, allow_unused=True))
            return None, None, *(next(found) if want else None for want in wanted)
        weights = [torch.zeros_like(x) for x in moving[1:]] if wanted[-1] and moving else []
        of = [torch.empty_like(x) for x in (q, k, v)]
        ahead = [x.new_zeros(x.shape).flatten(2) if x.ndim == 4 else torch.zeros_like(x) for x in (S, z, *moving[:1])]
        for number in reversed(range(len(walk.blocks))):
            block = walk.blocks[number]
            parts = len(ahead)
            walk.back(
                kept[parts * number : parts * (number + 1)],
                ahead,
                [x[:, :, block] for x in (q, k, v, out, grad, inverse)],
                [x[:, :, block] for x in of],
                weights,
            )
        dS, dz, *dP = ahead
        of_weights: list[Tensor] | list[None] = weights or [None] * max(0, count - 1)
        return None, None, *of, dS.view(S.shape), dz, *(x.view(S.shape) for x in dP), *of_weights


class _Walk:
    """A sequence in blocks, ahead and back. Its methods leave no tensor behind, so that the next block finds their
    memory again, in the cache."""

    def __init__(self, size: int, many: int, weights: Sequence[Tensor], q: Tensor) -> None:
        length = q.shape[2]
        self.size, self.weights = size, ChunkWeights(*weights) if weights else None
        self.blocks = [slice(at, min(at + size * many, length)) for at in range(0, length, size * many)]
        self.triangle = q.new_ones(size, size).tril()
        lag = torch.arange(many, device=q.device)
        lag = lag.unsqueeze(1) - lag - 1
        self.ones = (lag >= 0).to(q.dtype)
        self.decays = self.passed = self.ones
        if self.weights is not None:
            self.decays = self.ones * self.weights.kept.unsqueeze(-1) ** lag.clamp(min=0)
            self.passed = self.weights.passed.unsqueeze(-1)

    def chunked(self, x: Tensor) -> Tensor:
        """Return a block (B, H, G C, n) as (B H G, C, n)."""
        return x.reshape(-1, self.size, x.shape[-1])

    def ahead(self, state: list[Tensor], q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the result of a block, one over its normalisers, and states before chunks; move `state` on.

        What is changed in place is nothing that a derivative would need.
        """
        Q, K, V = (self.chunked(x) for x in (q, k, v))
        D, M = Q.shape[-1], V.shape[-1]
        lead = (*q.shape[:2], q.shape[2] // self.size)
        w = self.weights
        if w is None:
            added = torch.bmm(K.mT, V).view(*lead, -1)
        else:
            P, state[2] = _scan(torch.bmm(_times(K, w.to_P, lead).mT, V).view(*lead, -1), state[2], w.kept, self.decays)
            added = torch.bmm(_times(K, w.to_S, lead).mT, V).view(*lead, -1).addcmul_(P, self.passed)
        S, state[0] = _scan(added, state[0], None, self.ones)
        sums = torch.cat((state[1].unsqueeze(2), K.sum(1).view(*lead, D)), 2).cumsum(2)
        z, state[1] = sums[:, :, :-1], sums[:, :, -1]

        total = torch.bmm(Q, S.view(-1, D, M))
        products = torch.bmm(Q, K.mT)
        causal = products * self.triangle
        masses = causal.sum(-1, keepdim=True).add_(torch.bmm(Q, z.reshape(-1, D, 1)))
        if w is not None:
            total.baddbmm_(_times(Q, w.read, lead), P.view(-1, D, M))
            causal = _times(products, w.within, lead)
        total.baddbmm_(causal, V)
        none = masses == 0
        inverse = masses.masked_fill(none, 1).reciprocal().masked_fill(none, 0)
        out = (total * inverse).view(*q.shape[:3], M)
        return out, inverse.view(*q.shape[:3], 1), [S, z] if w is None else [S, z, P]

    def back(
        self, state: list[Tensor], ahead: list[Tensor], block: list[Tensor], grads: list[Tensor], totals: list[Tensor]
    ) -> None:
        """Write the gradients of q, k and v of a block, add to `totals` those of the weights, if it has any, and
        move back those of the state, `ahead`."""
        Q, K, V, out, g, inverse = (self.chunked(x) for x in block)
        D, M = Q.shape[-1], V.shape[-1]
        lead = (*block[0].shape[:2], block[0].shape[2] // self.size)
        S, z = state[:2]
        w = self.weights
        dmass = (g * out).sum(-1, keepdim=True).mul_(inverse).neg_()
        g = g * inverse  # of what is divided by the masses

        products, dproducts = torch.bmm(Q, K.mT), torch.bmm(g, V.mT)
        if totals:
            _collect(totals[0], (products * dproducts).view(*lead, self.size, self.size))
        if w is None:
            products, dproducts = products.mul_(self.triangle), dproducts.add_(dmass).mul_(self.triangle)
        else:
            products, dproducts = _times(products, w.within, lead), _times(dproducts, w.within, lead)
            dproducts.addcmul_(dmass, self.triangle)
        dq, dk, dv = torch.bmm(dproducts, K), torch.bmm(dproducts.mT, Q), torch.bmm(products.mT, g)

        dq.baddbmm_(g, S.view(-1, D, M).mT).addcmul_(dmass, z.reshape(-1, 1, D))
        dS, ahead[0] = _scan(torch.bmm(Q.mT, g).view(*lead, -1), ahead[0], None, self.ones.mT, -1, 0)
        sums = torch.cat((torch.bmm(Q.mT, dmass).view(*lead, D), ahead[1].unsqueeze(2)), 2).flip(2).cumsum(2).flip(2)
        ahead[1] = sums[:, :, 0]
        dk.add_(sums[:, :, 1:].reshape(-1, 1, D))
        into_S = dS.view(-1, D, M)
        if w is None:
            dv.baddbmm_(K, into_S)
            dk.baddbmm_(V, into_S.mT)
        else:
            P = state[2]
            seen = _times(g, w.read, lead)
            dq.baddbmm_(seen, P.view(-1, D, M).mT)
            before = torch.bmm(Q.mT, seen).view(*lead, -1).addcmul_(dS, self.passed)
            dP, ahead[2] = _scan(before, ahead[2], w.kept, self.decays.mT, -1, 0)
            into_P = dP.view(-1, D, M)
            for weight, into in ((w.to_S, into_S), (w.to_P, into_P)):
                dv.baddbmm_(_times(K, weight, lead), into)
                dk.baddbmm_(_times(V, weight, lead), into.mT)
            if totals:
                for total, x, A, y in ((totals[1], Q, P, g), (totals[2], K, dS, V), (totals[3], K, dP, V)):
                    terms = (torch.bmm(x, A.view(-1, D, M)) * y).sum(-1, keepdim=True)
                    _collect(total, terms.view(*lead, self.size, 1))
                for total, A in ((totals[4], dS), (totals[5], dP)):
                    _collect(total, (A * P).sum((-1, -2)).unsqueeze(-1))
        for to, grad in zip(grads, (dq, dk, dv), strict=True):
            to.copy_(grad.view(to.shape))


def _times(x: Tensor, weight: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Return x (B H G, C, n) times a weight of each position, and of each head if it has four axes."""
    return x * weight if weight.ndim == 2 else (x.view(*lead, *x.shape[1:]) * weight).view_as(x)


def _collect(total: Tensor, terms: Tensor) -> None:
    """Add terms (B, H, G, C, n) or (B, H, 1) to the gradient of a weight."""
    total += terms.sum_to_size(total.shape)


def _scan(
    added: Tensor, start: Tensor, rate: Tensor | None, matrix: Tensor, first: int = 0, last: int = -1
) -> tuple[Tensor, Tensor]:
    """Return x_0 … x_{G-1}, (B, H, G, n), and x_G of x_{g+1} = rate x_g + added_g with x_0 = start; `added` is used up.

    `matrix` has rate^(g-j-1) at j < g and zero at others. Backwards, it is transposed, and first and last exchanged.
    This is no `linear_recurrence` over all chunks, because there states are the last axis: D M entries of S and P of
    each chunk would have to be turned round and back, which takes as long as all of the attention.
    """
    count = added.shape[2]
    added[:, :, first] += start if rate is None else start * rate
    found = matrix[..., :count, :count] @ added
    found[:, :, first] = start
    end = added[:, :, last]
    if count > 1:
        end = end + (found[:, :, last] if rate is None else found[:, :, last] * rate)
    return found, end
