"""Methods made of another one."""

from __future__ import annotations

from dataclasses import dataclass

from ...method import Method


@dataclass(frozen=True)
class Wrapped(Method):
    """A method that has the form and the orders of its base."""

    base: Method

    def __post_init__(self) -> None:
        base = self.base
        self._declare(damped=base.damped, identity_only=base.identity_only, explicit_one_step=base.explicit_one_step)
        self._declare(order=base.order, error_order=base.error_order)
