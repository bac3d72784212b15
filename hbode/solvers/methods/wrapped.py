"""Methods made of another one."""

from __future__ import annotations

from dataclasses import dataclass

from ..method import Method


@dataclass(frozen=True)
class Wrapped:
    """A method that has the form and the orders of its base."""

    base: Method

    @property
    def damped(self) -> bool:
        return self.base.damped

    @property
    def identity_only(self) -> bool:
        return self.base.identity_only

    @property
    def order(self) -> int:
        return self.base.order

    @property
    def error_order(self) -> int | None:
        return self.base.error_order
