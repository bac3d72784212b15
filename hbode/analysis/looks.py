"""How lines of figures look: Okabe-Ito colours, told apart in black and white by line and marker."""

from __future__ import annotations

from typing import Any

from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

LINES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": (0, (1, 1.2)), "marker": "s"},
    {"color": "#E69F00", "linestyle": (0, (5, 1.5)), "marker": "^"},
    {"color": "#009E73", "linestyle": (0, (6, 1.5, 1, 1.5)), "marker": "D"},
    {"color": "#D55E00", "linestyle": "solid", "marker": "o"},
    {"color": "#CC79A7", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#56B4E9", "linestyle": (0, (8, 2)), "marker": "P"},
    {"color": "#000000", "linestyle": (0, (2, 2)), "marker": "X"},
)
"""One entry a line, for anything there are several of; keyword arguments of `matplotlib.axes.Axes.plot`."""

SYSTEM_LINES = dict(zip(("node", "sonode", "hbnode", "ghbnode"), LINES, strict=False))
"""The same for the systems that are compared, by name."""


def log_axis(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers where it spans little more than a decade."""
    if 0 < low <= high < 30 * low:
        subs = (1, 2, 5) if high > 3 * low else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def line(index: int) -> dict[str, Any]:
    """Return the look of line number `index`, from the start again after the last."""
    return LINES[index % len(LINES)]
