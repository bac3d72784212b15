"""Which loop runs a solve: by floats, by tensors, in blocks, compiled."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..clock import Clock, SampleClock
from ..field import Field
from ..method import Carry, Method, Uniform
from ..tape.tape import Tape
from ..warning import warn
from .blocks import STEPS, run_block, run_tries, step_once
from .compiled import CannotCompileError, compiled
from .loop import solve
from .loop_in_blocks import solve_in_blocks
from .loop_per_sample import solve_per_sample
from .plan import Plan


def integrate(
    method: Method,
    field: Field,
    y0: Tensor,
    clock: Clock | SampleClock,
    plan: Plan,
    start: Carry | None = None,
    *,
    tied: bool = False,
    subject: object = None,
    keep_records: bool = False,
) -> Tape:
    """Integrate over the requested times, from the first carry `start` if it is known already.

    Parameters
    ----------
    tied
        Of samples with times of their own: whether they step together.
    subject
        A module or the code of a function: the solve runs compiled for that field, where it can. None: it does not.
    keep_records
        Whether a loop in blocks keeps the records that outputs are read off.
    """
    on_cpu = y0.device.type == "cpu"
    special = _special(method, plan)
    if special is None and isinstance(method, Uniform):
        in_blocks = partial(solve_in_blocks, method, field, y0, clock, plan, start, tied, keep_records=keep_records)
        if subject is not None:
            step_by = partial(compiled, key=method, subject=subject, device=y0.device.type)
            try:
                if on_cpu:
                    return in_blocks(run=step_by(run_block), steps=STEPS, estimates=True)
                return in_blocks(run=partial(run_tries, step=step_by(step_once)))
            except CannotCompileError as error:
                warn_of_eager(error)
        if not on_cpu:
            return in_blocks()
    elif subject is not None:
        warn(f"compile=True: solves with {special} run uncompiled", RuntimeWarning)
    if isinstance(clock, SampleClock):
        return solve_per_sample(method, field, y0, clock, plan, start, tied)
    return solve(method, field, y0, clock, plan, start)


def _special(method: Method, plan: Plan) -> str | None:
    """Return what needs the host between two steps, if anything."""
    special = plan.special
    if special is None and not isinstance(method, Uniform):
        return f"{type(method).__name__} steps"
    return "gradient='backprop'" if torch.is_grad_enabled() else special


def warn_of_eager(error: CannotCompileError) -> None:
    """Say, once, that the field runs uncompiled and why."""
    if not error.repeated:
        warn(f"compile=True, but the field runs uncompiled: {error}", RuntimeWarning)
