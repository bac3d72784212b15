"""Constants of a method that was used inside of a transform first serve what comes behind it."""

import pytest
import torch

from hbode import METHODS
from hbode.solvers import Damping, Field
from hbode.solvers.precision import kept_tensors


def test_tensors_that_are_kept_are_not_of_the_transform():
    made = []

    def fn(x):
        with kept_tensors():
            made.append(torch.ones(2))
        made.append(torch.ones(2))
        return x * made[0]

    torch.func.jacrev(fn)(torch.ones(2))
    made[0].data_ptr()
    with pytest.raises(RuntimeError):  # were that not so, nothing would have to be done
        made[1].data_ptr()


@pytest.mark.parametrize("method", ["rk4", "dprkn6"])
def test_constants_are_as_good_as_those_of_a_first_use_outside(method, monkeypatch):
    monkeypatch.setattr(METHODS[method], "_cache", {})
    t, y = torch.zeros((), dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)

    def end(y):
        if METHODS[method].damped:
            field = Field(lambda t, h: -h, y.dtype, Damping.of(None, None, y))
        else:
            field = Field(lambda t, y: torch.stack((y[1], -y[0])), y.dtype, Damping.of(None, None, y))
        carry, _ = METHODS[method].step(field, t, t + 0.1, METHODS[method].start(field, t, y))
        return carry[0]

    torch.func.jacrev(end)(y)
    (kept,) = METHODS[method]._cache.values()
    tensors = [x for x in kept if isinstance(x, torch.Tensor)]
    assert tensors and all(x.data_ptr() for x in tensors)
