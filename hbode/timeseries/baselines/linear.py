"""Linear systems in discrete time, simulated without a Python step for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from ..records import Array


def linear_states(a: Array, drive: Array, x0: Array) -> Array:
    """Return the states of x⁺ = A x + w, shape (..., T, n), from x₀.

    The T samples are cut into about √T chunks of as many samples: all chunks are stepped at once from 0, then the
    states at their starts one after the other, and what follows from those is added. It takes 2 √T steps of numpy, and
    unlike a modal form it is exact to rounding for every A, defective ones included.

    Parameters
    ----------
    a
        A, (n, n).
    drive
        w, (..., T, n).
    x0
        (..., n).
    """
    *batch, rows, n = drive.shape
    length = isqrt(max(rows - 1, 0)) + 1
    chunks = -(-rows // length)
    w = np.zeros((*batch, chunks * length, n))
    w[..., :rows, :] = drive
    w = w.reshape(-1, chunks, length, n)
    x = np.zeros((length + 1, len(w), chunks, n))
    power = np.empty((length + 1, n, n))
    power[0] = np.eye(n)
    for j in range(length):
        x[j + 1] = x[j] @ a.T + w[:, :, j]
        power[j + 1] = a @ power[j]
    starts = np.empty((len(w), chunks, n))
    starts[:, 0] = x0.reshape(-1, n)
    for i in range(chunks - 1):
        starts[:, i + 1] = starts[:, i] @ power[-1].T + x[-1, :, i]
    x = x[:-1] + (starts.reshape(-1, n) @ power[:-1].transpose(0, 2, 1)).reshape(length, len(w), chunks, n)
    return x.transpose(1, 2, 0, 3).reshape(*batch, chunks * length, n)[..., :rows, :]


@dataclass(frozen=True, eq=False)
class LinearSystem:
    """x⁺ = A x + B u + f, y = C x + D u + e, with n states, Cu inputs and Cy outputs.

    Attributes
    ----------
    a, b, c, d, drift, offset
        A (n, n), B (n, Cu), C (Cy, n), D (Cy, Cu), f (n,) and e (Cy,).
    """

    a: Array
    b: Array
    c: Array
    d: Array
    drift: Array
    offset: Array

    def states(self, u: Array, x0: Array) -> Array:
        """Return the states (T, n) for inputs (T, Cu)."""
        return linear_states(self.a, u @ self.b.T + self.drift, x0)

    def outputs(self, u: Array, x0: Array) -> Array:
        """Return the outputs (T, Cy) for inputs (T, Cu)."""
        return self.states(u, x0) @ self.c.T + u @ self.d.T + self.offset

    def free(self, rows: int) -> Array:
        """Return C Aᵏ for k = 0, 1, …, shape (rows, Cy, n): the outputs that initial states make."""
        # Row by row of C these are the states of the transposed system.
        return linear_states(self.a.T, np.zeros((len(self.c), rows, len(self.a))), self.c).transpose(1, 0, 2)

    def initial_state(self, u: Array, y: Array, prior: Array | None = None) -> Array:
        """Return the initial state x₀ (n,) that fits outputs (T, Cy) best; NaN is left out.

        Least squares of the errors, and of ``prior @ x₀`` too if a prior (n, n) is given; the solution of least norm.
        """
        known = ~np.isnan(y)
        error = y - self.outputs(u, np.zeros(len(self.a)))
        rows, targets = self.free(len(y))[known], error[known]
        if prior is not None:
            rows, targets = np.concatenate((rows, prior)), np.concatenate((targets, np.zeros(len(prior))))
        return np.asarray(np.linalg.lstsq(rows, targets, rcond=1e-10)[0])

    @property
    def radius(self) -> float:
        """The largest modulus of an eigenvalue of A; the system is stable below 1."""
        return float(np.abs(np.linalg.eigvals(self.a)).max())
