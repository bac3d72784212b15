"""A bar over the time of a solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from tqdm import tqdm


@contextmanager
def progress_bar(times: Tensor, shown: bool) -> Iterator[Callable[[float, Tensor, float], None] | None]:
    """Yield what advances a bar over the time of a solve by a step, or None where it is not shown."""
    if not shown:
        yield None
        return
    with tqdm(total=abs(float(times[-1] - times[0])), unit="t", leave=False) as bar:

        def accept(t: float, _: Tensor, dt: float) -> None:
            bar.update(abs(dt))

        yield accept
