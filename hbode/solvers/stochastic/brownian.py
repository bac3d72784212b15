"""A Brownian path as a function of a seed: any step of it can be made again, at any halving of the steps."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


class BrownianPath:
    """A Brownian path W over steps 0, 1, 2, …, each halved as often as wanted, in units of the length of a step.

    Over a step of length L, `pair` gives two independent standard normals (w, n) an entry: the increment is √L w, and
    the space-time Lévy area, H = (1/L) ∫ (W_s - W_0) ds - (W_L - W_0) / 2, is √(L/12) n. Halves are drawn from their
    exact conditional law given the whole (Foster, Oberhauser, Lyons, SIAM J. Numer. Anal. 58, 2020), so that all
    halvings see the same path. Each draw has a seed of its own, made of that of the path, the level and the place:
    nothing but the way down to the newest step is kept.

    Normals are drawn in float32, several times as fast on a CPU: they end at 5.8, and their variance is short of one by
    some 1e-7. Paths are the same for all dtypes of the state, and differ between kinds of devices.

    Parameters
    ----------
    seed
        Any integer.
    like
        A tensor of the shape, dtype and device of W.
    halvings
        How often the steps are halved: step k of `pair` has the length of a whole one over 2^halvings.
    """

    def __init__(self, seed: int, like: Tensor, halvings: int = 0) -> None:
        self.shape, self.dtype, self.device = (2, *like.shape), like.dtype, like.device
        self.halvings = halvings
        self.generator = torch.Generator(self.device)
        self.first = [_first(seed, level) for level in range(halvings + 1)]
        self.way: list[tuple[int, Tensor] | None] = [None] * (halvings + 1)

    def pair(self, step: int) -> Tensor:
        """Return (w, n) of a step, shape (2, *W)."""
        pair, above = None, None
        for level in range(self.halvings + 1):
            place = step >> (self.halvings - level)
            known = self.way[level]
            if known is None or known[0] != place:
                drawn = self._normals(level, place if above is None else place >> 1)
                known = place, drawn if above is None else _half(above, drawn, right=place & 1)
                self.way[level] = known
            pair = above = known[1]
        return pair if pair is not None else torch.empty(0)

    def _normals(self, level: int, place: int) -> Tensor:
        self.generator.manual_seed(self.first[level] + place)
        return torch.randn(self.shape, generator=self.generator, device=self.device).to(self.dtype)


def _first(seed: int, level: int) -> int:
    """Return the seed of the first draw of a level; those after it follow one by one, so that no two are the same."""
    digest = hashlib.blake2b(f"{seed} {level}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def _half(whole: Tensor, drawn: Tensor, right: int) -> Tensor:
    """Return (w, n) of one half of a step, given those of the whole and two normals that both halves share."""
    (w, n), (z, y) = whole, drawn
    across, along = (math.sqrt(3) * n + z) / math.sqrt(8), (math.sqrt(2) * n - math.sqrt(6) * z) / 4
    sign = -1.0 if right else 1.0
    return torch.stack((math.sqrt(0.5) * w + sign * across, along + sign * math.sqrt(0.5) * y))
