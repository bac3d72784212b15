"""Images classified by convolutional fields: evaluations and accuracy (section 5.2)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..lazy import optional
from ..models import ODELayer, SolverSettings, parameter_count, width_of_size
from ..systems import System
from ..timeseries import DataError
from ..training import TrainingSettings, solver_costs
from .baselines import logistic
from .experiment import Experiment, Measured, Part, Settings, Splits
from .networks import is_second_order, make, stats_of

SOLVER = SolverSettings("dopri5", 1e-4, 1e-4)
CHANNELS = {"node": 1, "anode": 6, "sonode": 5, "hbnode": 5, "ghbnode": 6}
CLASSES = 10


class Convolutions(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions with ReLU, the time a channel of each input."""

    def __init__(self, channels: int, width: int, result: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 1, width, 1)
        self.second = nn.Conv2d(width + 1, width, 3, padding=1)
        self.third = nn.Conv2d(width + 1, result, 1)

    def forward(self, t: Tensor, *state: Tensor) -> Tensor:
        time = torch.ones_like(state[0][:, :1]) * t
        out = self.first(torch.cat((*state, time), 1)).relu()
        out = self.second(torch.cat((out, time), 1)).relu()
        return torch.as_tensor(self.third(torch.cat((out, time), 1)))


class Lifted(ODELayer):
    """A layer that starts at the image and channels made of it: as many for h as its system has, and for m."""

    def __init__(self, system: System, lift: nn.Module, solver: SolverSettings | None) -> None:
        super().__init__(system, solver=solver)
        self.lift = lift

    def initial(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        h, m = torch.cat((x, self.lift(x)), 1).chunk(2, 1)
        return h, m


class Images(Experiment):
    """Cross-entropy of a linear read-out; the widths of all fields give as many parameters as the HBNODE has."""

    name, title = "images", "Image classification"
    takes = "an .npz file of MNIST (default: scikit-learn's digits)"
    metric, label, higher = "accuracy", "accuracy", True
    settings = {
        "full": Settings(TrainingSettings(40, 64, 1e-3, "constant", 10.0), SOLVER, 3, 50),
        "short": Settings(TrainingSettings(8, 64, 1e-3, "constant", 10.0), SOLVER, 2, 12),
    }
    published = {
        "MNIST, published": {"node": ".972", "anode": ".984", "sonode": ".984", "hbnode": ".983", "ghbnode": ".984"},
        "NFE f/b": {"node": "67/136", "anode": "36/48", "sonode": "42/44", "hbnode": "31/35", "ghbnode": "34/43"},
    }
    code = {"hbnode": "hbnode", "ghbnode": "ghbnode"}
    notes = (
        "Published: MNIST, 60,000 training images, about 85,000 parameters, the best epoch's test accuracy, 3 runs. "
        "That epoch was chosen on the test images; here it is chosen on others.",
        "Backward evaluations of the published code are those of a second solve; here those of the exact gradient.",
    )

    def load(self, data: Path | None, settings: Settings) -> Splits:
        return digits() if data is None else mnist(data)

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        pixels = data.train[0].shape[2:].numel()

        def build(width: int, name: str = name) -> nn.Module:
            channels = CHANNELS[name]
            field = Convolutions(channels * (1 + (name == "sonode")), width, channels)
            lift = nn.Sequential(
                *(nn.Conv2d(1, width, 1), nn.LeakyReLU(0.3), nn.Conv2d(width, width, 3, padding=1)),
                *(nn.LeakyReLU(0.3), nn.Conv2d(width, 2 * channels - 1, 1)),
            )
            read = nn.Sequential(nn.Flatten(), nn.Linear(channels * pixels, CLASSES))
            system = make(name, field, self.code.get(name) if code else None, xi=2.127)  # softplus(2), as published
            layer = (
                Lifted(system, lift, settings.solver)
                if is_second_order(name)
                else ODELayer(system, augment=channels - 1, channel_dim=1, solver=settings.solver)
            )
            return nn.Sequential(layer, *read)

        with torch.random.fork_rng(devices=()):
            target = parameter_count(build(settings.width, "hbnode"))
        return build(width_of_size(build, target, 3 * settings.width))

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        scores = model(batch[0])
        right = (scores.argmax(1) == batch[1]).double().mean()
        return cross_entropy(scores, batch[1]), {"accuracy": right, **solver_costs(stats_of(model))}

    def baselines(self, data: Splits) -> dict[str, float]:
        guess = data.train[1].mode().values
        return {"majority": float((data.test[1] == guess).double().mean()), "logistic regression": logistic(data)[0]}


def digits() -> Splits:
    """Return scikit-learn's 1,797 digits, 8 × 8."""
    found = optional("sklearn.datasets").load_digits()
    note = (
        "scikit-learn's 1,797 digits of 8 × 8 pixels, in their order: 60 % for training, then 20 % each for validation "
        "and test. The published numbers are of MNIST (--data), and not comparable."
    )
    return in_order(found.images / 16, found.target, (0.6, 0.8), note)


def mnist(path: Path) -> Splits:
    """Return digits of an .npz file: `images` and `labels`, or `x_train`, `y_train`, `x_test`, `y_test`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an .npz file ({error})") from None
    if {"images", "labels"} <= found.keys():
        note = f"Not the official protocol: {path.name} has {len(found['images']):,} images, split 8:1:1 in order."
        return in_order(found["images"] / 255, found["labels"], (0.8, 0.9), note)
    if not {"x_train", "y_train", "x_test", "y_test"} <= found.keys():
        got = ", ".join(found)
        raise DataError(f"{path}: must hold images and labels, or x_train, y_train, x_test, y_test; got {got}")
    held = len(found["x_train"]) // 12
    x, y = (np.concatenate((found[f"{of}_train"], found[f"{of}_test"])) for of in "xy")
    cuts = (len(found["x_train"]) - held) / len(x), len(found["x_train"]) / len(x)
    return in_order(x / 255, y, cuts, f"The last {held:,} training images are kept for validation.")


def in_order(images: np.ndarray, labels: np.ndarray, cuts: tuple[float, float], note: str) -> Splits:
    """Return images (N, H, W) from 0 to 1 and labels (N,) in three parts that end at these shares, in order."""
    x, y = torch.from_numpy(images).float().unsqueeze(1), torch.from_numpy(labels).long()
    at = [round(cut * len(x)) for cut in cuts]
    parts = zip(x.tensor_split(at), y.tensor_split(at), strict=True)
    train, validation, test = (cast(Part, part) for part in parts)
    return Splits(train, validation, test, notes=(note,))
