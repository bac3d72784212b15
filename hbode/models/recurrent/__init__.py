"""Momentum for sequences: recurrent cells, and the linear heavy ball as a layer."""

from .heavy_ball import HeavyBallLayer
from .sequence_model import HeavyBallBlock, HeavyBallSequenceModel

__all__ = [
    "HeavyBallBlock",
    "HeavyBallLayer",
    "HeavyBallSequenceModel",
]
