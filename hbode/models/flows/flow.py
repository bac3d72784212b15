"""What flows have in common: a base distribution, a span of time, a solver, and shapes as in torch.distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ...integrate import hbodeint
from ...setup.arguments import check_at_least
from ...solution import Solution, Stats
from ...systems import System
from ..solver import SolverSettings

Shape = int | Sequence[int]


class Flow(nn.Module):
    """A density of points of `size` channels, which the solve of a system takes to those of a base distribution.

    Points are at the start of the span, the base distribution at its end. Subclasses have `log_prob` and `rsample`.

    Parameters
    ----------
    size
        Channels D of a point.
    t
        Start and end of the span.
    context
        Channels C of the context that the density is conditional on; 0: none.
    base
        Distribution at the end, with an `event_shape` of ``(width,)``. Default: the standard normal one. Its tensors
        are not among the parameters of the flow.
    solver, steps
        How the flow is solved, and in how many equal steps; `steps` None: in steps of the solver's choice.
    width
        Channels of the state at the end, of which the base is a distribution; a matter of the subclass.

    Attributes
    ----------
    event_shape, batch_shape
        ``(D,)`` and ``()``.
    stats
        `Stats` of the last solve: evaluations forward and, after it, backward; None before the first.

    Raises
    ------
    ValueError
        For sizes below 1, a span that does not go forwards, or a base of another shape.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.flows import Flow, HeavyBallFlow
    >>> issubclass(HeavyBallFlow, Flow)
    True
    """

    zero: Tensor

    def __init__(
        self,
        size: int,
        *,
        t: Sequence[float],
        context: int,
        base: Distribution | None,
        solver: SolverSettings,
        steps: int | None,
        width: int,
    ) -> None:
        super().__init__()
        check_at_least(size=size, steps=1 if steps is None else steps)
        check_at_least(0, context=context)
        if len(t) != 2 or not -math.inf < t[0] < t[1] < math.inf:
            raise ValueError(f"t must be a start and an end behind it, got {tuple(t)}")
        if base is not None and (base.event_shape != (width,) or base.batch_shape != ()):
            raise ValueError(
                f"base must have event_shape ({width},) and batch_shape (), got {tuple(base.event_shape)} and "
                f"{tuple(base.batch_shape)}"
            )
        self.event_shape, self.batch_shape = torch.Size((size,)), torch.Size()
        self.t = (float(t[0]), float(t[1]))
        self.context = context
        self.solver, self.steps = solver, steps
        self.stats: Stats | None = None
        self._base = base
        self.register_buffer("zero", torch.zeros(width), persistent=False)

    @property
    def base(self) -> Distribution:
        """The distribution at the end of the span."""
        if self._base is not None:
            return self._base
        return Independent(Normal(self.zero, torch.ones_like(self.zero), validate_args=False), 1, validate_args=False)

    def sample(self, sample_shape: Shape = (), context: Tensor | None = None) -> Tensor:
        """Return points, shape (*sample_shape, D), or (*sample_shape, *B, D) for a context (*B, C)."""
        with torch.no_grad():
            return self.rsample(sample_shape, context)

    def rsample(self, sample_shape: Shape = (), context: Tensor | None = None) -> Tensor:
        """Return points as `sample` does, with gradients that reach the parameters and the context."""
        raise NotImplementedError

    def solve(
        self,
        system: System,
        start: Tensor,
        args: tuple[Any, ...],
        *,
        m0: Tensor | None = None,
        back: bool = False,
        dense: bool = False,
    ) -> Solution:
        """Return the solution over the span, or from its end back to its start: in the same steps if equal."""
        times = self.t[::-1] if back else self.t
        grid = None if self.steps is None else torch.linspace(*times, self.steps + 1, dtype=torch.float64)
        options = None if grid is None else {"grid_constructor": lambda *_: grid}
        given = {"m0": m0, "args": args, "options": options, "dense": dense, **self.solver.arguments}
        solution = hbodeint(system, start, times, **given)
        self.stats = solution.stats
        return solution

    def flattened(
        self, context: Tensor | None, **points: Tensor
    ) -> tuple[torch.Size, list[Tensor], tuple[Tensor, ...]]:
        """Return the batch shape of points and context, the points (N, D), and the context (N, C) if there is one.

        Raises
        ------
        ValueError
            For points that have not D channels, a context that has not C, or none where there is to be one.
        """
        for name, point in points.items():
            if point.ndim == 0 or point.shape[-1:] != self.event_shape:
                raise ValueError(f"{name} must have shape (..., {self.event_shape[0]}), got {tuple(point.shape)}")
        self.check_context(context)
        given = [*points.values(), *(() if context is None else (context,))]
        batch = torch.broadcast_shapes(*(x.shape[:-1] for x in given))
        flat = [x.expand(*batch, x.shape[-1]).reshape(-1, x.shape[-1]) for x in given]
        return batch, flat[: len(points)], tuple(flat[len(points) :])

    def base_points(self, sample_shape: Shape, context: Tensor | None) -> Tensor:
        """Return points of the base for a sample of points, with gradients if they are enabled."""
        self.check_context(context)
        shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        shape = torch.Size((*shape, *(() if context is None else context.shape[:-1])))
        return self.base.rsample(shape) if torch.is_grad_enabled() else self.base.sample(shape)

    def check_context(self, context: Tensor | None) -> None:
        """Raise `ValueError` for a context of other channels than the flow has."""
        if context is None and self.context:
            raise ValueError(f"context must be given, with {self.context} channels")
        if context is not None and (context.ndim == 0 or context.shape[-1] != self.context or not self.context):
            wanted = f"of shape (..., {self.context})" if self.context else "None in a flow without context"
            raise ValueError(f"context must be {wanted}, got shape {tuple(context.shape)}")

    def extra_repr(self) -> str:
        steps = "" if self.steps is None else f", steps={self.steps}"
        return f"{self.event_shape[0]}, t={self.t}, context={self.context}{steps}"
