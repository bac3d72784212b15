"""A pass over compiled code: products of thin matrices as sums, which are fused with what is around them.

The first and last layer of a small field have few inputs or one output. As calls of a library they cost as much as the
largest product; as sums they become part of the kernels of the activations beside them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

MOST = 4
"""Of how many columns, or rows, a product is written out."""
LONGEST = 256
"""How long these may be where they are summed over."""
aten = torch.ops.aten


@cache
def thin_products() -> Any:
    """Return the pass, an option of Inductor."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    from torch._inductor.pattern_matcher import Arg, CallFunction, Match, PatternMatcherPass, register_graph_pattern

    rewrites = PatternMatcherPass()

    def is_thin(match: Match) -> bool:
        x, w = (node.meta["val"] for node in match.args[-2:])
        return form(x, w) is not None

    @register_graph_pattern(CallFunction(aten.mm.default, Arg(), Arg()), extra_check=is_thin, pass_dict=rewrites)
    def mm(match: Match, x: Any, w: Any) -> None:
        match.replace_by_example(product, [x, w])

    @register_graph_pattern(
        CallFunction(aten.addmm.default, Arg(), Arg(), Arg()), extra_check=is_thin, pass_dict=rewrites
    )
    def addmm(match: Match, b: Any, x: Any, w: Any) -> None:
        match.replace_by_example(lambda b, x, w: b + product(x, w), [b, x, w])

    class ThinProducts(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            rewrites.apply(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return ThinProducts()


def form(x: Tensor, w: Tensor) -> str | None:
    """Return how x @ w is written out, if it is: only where the loop within runs over neighbours in memory."""
    if x.shape[1] <= MOST and w.stride(1) == 1:
        return "columns"
    if w.shape[1] <= MOST and 1 < x.shape[1] <= LONGEST and x.stride(1) == w.stride(0) == 1 < x.shape[0]:
        return "rows"
    return None


def product(x: Tensor, w: Tensor) -> Tensor:
    """Return x @ w."""
    return (x.unsqueeze(2) * w).sum(1) if form(x, w) == "columns" else (x.unsqueeze(1) * w.mT).sum(2)
