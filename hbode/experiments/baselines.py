"""The naive guesses and the linear models that stand beside the networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from ..lazy import optional
from .experiment import Part, Splits


def mean_square_error(guess: Tensor, truth: Tensor) -> float:
    """Return the mean square error."""
    return float((guess - truth).double().square().mean())


def constant(data: Splits) -> float:
    """Return the test error of the mean of the training targets."""
    return mean_square_error(data.train[-1].mean(0), data.test[-1])


def logistic(data: Splits, strengths: Sequence[float] = (1.0,)) -> tuple[float, float]:
    """Return test accuracy and cross-entropy of multinomial logistic regression on all numbers of a sample.

    With the inverse strength of the regularisation, out of some, of the best accuracy of the validation.
    """
    (x, y), held, (x_test, y_test) = ((part[0].flatten(1).numpy(), part[1].numpy()) for part in data.parts)
    new = optional("sklearn.linear_model").LogisticRegression
    model = max((new(C=C, max_iter=2000).fit(x, y) for C in strengths), key=lambda model: model.score(*held))
    said = model.predict_log_proba(x_test)
    columns = np.searchsorted(model.classes_, y_test)
    return float(model.score(x_test, y_test)), -float(said[np.arange(len(y_test)), columns].mean())


def linear(data: Splits, features: Callable[[Part, int], Tensor], orders: Sequence[int]) -> float:
    """Return the test error of least squares from features to targets, of the order with the least validation error.

    Parameters
    ----------
    features
        ``features(part, order)``, shape (..., F); a constant is added. The targets, the last tensor of a part, have
        its leading axes and what is predicted beyond them.
    orders
        How many past samples, for example.
    """

    def design(part: Part, order: int) -> np.ndarray:
        x = features(part, order).double().flatten(0, -2).numpy()
        return np.concatenate((x, np.ones((len(x), 1))), 1)

    def target(part: Part, rows: int) -> np.ndarray:
        return part[-1].double().reshape(rows, -1).numpy()

    found = []
    for order in orders:
        x = design(data.train, order)
        weights = np.linalg.lstsq(x, target(data.train, len(x)), rcond=1e-10)[0]
        error = [
            float(np.square(d @ weights - target(part, len(d))).mean())
            for part in (data.validation, data.test)
            for d in (design(part, order),)
        ]
        found.append(error)
    return min(found)[1]
