"""What the benchmarks share: alternated timing, tables with medians and ranges, the machine they ran on."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

import hbode

SIZES = {
    "20 units, batch 64": (64, 20, 20),
    "64 units, batch 256": (256, 64, 64),
    "256→512 units, batch 256": (256, 256, 512),
}
"""The three sizes of the benchmarks: batch, dimension of h, hidden units."""


def header(title: str) -> str:
    """Return a title with machine and versions."""
    try:
        torchdiffeq = version("torchdiffeq")
    except PackageNotFoundError:  # on a machine without network
        torchdiffeq = "not there"
    return (
        f"{title}\n{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchdiffeq {torchdiffeq}, hbode {hbode.__version__}\n"
    )


def peak_memory() -> float:
    """Return the most memory that this process has held, in MiB.

    On Linux from its own address space: the figure of getrusage starts from that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def network(dim: int, hidden: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return the two-layer tanh field of the benchmarks, seeded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, dim)).to(dtype)


class Joined(nn.Module):
    """The heavy ball as other libraries integrate it: one field on (h, m) concatenated, counting its calls."""

    def __init__(self, net: Callable[[Tensor], Tensor], gamma: float) -> None:
        super().__init__()
        self.net, self.gamma, self.nfe = net, gamma, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        h, m = y.chunk(2, -1)
        return torch.cat((m, self.net(h) - self.gamma * m), -1)


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{1e3 * self.median:.2f} ({1e3 * min(self.seconds):.2f}–{1e3 * max(self.seconds):.2f})"


def alternate(runs: Mapping[str, Callable[[], object]], repeats: int = 9, warmup: int = 2) -> dict[str, Timing]:
    """Time the runs in turn, so that a change of the machine's speed meets all of them alike."""
    for run in runs.values():
        for _ in range(warmup):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(a: Timing, b: Timing) -> str:
    """Return the ratio a / b, run by run: median (range)."""
    values = [x / y for x, y in zip(a.seconds, b.seconds, strict=True)]
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their columns, aligned."""
    lines = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])
