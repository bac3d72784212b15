"""Every explicit table by name: ``BUTCHER`` for y' = f(t, y), ``NYSTROM`` for u'' = g(t, u)."""

from __future__ import annotations

from .butcher_tables import BUTCHER
from .nystrom_tables import NYSTROM

__all__ = ["BUTCHER", "NYSTROM"]
