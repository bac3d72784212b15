"""Analysis: how stiff and how expensive the dynamics are and why, and how gradients flow through them."""

from .comparison import compare, same_field
from .comparison_result import Compared, Comparison
from .cost import profile
from .cost_result import Profile, Run
from .diagnosis import diagnose
from .diagnosis_result import Diagnosis
from .gradient_decay import GradientDecay, gradient_decay
from .gradient_flow import gradient_flow
from .gradient_flow_result import GradientFlow, NodeFlow
from .inputs import Inputs
from .recorder import CostRecorder
from .scaling import Scaling, Valley, scaling
from .sequence_gradient import SequenceGradient, sequence_gradient
from .stability import amplification
from .stiffness import stiffness, stiffness_at
from .stiffness_result import Stiffness
from .work_precision import WorkPrecision, work_precision, work_ratio

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
    "work_precision",
    "work_ratio",
]
