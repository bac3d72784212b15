"""A field in two parts, of which one is stiff."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map


class SplitField(nn.Module):
    """f(t, h) = stiff(t, h) + nonstiff(t, h), for methods that are implicit in the stiff part alone.

    `imex_ark3` and `imex_ark4` solve equations with the stiff part, linear or not, and only evaluate the other one:
    beside a diffusion, say, a reaction, a driving force or a network. Their steps are held back by the stability of
    explicit steps on that part. In a heavy ball or another second-order system the parts are forces, and damping and
    ξ h go with the stiff one. All other methods see the sum. Each evaluation of a part counts as one.

    Parameters
    ----------
    stiff, nonstiff
        Each ``f(t, h, *args)``, as `hbodeint` and the systems of `hbode.systems` take fields; modules are trained.

    Raises
    ------
    TypeError
        If a part is not callable.

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder, SplitField, hbodeint
    >>> decay = torch.tensor([1.0, 1e4])
    >>> f = SplitField(stiff=lambda t, h: -decay * h, nonstiff=lambda t, h: torch.cos(t) * h.flip(-1))
    >>> sol = hbodeint(FirstOrder(f), torch.ones(2), [0.0, 1.0], method="imex_ark4")
    >>> sol.h.shape
    torch.Size([2, 2])
    """

    def __init__(self, *, stiff: Callable[..., Any], nonstiff: Callable[..., Any]) -> None:
        super().__init__()
        for name, part in (("stiff", stiff), ("nonstiff", nonstiff)):
            if not callable(part):
                raise TypeError(f"{name} must be callable as f(t, h), got {type(part).__name__}")
        self.stiff, self.nonstiff = stiff, nonstiff

    def forward(self, *args: Any) -> Any:
        """Return the sum of the parts, in the form of h."""
        return tree_map(torch.add, self.stiff(*args), self.nonstiff(*args))
