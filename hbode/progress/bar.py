"""A bar over the time of a solve."""

from __future__ import annotations

from torch import Tensor
from tqdm import tqdm


class Progress:
    """A bar over the time of a solve, or nothing."""

    def __init__(self, times: Tensor, shown: bool) -> None:
        self.bar = None
        if shown:
            self.start = float(times[0])
            self.bar = tqdm(total=abs(float(times[-1]) - self.start), unit="t", leave=False)
        self.accept = self._advance if shown else None

    def _advance(self, t: float, _: Tensor, dt: float) -> None:
        if self.bar is not None:
            self.bar.update(abs(dt))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
