"""Simulations of fitted models beside what was measured: scores, baselines, figures, a report."""

from .comparison import BASELINES, Compared, compare
from .free_run import FreeRun
from .report import NUMBERS, write_report

__all__ = ["BASELINES", "NUMBERS", "Compared", "FreeRun", "compare", "write_report"]
