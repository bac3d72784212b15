"""What training cost, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...reporting.report import Report, Rows
from ...reporting.style import Picture, line, whole_ticks
from ...reporting.tables import plain, short
from ...solution import of_batch

_COUNTS = ("nfe", "nfe_backward", "rejected")


class Cost(Protocol):
    """What counts evaluations: the `Stats` of a solve, or the cost of a model's prediction."""

    @property
    def nfe(self) -> int | list[int]: ...

    @property
    def nfe_backward(self) -> int | list[int] | None: ...

    @property
    def rejected(self) -> int | list[int]: ...


class CostRecorder(Report):
    """Keeps what each step of a training loop cost, and how it went.

    >>> import torch
    >>> from hbode import HeavyBall, hbodeint
    >>> from hbode.analysis import CostRecorder
    >>> system, batches = HeavyBall(lambda t, h: -h), torch.randn(3, 5, 2)
    >>> recorder = CostRecorder()
    >>> for x in batches:
    ...     sol = hbodeint(system, x, [0.0, 1.0])
    ...     loss = sol.h[-1].square().mean()
    ...     loss.backward()
    ...     recorder.record(sol.stats, loss=loss)
    >>> figure = recorder.plot(every=len(batches))

    Attributes
    ----------
    nfe, nfe_backward
        Evaluations of the field, forward and backward, one entry a training step.
    rejected
        Steps of the solver that were tried in vain.
    values
        Further numbers by name, one entry a training step; NaN where a step did not give it.
    """

    def __init__(self) -> None:
        self.nfe: list[int] = []
        self.nfe_backward: list[int] = []
        self.rejected: list[int] = []
        self.values: dict[str, list[float]] = {}

    def __len__(self) -> int:
        return len(self.nfe)

    def record(self, *costs: Cost, **values: float | Tensor) -> None:
        """Add a training step; call it after the backward pass, which is not counted before.

        Parameters
        ----------
        costs
            Of all solves in the step, such as ``sol.stats`` or ``prediction.cost``; they are summed. Of counts per
            sample the largest is taken: that is how often the batch was evaluated.
        values
            Numbers to keep, such as ``loss=loss``; a tensor with one real entry is detached.

        Raises
        ------
        TypeError
            If a cost has no counts, or a value is no number.
        ValueError
            If there is no cost, or a value has the name of a count.
        """
        if not costs:
            raise ValueError("costs must be given, at least one: sol.stats, for example")
        for cost in costs:
            missing = [name for name in _COUNTS if not hasattr(cost, name)]
            if missing:
                raise TypeError(f"costs must have {', '.join(_COUNTS)}; {type(cost).__name__} has no {missing[0]}")
        taken = [name for name in values if name in _COUNTS]
        if taken:
            raise ValueError(f"values must not be called {', '.join(_COUNTS)}; got {taken[0]}")
        numbers = {name: _number(name, value) for name, value in values.items()}
        before = len(self)
        for name in _COUNTS:
            getattr(self, name).append(sum(of_batch(getattr(cost, name)) for cost in costs))
        for name in numbers:
            self.values.setdefault(name, [math.nan] * before)
        for name, kept in self.values.items():
            kept.append(numbers.get(name, math.nan))

    def means(self, every: int) -> dict[str, list[float]]:
        """Return the means over blocks of `every` training steps, such as epochs, of counts and values by name.

        The last block may be shorter. NaN is left out; a block of nothing else is NaN.

        Raises
        ------
        ValueError
            If `every` is not a positive whole number.
        """
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number, at least 1, got {every!r}")
        starts = range(0, len(self), every)
        return {name: [_mean(column[i : i + every]) for i in starts] for name, column in self.columns().items()}

    def headline(self) -> str:
        last = "" if not self.nfe else f", last nfe={self.nfe[-1]}, nfe_backward={self.nfe_backward[-1]}"
        return f"CostRecorder({len(self)} steps{last})"

    __repr__ = headline

    def table(self) -> Rows:
        """Return means over the first and the last tenth of the training steps."""
        share = max(1, len(self) // 10)
        rows: Rows = [("", "first tenth", "last tenth")]
        ends = (slice(share), slice(-share, None))
        return rows + [(name, *(short(_mean(x[end])) for end in ends)) for name, x in self.columns().items()]

    def columns(self) -> dict[str, list[float]]:
        """Return one row a training step."""
        return {name: list(getattr(self, name)) for name in _COUNTS} | self.values

    def as_json(self) -> dict[str, Any]:
        """Return everything in types of JSON; what is not finite becomes None."""
        counts = {name: list(getattr(self, name)) for name in _COUNTS}
        return {**counts, "values": {name: plain(kept) for name, kept in self.values.items()}}

    def plot(self, every: int = 1) -> Figure:
        """Draw evaluations over training steps, and below them what else was recorded.

        Parameters
        ----------
        every
            Training steps a point; it shows their mean.

        Raises
        ------
        ValueError
            If nothing was recorded, or `every` is not a positive whole number.
        """
        means = self.means(every)
        if not self.nfe:
            raise ValueError("nothing to plot: no training step was recorded")
        steps = [min(i + every, len(self)) for i in range(0, len(self), every)]
        figure = Picture(8, 3.2 + 2.2 * len(self.values))
        panels = figure.subplots(1 + len(self.values), 1, sharex=True, squeeze=False)[:, 0]
        figure.suptitle(_finding(means["nfe"]), fontsize=13)
        _draw(panels[0], steps, means["nfe"], 0, "forward evaluations")
        _draw(panels[0], steps, means["nfe_backward"], 1, "backward evaluations")
        panels[0].set_ylabel("evaluations a step")
        panels[0].set_ylim(0, 1.1 * max(1.0, *means["nfe"], *means["nfe_backward"]))
        for index, (panel, name) in enumerate(zip(panels[1:], self.values, strict=True), start=2):
            _draw(panel, steps, means[name], index, name)
            panel.set_ylabel(name)
            seen = [value for value in means[name] if math.isfinite(value)]
            if seen and min(seen) > 0 and max(seen) > 10 * min(seen):
                panel.set_yscale("log")
        whole_ticks(panels[-1])
        panels[-1].set_xlabel("training step" + (f" (means of {every})" if every > 1 else ""))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        return figure


def _draw(panel: Axes, steps: list[int], values: list[float], index: int, label: str) -> None:
    look = {**line(index), "markevery": max(1, len(steps) // 12), "markersize": 5, "linewidth": 1.6}
    panel.plot(steps, values, label=label, **look)
    panel.grid(alpha=0.25)


def _finding(nfe: list[float]) -> str:
    """Return how the evaluations changed, from the first tenth of the points to the last."""
    share = max(1, len(nfe) // 10)
    first, last = _mean(nfe[:share]), _mean(nfe[-share:])
    if abs(last - first) <= 0.02 * first:
        return f"Forward evaluations stayed at {last:.0f} a step"
    return f"Forward evaluations {'grew' if last > first else 'fell'} from {first:.0f} to {last:.0f} a step"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, Tensor):
            if value.is_complex():
                raise TypeError("complex numbers cannot be averaged and drawn")
            value = value.detach()
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a real number or a tensor with one, got {value!r}") from error
