"""Analysis: how expensive the dynamics were, and why."""

from .work_precision import WorkPrecision, work_precision, work_ratio

__all__ = ["WorkPrecision", "work_precision", "work_ratio"]
