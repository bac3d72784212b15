"""What a block of steps starts from, goes by and leaves: the numbers and tensors between host and kernel."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..clock import Nodes
from ..precision import real_dtype
from ..status import Status
from ..tape.jumps import Updates
from ..tape.tape import Outcome, Tape
from .control import Controller
from .control_law import Control


class LoopState(NamedTuple):
    """What a step changes besides the carry: numbers of one tensor, float64, shape (13,) or (13, B), or of Python.

    The first are those of `Control`; then how many stops have been passed and how many steps were accepted in the
    block, how many attempts were accepted and refused in all, how many accepted steps were looked at for stiffness, and
    how many of these stability held back.
    """

    t: Any
    dt: Any
    last: Any
    before: Any
    refused: Any
    failure: Any
    status: Any
    stop: Any
    filled: Any
    accepted: Any
    rejected: Any
    looked: Any
    stiff: Any

    @property
    def control(self) -> Control:
        """The first of them."""
        return Control(*self[:7])

    def outcomes(self, stop: Tensor, evaluations: Tensor, products: Tensor) -> list[Outcome]:
        """Return how samples ended, given the next stops, all () or (B,)."""
        dt = torch.minimum(self.dt, (stop - self.t).abs())
        spent = self.accepted, self.rejected, evaluations, products, self.looked, self.stiff
        status, t, dt, *counts = torch.stack((self.status, self.t, dt, *spent)).view(9, -1).tolist()
        ended = zip(map(Status, map(int, status)), t, dt, *(map(int, row) for row in counts), strict=True)
        return [Outcome(*entry) for entry in ended]


class BlockInputs(NamedTuple):
    """What a block goes by.

    Of `numbers`, float64, shape (7 + K,) or (7 + K, B): the direction of time (±1), the most steps that may be tried,
    rtol, atol, the end, which of the next stops is the last of all, the stop that was passed last (or the start), and
    the next K stops, as many as a block can pass or all.
    Tolerances that are no numbers, rtol and atol, come by themselves. Where samples step by themselves, `axes` is the
    number of axes of h, else zero; if they are `tied`, the error of the batch decides for all of them. If there are
    `updates`: for each of the next stops, whether it is one, and what data belong to it, (K, ...) or (K, B, ...).
    """

    numbers: Tensor
    tolerances: tuple[Tensor, ...]
    axes: int = 0
    tied: bool = False
    updates: tuple[Tensor, ...] = ()

    def due(self, which: Tensor) -> Tensor:
        """Return whether a stop is an update."""
        return self.updates[0].gather(0, self._bounded(which).unsqueeze(0)).squeeze(0)

    def data(self, which: Tensor) -> tuple[Tensor, ...]:
        """Return the data of a stop, (...) or (B, ...)."""
        index = self._bounded(which)
        if not self.axes:
            return tuple(x.index_select(0, index.view(1)).squeeze(0) for x in self.updates[1:])
        return tuple(x[index, torch.arange(len(index), device=index.device)] for x in self.updates[1:])

    def _bounded(self, which: Tensor) -> Tensor:
        return which.long().clamp(max=len(self.updates[0]) - 1)

    def stop(self, which: Tensor) -> Tensor:
        """Return a stop, or the last one beyond it; -1: the one that was passed last."""
        index = (which.long() + 7).clamp(max=len(self.numbers) - 1)
        return self.numbers.gather(0, index.unsqueeze(0)).squeeze(0)

    @property
    def sign(self) -> Tensor:
        return self.numbers[0]

    @property
    def max_steps(self) -> Tensor:
        return self.numbers[1]

    @property
    def end(self) -> Tensor:
        return self.numbers[4]

    @property
    def last(self) -> Tensor:
        return self.numbers[5]

    def wide(self, x: Tensor) -> Tensor:
        """Give numbers the shape in which they meet the state."""
        return x if not self.axes else x.reshape(*x.shape, *[1] * (self.axes - 1))

    def relative_and_absolute(self, y: Tensor) -> tuple[Tensor, ...]:
        """Return rtol and atol in the shape and dtype in which they meet the sizes of a state."""
        return self.tolerances or tuple(self.wide(x).to(real_dtype(y)) for x in self.numbers[2:4].unbind())

    def bounded(self, x: Tensor) -> Tensor:
        """Return whether all entries are finite."""
        if self.axes:
            return x.movedim(x.ndim - self.axes, 0).reshape(x.shape[-self.axes], -1).isfinite().all(1)
        largest: Tensor = torch.linalg.vector_norm(x, math.inf)
        return largest.isfinite()


class BlockBuffers(NamedTuple):
    """What is written down of the accepted steps of a block.

    Of step n: its start and how many stops lay behind it in ``start[n]``, (2,) or (2, B), its carry in
    ``carry[i][n]``, what that is after updates in ``fresh[i][n]`` if there are any, and its record of k columns in
    ``record[n k : (n + 1) k]``. Carries and record are empty where nobody wants them. There is a place beyond the last
    step for what is not to be kept.
    """

    start: Tensor
    carry: tuple[Tensor, ...]
    fresh: tuple[Tensor, ...]
    record: tuple[Tensor, ...]


class Start(NamedTuple):
    """Where a solve stands before its first step, and where it goes.

    Attributes
    ----------
    tape
        With the first outputs and the first carry.
    state
        The numbers of `LoopState`; the length of the first step is NaN where it is to be estimated.
    nodes
        The first time and the stops in order, (1 + K,) or (1 + K, B); who has fewer repeats the last one.
    limits
        The first six numbers of `BlockInputs`, before a stop was passed.
    tolerances, axes, tied
        As in `BlockInputs`.
    which
        Which update each node is, -1 for none, like the nodes; None where there are no updates.
    """

    tape: Tape
    state: Tensor
    nodes: Nodes
    limits: Tensor
    tolerances: tuple[Tensor, ...]
    axes: int = 0
    tied: bool = False
    which: Tensor | None = None

    def updated(self, updates: Updates) -> Start:
        """Return the same with the updates among its stops."""
        nodes, which, last = updates.stops(self.nodes, self.limits[5] + 1)
        now, limits = LoopState(*self.state.unbind()), torch.cat((self.limits[:5], last.unsqueeze(0) - 1))
        status = now.status.where((which[1] < 0) | (now.status != 0), -1.0)  # in a span of no length too
        return self._replace(state=torch.stack(now._replace(status=status)), nodes=nodes, limits=limits, which=which)

    def due(self, now: LoopState) -> Tensor:
        """Return the update that is next, now, for each sample; -1: none, or the sample has ended."""
        if self.which is None:
            return torch.full_like(now.stop, -1).long()
        following = (now.stop.long() + 1).clamp_(max=len(self.which) - 1)
        return self.which.gather(0, following.unsqueeze(0)).squeeze(0).where(now.status < 0, -1)

    def inputs(self, passed: Tensor, steps: int, updates: Updates | None = None) -> BlockInputs:
        """Return what a block of so many steps goes by after so many stops, () or (B,)."""
        most = steps if updates is None else 2 * steps  # each may pass an update, and the stop that it lands on
        window = torch.arange(most + 1, device=passed.device).view(-1, *[1] * passed.ndim) + passed
        window = window.clamp_(max=len(self.nodes.value) - 1)
        numbers = torch.cat((self.limits[:5], self.limits[5:] - passed, self.nodes.value.gather(0, window)))
        given = BlockInputs(numbers, self.tolerances, self.axes, self.tied)
        if self.which is None or updates is None:
            return given
        which = self.which.gather(0, window[1:])
        return given._replace(updates=(which >= 0, *updates.data(which.clamp(min=0))))


def tolerances(control: Controller, y: Tensor) -> tuple[float, float, tuple[Tensor, ...]]:
    """Return rtol and atol as numbers, or, if one is a tensor, zeros and both as tensors like y."""
    rtol, atol = control.rtol, control.atol
    if isinstance(rtol, Tensor) or isinstance(atol, Tensor):
        return 0.0, 0.0, tuple(torch.as_tensor(tol, dtype=y.dtype, device=y.device) for tol in (rtol, atol))
    return rtol, atol, ()
