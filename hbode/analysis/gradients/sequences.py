"""How gradients flow back through a recurrent layer, sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ...reporting.report import Report, Rows
from ...reporting.style import Picture, finish
from ...reporting.tables import Columns
from ..inputs import Loss, terminal_loss

Bound = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class SequenceGradient(Report):
    """Gradients of what comes at the end of a sequence, by the state behind earlier samples.

    All tensors are float64, of shape (P,).

    Attributes
    ----------
    t
        Samples read, from the first point to the last one T.
    state
        ‖∂s_T/∂s_t‖_F / √n: the root mean square of ‖∂L/∂s_t‖ over the unit vectors ∂L/∂s_T, s being all numbers of
        the state, n of them, and over the sequences; 1 at T.
    hidden
        The same of ‖∂L/∂h_t‖, h being the first tensor of the state.
    gradient_norm
        ‖∂L/∂h_t‖ of the given loss, root mean square over the sequences, 0 at T, which the last output does not come
        after; None without one.
    bound
        What `state` cannot be below, where that is known.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import SequenceGradient
    >>> SequenceGradient(torch.arange(3), torch.ones(3), torch.ones(3), None, None).state.shape
    torch.Size([3])
    """

    t: Tensor
    state: Tensor
    hidden: Tensor
    gradient_norm: Tensor | None
    bound: Tensor | None

    def headline(self) -> str:
        return f"SequenceGradient over {int(self.t[-1] - self.t[0])} samples"

    def table(self) -> Rows:
        rows: Rows = [("at sample", f"{int(self.t[0])}", f"{int(self.t[-1])}")]
        return rows + [(name, *(f"{float(x[n]):.4g}" for n in (0, -1))) for name, x in self._known().items()]

    def columns(self) -> Columns:
        return {"sample": self.t, **self._known()}

    def plot(self, axes: Axes | None = None, label: str | None = None, **line: Any) -> Figure:
        """Draw ‖∂L/∂s_t‖ against the samples up to the end, on `axes` or on new ones; keywords as for `Axes.plot`."""
        if axes is None:
            axes = Picture(7, 4).subplots()
        left = self.t[-1] - self.t
        (drawn,) = axes.plot(left, self.state, label=label, **line)
        if self.bound is not None:
            axes.plot(left, self.bound, color=drawn.get_color(), linestyle=":", linewidth=1)
        finish(axes, "samples before the end", "gradient by the state, root mean square", log="y")
        return cast(Figure, axes.get_figure(root=True))

    def _known(self) -> dict[str, Tensor]:
        found = {"state": self.state, "hidden": self.hidden, "gradient of the loss": self.gradient_norm}
        return {name: x for name, x in (found | {"lower bound": self.bound}).items() if x is not None}


def sequence_gradient(
    layer: nn.Module,
    x: Tensor,
    *,
    loss: Loss | None = None,
    bound: Bound | None = None,
    points: int = 33,
    probes: int = 16,
    seed: int = 0,
) -> SequenceGradient:
    """Measure how gradients at the end of a sequence reach back through a recurrent layer.

    Parameters
    ----------
    layer
        ``output, state = layer(x, state)``, like `torch.nn.LSTM`, the cells of `hbode.models.recurrent`, or
        `HeavyBallLayer`. The time axis is the second where the layer has ``batch_first = True``, else the first.
    x
        Sequences, (B, T, C) or (T, B, C).
    loss
        ``loss(h_T, m_T)`` returns one number, summed over a batch; h_T is the output behind the last sample, (B, H),
        and m_T zero.
    bound
        ``bound(k)``: what the root mean square over k samples (P,) cannot be below, as `HeavyBallLayer.gradient_bound`.
    points
        Samples at which to look, evenly spread over the sequence, the last one among them.
    probes
        Random vectors ∂L/∂s_T over which squares are averaged; the standard error of a norm is at most some
        1 / √(2 probes B) of it.

    Raises
    ------
    TypeError
        If the layer does not return a state.
    ValueError
        If `points` or `probes` are below 2 or 1, or the sequence has fewer samples than points.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import sequence_gradient
    >>> flow = sequence_gradient(torch.nn.LSTM(2, 8), torch.randn(100, 4, 2))
    >>> float(flow.state[0]) < 1e-6 < float(flow.state[-1])
    True
    """
    axis = int(bool(getattr(layer, "batch_first", False)))
    if points < 2 or probes < 1:
        raise ValueError(f"points must be at least 2 and probes 1, got {points} and {probes}")
    if x.ndim != 3 or x.shape[axis] < points:
        raise ValueError(f"x must be three-dimensional with at least {points} samples, got shape {tuple(x.shape)}")
    ends = sorted({round(k) for k in torch.linspace(max(x.shape[axis] // points, 1), x.shape[axis], points).tolist()})
    states: list[list[Tensor]] = []
    state: Any = None
    with torch.enable_grad():
        for a, b in pairwise([0, *ends]):
            found = layer(x.narrow(axis, a, b - a), state)
            if not (isinstance(found, tuple) and len(found) == 2):
                raise TypeError(f"layer must return (output, state), got {type(found).__name__}")
            output, state = found
            if not states:  # what came before is of no interest, and may not depend on anything with a gradient
                state = tree_map(lambda s: s.detach().requires_grad_(), state)
            states.append(tree_leaves(state))
    flat = [leaf for leaves in states for leaf in leaves]
    size, rng = len(states[0]), torch.Generator().manual_seed(seed)

    def squares(targets: list[Tensor], vectors: list[Tensor] | None) -> Tensor:
        """Return the squares of ∂L/∂s_t, a row of its leaves a point."""
        grads = torch.autograd.grad(targets, flat, vectors, retain_graph=True, allow_unused=True)
        found = [0.0 if g is None else float(g.detach().abs().double().square().sum()) for g in grads]
        return torch.tensor(found, dtype=torch.float64).view(-1, size)

    count = sum(leaf.numel() for leaf in states[-1])
    total = torch.zeros(len(ends), size, dtype=torch.float64)
    for _ in range(probes):
        vectors = [torch.randn(s.shape, generator=rng, dtype=s.dtype).to(s.device) for s in states[-1]]
        total += squares(states[-1], vectors) / probes
    norm = None
    if loss is not None:
        norm = (squares([terminal_loss(loss, output.select(axis, -1), None)], None)[:, 0] / x.shape[1 - axis]).sqrt()
    t = torch.tensor(ends, dtype=torch.float64)
    return SequenceGradient(
        t,
        (total.sum(1) / count).sqrt(),
        (total[:, 0] / count).sqrt(),
        norm,
        None if bound is None else bound(t[-1] - t),
    )
