"""Momentum for sequences: recurrent cells, and the linear heavy ball as a layer."""

from .heavy_ball import HeavyBallLayer
from .modules import RecurrentCell, RecurrentLayer
from .momentum import (
    AdamLSTM,
    AdamLSTMCell,
    MomentumGRU,
    MomentumGRUCell,
    MomentumLSTM,
    MomentumLSTMCell,
    MomentumRNN,
    MomentumRNNCell,
    NesterovLSTM,
    NesterovLSTMCell,
    RMSPropLSTM,
    RMSPropLSTMCell,
)
from .orthogonal import MomentumDTRIV, MomentumDTRIVCell
from .published import (
    PUBLISHED,
    PublishedNesterovLSTM,
    PublishedNesterovLSTMCell,
    published_recurrent,
    start_as_published,
)
from .sequence_model import HeavyBallBlock, HeavyBallSequenceModel

__all__ = [
    "AdamLSTM",
    "AdamLSTMCell",
    "HeavyBallBlock",
    "HeavyBallLayer",
    "HeavyBallSequenceModel",
    "MomentumDTRIV",
    "MomentumDTRIVCell",
    "MomentumGRU",
    "MomentumGRUCell",
    "MomentumLSTM",
    "MomentumLSTMCell",
    "MomentumRNN",
    "MomentumRNNCell",
    "NesterovLSTM",
    "NesterovLSTMCell",
    "PUBLISHED",
    "PublishedNesterovLSTM",
    "PublishedNesterovLSTMCell",
    "RMSPropLSTM",
    "RMSPropLSTMCell",
    "RecurrentCell",
    "RecurrentLayer",
    "published_recurrent",
    "start_as_published",
]
