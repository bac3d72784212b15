"""The figure of peers.py: what a training step takes with every solver, over that of hbode compiled."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from _common import Timing

BASE = "hbode compiled discrete_adjoint"
STYLES = {
    "hbode": {"color": "0.25"},
    "torchdiffeq": {"color": "0.85", "hatch": "////"},
    "torchode": {"color": "0.85", "hatch": "...."},
    "diffrax": {"color": "1.0"},
}


def over(timing: Timing, base: Timing) -> float:
    """Return the median of the ratios, run by run."""
    return statistics.median(x / y for x, y in zip(timing.seconds, base.seconds, strict=True))


def finding(panels: Mapping[str, Mapping[str, Timing | None]]) -> str:
    """Return what the panels show, in words."""
    said = []
    for name in ("torchdiffeq adjoint", "torchdiffeq backprop", "diffrax checkpointed"):
        pairs = [(panel.get(name), panel.get(BASE)) for panel in panels.values()]
        ratios = [over(theirs, ours) for theirs, ours in pairs if theirs is not None and ours is not None]
        if ratios:
            said.append(f"{min(ratios):.2g} to {max(ratios):.2g} times as long with {name}")
    return f"A training step takes {'; '.join(said)}" if said else "Training steps"


def draw(panels: Mapping[str, Mapping[str, Timing | None]], title: str, source: str, path: Path) -> None:
    """Draw a panel for each size: its solvers by their name, None where one has no time.

    The title is preceded by what the panels show, and followed by where the figures come from.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    fig, axes = plt.subplots(
        1, len(panels), sharey=True, sharex=True, squeeze=False, layout="constrained",
        figsize=(2.6 + 2.9 * len(panels), 1.5 + 0.32 * len(names)),
    )  # fmt: skip
    for ax, (label, panel) in zip(axes[0], panels.items(), strict=True):
        for row, name in enumerate(names):
            timing = panel.get(name)
            base = panel.get(BASE)
            if timing is None or base is None:
                ax.text(1, row, " not reached", va="center", fontsize=8, style="italic")
                continue
            middle = over(timing, base)
            style = STYLES[name.split()[0]]
            ax.barh(row, middle - 1, left=1, height=0.7, edgecolor="black", linewidth=0.8, **style)
            reach = max(middle, 1.0)
            ax.text(reach, row, f" {middle:.2g}" if middle < 10 else f" {middle:.0f}", va="center", fontsize=8)
        ax.set_xscale("log")
        ax.axvline(1, color="black", linewidth=1)
        ax.set_title(label, fontsize=9)
        ax.grid(axis="x", color="0.85", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g} ×")
    low, high = axes[0][0].get_xlim()
    axes[0][0].set_xlim(low / 1.1, high * 3)
    axes[0][0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0][0].invert_yaxis()
    fig.supxlabel(f"time of a training step over that of {BASE} (log scale)", fontsize=9)
    fig.suptitle(f"{finding(panels)}\n{title}", fontsize=10)
    fig.text(0.995, -0.01, source, ha="right", va="top", fontsize=7)
    fig.savefig(path, dpi=160, bbox_inches="tight")
    plt.close(fig)
