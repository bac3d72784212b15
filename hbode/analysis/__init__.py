"""Analysis: how expensive the dynamics were and why, and how gradients flow through them."""

from .gradient_flow import gradient_flow
from .gradient_flow_result import GradientFlow, NodeFlow
from .work_precision import WorkPrecision, work_precision, work_ratio

__all__ = ["GradientFlow", "NodeFlow", "WorkPrecision", "gradient_flow", "work_precision", "work_ratio"]
