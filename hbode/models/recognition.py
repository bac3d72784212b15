"""Recognition networks: an irregular series, read from its end, to what a latent initial state is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .observations import latest_before
from .ode_rnn import ODERNN


class GRURecognition(nn.Module):
    """A GRU that reads a series from its end: what was observed, the mask, and the time since the observation before.

    Parameters
    ----------
    channels, hidden, outputs
        Channels C of the series, units of the GRU, numbers that are read out of its last state.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import GRURecognition
    >>> sum(p.numel() for p in GRURecognition(2, 8, 4).parameters()) > 0
    True
    """

    def __init__(self, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * channels + 1, hidden, batch_first=True)
        self.read = nn.Linear(hidden, outputs)

    def forward(self, t: Tensor, x: Tensor, observed: Tensor, start: Tensor) -> Tensor:
        """Return (B, outputs) from times (B, K), x and observed (B, K, C), and the times (B, 1) of the initial states.

        Observations that are missing entirely are not read.
        """
        out: Tensor = self.read(self.gru(self.packed(t, x, observed, start))[1][0])
        return out

    def packed(self, t: Tensor, x: Tensor, observed: Tensor, start: Tensor) -> nn.utils.rnn.PackedSequence:
        """Return what the GRU reads, the last observation first."""
        present = observed.any(-1)
        gaps = t - torch.maximum(latest_before(t, present), start.detach())
        given = torch.cat((torch.where(observed, x, 0), observed.to(x), gaps.unsqueeze(-1).to(x)), -1)
        # The last observation comes first, gaps last; a sample without any reads a row of zeros.
        order = torch.where(present, torch.arange(t.shape[1], device=t.device), -1).argsort(-1, descending=True)
        given = torch.where(present.unsqueeze(-1), given, 0).gather(1, order.unsqueeze(-1).expand_as(given))
        lengths = present.sum(-1).clamp(min=1).cpu()
        return nn.utils.rnn.pack_padded_sequence(given, lengths, batch_first=True, enforce_sorted=False)


class ODERNNRecognition(nn.Module):
    """An `ODERNN` that reads a series from its end, as in the paper; its time runs backwards.

    Parameters
    ----------
    model
        With ``missing="mask"``; its read-out is the result.

    Examples
    --------
    >>> from hbode.models import ODERNN, ODERNNRecognition, hbnode
    >>> recognition = ODERNNRecognition(ODERNN(hbnode(4, 8), size=4, channels=2))
    """

    def __init__(self, model: ODERNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, t: Tensor, x: Tensor, observed: Tensor, start: Tensor) -> Tensor:
        """Return (B, outputs), as `GRURecognition`."""
        said: Tensor = self.model(-torch.cat((start, t), -1).flip(-1), x.flip(1), observed.flip(1)).forecast[:, 0]
        return said
