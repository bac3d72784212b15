"""How a gradient of a loss grows or fades on its way back through a solve, for any system."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...solution import Solution
from ...solvers import Adams
from ..linearised import check_independent
from .propagator import Propagator, TerminalLoss
from .spectrum import scaled


class GradientDecay(NamedTuple):
    """Sizes of a gradient along a solve.

    Attributes
    ----------
    t
        Nodes of the solve, (n + 1,), float64.
    norm
        ‖∂L/∂y(t)‖, y = (h, m) for a second-order system, (n + 1, B); without a batch axis (n + 1,). Float64, on the
        CPU.
    """

    t: Tensor
    norm: Tensor

    @property
    def decay(self) -> Tensor:
        """‖∂L/∂y(t_0)‖ / ‖∂L/∂y(T)‖, shape (B,) or (): below one, the gradient fades. NaN where it is zero at T."""
        return self.norm[0] / self.norm[-1]


@torch.inference_mode(False)
@torch.no_grad()
def gradient_decay(sol: Solution, loss: TerminalLoss, batch: bool | None = None) -> GradientDecay:
    """Follow the gradient of a loss back through the accepted steps of a solve, by one product a step.

    Parameters
    ----------
    sol
        ``hbodeint(..., dense=True)`` of a real state, with one time axis and a one-step method.
    loss
        ``loss(h_T, m_T)`` returns one number, summed over a batch. m_T is zero for a first-order system, and so is the
        gradient of what does not depend on h_T.
    batch
        Whether the first axis of h0 holds samples that do not interact. Default: whether h0 has two axes or more.

    Raises
    ------
    TypeError
        If `sol` is no `Solution`, or the state is complex.
    ValueError
        If the solve cannot be followed (no dense output, times or steps per sample, an Adams method, no step, a
        failure), samples interact, or the loss is not one number that depends on the state.
    """
    if not isinstance(sol, Solution):
        raise TypeError(f"sol must be the Solution of hbodeint, got {type(sol).__name__}")
    dense = sol.dense
    if dense is None:
        raise ValueError("sol must come from hbodeint(..., dense=True), which keeps the steps")
    if sol.tree is not None:
        raise TypeError(f"sol must have a state of one tensor, got {type(sol.h).__name__}")
    if dense.problem.clock.per_sample or not sol.stats.success or not dense.solved.tape.steps:
        raise ValueError("sol must have one time axis and steps that reached its last time")
    if isinstance(dense.problem.method, Adams):
        raise ValueError("sol must come from a one-step method; Adams methods step from several states")
    if sol.h.is_complex():
        raise TypeError(f"sol must have a real state, got {sol.h.dtype}")
    if sol.h.numel() == 0:
        raise ValueError(f"sol must have entries in its state, got h0 of shape {tuple(sol.h.shape[1:])}")
    second_order = sol.m is not None
    batched = sol.h.ndim >= 3 if batch is None else batch
    if batched and sol.h.ndim == 1:
        raise ValueError("batch must be False for h0 of shape (), got True")
    propagator = Propagator(dense, second_order, batched)
    check_independent(propagator.step(0), "h0")
    rows, size = scaled(propagator.loss_gradient(loss))
    norm = size.expand(propagator.count + 1, -1).clone()
    for n in range(propagator.count - 1, -1, -1):
        rows, grown = scaled(propagator.step(n).pull(rows))
        norm[n] = norm[n + 1] + grown[0]
    t = torch.tensor(propagator.times, dtype=torch.float64)
    return GradientDecay(t, propagator.layout.per_sample(norm.exp()))
