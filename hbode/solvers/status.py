"""How a solve ended."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The end of a solve, for the batch or for each sample.

    Examples
    --------
    >>> from hbode import Status
    >>> Status.MAX_STEPS.failed, Status.EVENT.failed
    (True, False)
    """

    SUCCESS = 0
    EVENT = 1
    NON_FINITE = 2
    STEP_UNDERFLOW = 3
    MAX_STEPS = 4
    NOT_CONVERGED = 5
    ZENO = 6

    @property
    def failed(self) -> bool:
        """Whether the last requested time was not reached, other than by a terminal event."""
        return self > Status.EVENT

    @property
    def remedy(self) -> str:
        """What happened, and what to try."""
        return _REMEDIES[self]


_REMEDIES = {
    Status.SUCCESS: "the last time was reached",
    Status.EVENT: "a terminal event stopped the solve",
    Status.NON_FINITE: "the field or the state became NaN or Inf, or an event function NaN with no zero before it. "
    "Check them there; bound the field's output or its weights, or lower max_step",
    Status.STEP_UNDERFLOW: "the step became too small to move the time. The solution may blow up or the field jump: "
    "name jumps in jump_ts, loosen rtol and atol, or use float64",
    Status.NOT_CONVERGED: "the inner solver of an implicit method did not converge, however small the step, or a step "
    "of rkc would need more stages than the rounding of its dtype allows. Take another options['inner'], smaller fixed "
    "steps, or an explicit method if the field is not stiff; for a field in mixed precision, whose rounding is more "
    "than that, a larger options['inner_share']",
    Status.ZENO: "an event with a reset came again within rounding of the time, and may without end. "
    "End the solve before, by max_count or a terminal event at the threshold where a ball lies still, say; or let the "
    "reset leave the state where the event function does not return to zero at once",
    Status.MAX_STEPS: "max_steps was reached. Raise max_steps, loosen rtol and atol, or take an implicit method if "
    "the field is stiff",
}
