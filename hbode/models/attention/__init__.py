"""Linear attention with momentum: functions, a module of several heads, and transformer encoders."""

from .encoder import MomentumTransformerEncoder, MomentumTransformerEncoderLayer
from .features import elu_features
from .functional import attention_weights, continue_attention, momentum_attention
from .multihead import MomentumAttention
from .residual import Residual, adaptive_momentum
from .state import AttentionState

__all__ = [
    "AttentionState",
    "MomentumAttention",
    "MomentumTransformerEncoder",
    "MomentumTransformerEncoderLayer",
    "Residual",
    "adaptive_momentum",
    "attention_weights",
    "continue_attention",
    "elu_features",
    "momentum_attention",
]
