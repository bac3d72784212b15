"""Analysis: how stiff and how expensive the dynamics are and why, and how gradients flow through them."""

from ..reporting.report import Report
from .cost.profiling import profile
from .cost.recorder import CostRecorder
from .cost.result import Profile
from .cost.run import Run
from .cost.work_precision import WorkPrecision
from .gradients.decay import GradientDecay, gradient_decay
from .gradients.flow import gradient_flow
from .gradients.flow_result import GradientFlow, NodeFlow
from .gradients.sequences import SequenceGradient, sequence_gradient
from .inputs import Inputs
from .reports.comparison import compare, same_field
from .reports.comparison_result import Compared, Comparison
from .reports.diagnosis import diagnose
from .reports.diagnosis_result import Diagnosis
from .reports.growth import Scaling, Valley, scaling
from .stiffness.measure import stiffness, stiffness_at
from .stiffness.result import Stiffness
from .stiffness.stability import amplification

__all__ = [
    "Compared",
    "Comparison",
    "CostRecorder",
    "Diagnosis",
    "GradientDecay",
    "GradientFlow",
    "Inputs",
    "NodeFlow",
    "Profile",
    "Report",
    "Run",
    "Scaling",
    "SequenceGradient",
    "Stiffness",
    "Valley",
    "WorkPrecision",
    "amplification",
    "compare",
    "diagnose",
    "gradient_decay",
    "gradient_flow",
    "profile",
    "same_field",
    "scaling",
    "sequence_gradient",
    "stiffness",
    "stiffness_at",
]
