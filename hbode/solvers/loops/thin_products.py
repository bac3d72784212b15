"""A pass over compiled code: products of thin matrices as sums, which are fused with what is around them.

The first and last layer of a small field have few inputs or one output. As calls of a library they cost as much as their
largest product; as sums they become part of the kernels of the activations beside them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

INNER = 4
"""The longest inner dimension of a product that is written out."""
LONGEST = 256
"""The longest inner dimension of a product with one column that is written out."""
aten = torch.ops.aten


@cache
def thin_products() -> Any:
    """Return the pass, an option of Inductor."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    from torch._inductor.pattern_matcher import Arg, CallFunction, Match, PatternMatcherPass, register_graph_pattern

    rewrites = PatternMatcherPass()

    def is_thin(match: Match) -> bool:
        x, w = (node.meta["val"] for node in match.args[-2:])
        if w.shape[1] == 1:
            return x.shape[0] > 1 and x.shape[1] <= LONGEST and x.stride(1) == 1
        return x.shape[1] <= INNER and w.stride(1) == 1  # else nothing would be vectorised

    @register_graph_pattern(CallFunction(aten.mm.default, Arg(), Arg()), extra_check=is_thin, pass_dict=rewrites)
    def mm(match: Match, x: Any, w: Any) -> None:
        match.replace_by_example(product, [x, w])

    @register_graph_pattern(CallFunction(aten.addmm.default, Arg(), Arg(), Arg()), extra_check=is_thin, pass_dict=rewrites)
    def addmm(match: Match, b: Any, x: Any, w: Any) -> None:
        match.replace_by_example(lambda b, x, w: b + product(x, w), [b, x, w])

    class ThinProducts(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            rewrites.apply(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return ThinProducts()


def product(x: Tensor, w: Tensor) -> Tensor:
    """Return x @ w."""
    return (x * w.mT).sum(1, keepdim=True) if w.shape[1] == 1 else (x.unsqueeze(2) * w.unsqueeze(0)).sum(1)
