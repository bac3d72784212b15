"""Analysis: how expensive the dynamics were and why, and how gradients flow through them."""

from .gradient_flow import gradient_flow
from .gradient_flow_result import GradientFlow, NodeFlow
from .stiffness import stiffness, stiffness_at
from .stiffness_result import Stiffness
from .work_precision import WorkPrecision, work_precision, work_ratio

__all__ = [
    "GradientFlow",
    "NodeFlow",
    "Stiffness",
    "WorkPrecision",
    "gradient_flow",
    "stiffness",
    "stiffness_at",
    "work_precision",
    "work_ratio",
]
