"""How lines of figures look: Okabe-Ito colours, told apart in black and white by line and marker."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from ..systems import FAMILY

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

SYSTEM_LINES = dict(zip(FAMILY, LINES, strict=False))
"""The same for the systems of `FAMILY`."""


def shown(name: str) -> str:
    """Return the name of a system as figures and sentences have it."""
    return name.upper() if name in SYSTEM_LINES else name


class Picture(Figure):
    """A figure that a notebook shows whatever its backend; pyplot does not know it.

    Parameters
    ----------
    width, height
        In inches.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")

    def _repr_png_(self) -> bytes:
        drawn = BytesIO()
        self.savefig(drawn, format="png", dpi=100)
        return drawn.getvalue()


def log_scale(panel: Axes, which: str) -> None:
    """Set axis "x" or "y" to a log scale with labels, over a factor of 5 at least: what is alike then looks alike."""
    panel.set(**{f"{which}scale": "log"})
    low, high = getattr(panel, f"get_{which}lim")()
    more = math.sqrt(max(5 * low / high, 1.0))
    panel.set(**{f"{which}lim": (low / more, high * more)})
    if high < 100 * low:  # else the powers of ten are enough
        axis = getattr(panel, f"{which}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if high < 12 * low else (1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


BAND = (0.05, 0.95)
BAND_LABEL = "5 to 95 % of the samples; lines: medians"


def draw_band(panel: Axes, t: Any, values: Any, look: dict[str, Any]) -> None:
    """Draw the medians of positive values (T, ...) over what is not T, and the band around them, on a log scale.

    So are times (T, B) drawn at their medians. What is not finite or not positive counts as unknown; where nothing is
    known, nothing is drawn.
    """
    t, rows = (np.asarray(x.detach().double().cpu() if isinstance(x, Tensor) else x) for x in (t, values))
    t, rows = np.median(t.reshape(len(t), -1), 1), rows.reshape(len(t), -1)
    rows = np.where(np.isfinite(rows) & (rows > 0), rows, math.nan)
    known = ~np.isnan(rows).all(1)
    if not known.any():
        return
    own = {"linewidth": 1.9, "markersize": 5, "markevery": max(int(known.sum()) // 8, 1), **look}
    panel.plot(t[known], np.nanmedian(rows[known], 1), **own)
    if rows.shape[1] > 1:
        low, high = np.nanquantile(rows[known], BAND, axis=1)
        panel.fill_between(t[known], low, high, color=look["color"], alpha=0.14, linewidth=0)


def finish(
    panel: Axes, x: str, y: str, *, log: str = "", title: str = "", empty: str = "nothing above zero to show"
) -> None:
    """Name the axes of a panel and set those of `log`, "y" or "xy", to log scales; or say why no line is on it."""
    panel.set(xlabel=x, ylabel=y)
    panel.set_title(title, loc="left", fontsize=11)
    if not any(len(np.asarray(drawn.get_xdata())) for drawn in panel.get_lines()):
        panel.text(0.5, 0.5, empty, ha="center", transform=panel.transAxes, color="#555555")
        panel.set(xticks=[], yticks=[])
        return
    for which in log:
        log_scale(panel, which)
    panel.grid(alpha=0.25)


def whole_ticks(panel: Axes) -> None:
    """Let the horizontal axis count, as epochs and steps do: ticks at whole numbers only, be there but one."""
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def say_off_scale(panel: Axes) -> None:
    """Name in a corner the labelled lines that leave a panel upwards or downwards."""
    low, high = sorted(panel.get_ylim())
    gone = [
        str(line.get_label())
        for line in panel.get_lines()
        if not str(line.get_label()).startswith("_")
        and bool(np.any((y := np.asarray(line.get_ydata(), float)) > high) or np.any(y < low))
    ]
    if gone:
        text = f"partly off the scale: {', '.join(gone)}"
        panel.text(0.99, 0.02, text, ha="right", va="bottom", transform=panel.transAxes, color="#333333", fontsize=8)


def line(index: int) -> dict[str, Any]:
    """Return the look of line number `index`, from the start again after the last."""
    return LINES[index % len(LINES)]
