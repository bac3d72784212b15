"""Other libraries of neural state space models as simulators, where they are installed.

``pip install deepSI tsfast`` beside ``hbode[timeseries]``, best in an environment of their own: tsfast needs a C++
compiler and ninja for its fast rollout. Both train offline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hbode.timeseries import Records, Run, Scaling
from hbode.timeseries.baselines import Simulator
from hbode.timeseries.baselines.simulator import split_runs

if TYPE_CHECKING:
    from _systems import System


class Peer(Simulator):
    """What the two share: standardised data, a validation part of 25 %, and 1,500 steps of batches of 16."""

    def __init__(
        self, initial: int = 50, stretch: int = 200, steps: int = 1500, batch: int = 16, seed: int = 0
    ) -> None:
        self.initial = initial
        self.stretch = stretch
        self.steps = steps
        self.batch = batch
        self.seed = seed

    @property
    def parameters_(self) -> int:
        return sum(p.numel() for p in self.model_.parameters())

    def _fit(self, records: Records) -> None:
        self.scaling_ = Scaling.fit(records)
        torch.manual_seed(self.seed)
        self.model_ = self._trained(*split_runs(self.scaling_.to_standard(records), 0.75))

    def _simulate(self, run: Run, initial: int) -> Any:
        u, y = self.scaling_.inputs.to_standard(run.u), self.scaling_.outputs.to_standard(run.y)
        with torch.no_grad():
            out = self._run(u.astype(np.float32), np.nan_to_num(y).astype(np.float32), initial)
        return self.scaling_.outputs.from_standard(np.asarray(out, np.float64))


class DeepSI(Peer):
    """deepSI's SUBNET: the encoder sees the last `initial` rows."""

    def _trained(self, train: Records, held_out: Records) -> Any:
        from deepSI import SUBNET, fit, get_nu_ny_and_auto_norm
        from nonlinear_benchmarks import Input_output_data

        def data(records: Records) -> Any:
            return [Input_output_data(run.u, run.y, sampling_time=1) for run in records]

        nu, ny, norm = get_nu_ny_and_auto_norm(data(train))
        model = SUBNET(nu, ny, norm, nx=8, nb=self.initial, na=self.initial)
        longest = min(map(len, train)) - self.initial - 1
        fit(
            model,
            data(train),
            data(held_out),
            self.steps,
            T=min(self.stretch, longest),
            batch_size=self.batch,
            val_freq=self.steps // 10,
        )
        return model.eval()

    def _run(self, u: Any, y: Any, initial: int) -> Any:
        if initial != self.initial:
            raise ValueError(f"DeepSI was fitted to initial={self.initial}, got {initial}")
        parts = (torch.from_numpy(x)[None] for x in (u[:initial], y[:initial], u[initial:]))
        return np.concatenate((y[:initial], self.model_(*parts)[0].numpy()))


class TSFast(Peer):
    """tsfast's NeuralStateSpace with its C++ rollout; it starts from zero and does not look at the initial outputs."""

    def _trained(self, train: Records, held_out: Records) -> Any:
        import h5py
        from tsfast.training import SSMLearner
        from tsfast.tsdata import create_dls

        with tempfile.TemporaryDirectory() as folder:
            files: dict[str, list[Path]] = {"train": [], "valid": []}
            for part, records in (("train", train), ("valid", held_out)):
                for i, run in enumerate(records):
                    path = Path(folder) / f"{part}{i}.hdf5"
                    with h5py.File(path, "w") as file:
                        for name, x in (("u", run.u), ("y", run.y)):
                            for j, column in enumerate(x.T.astype(np.float32)):
                                file[f"{name}{j}"] = column
                    files[part].append(path)
            names = ([f"{n}{j}" for j in range(k)] for n, k in (("u", train[0].u.shape[1]), ("y", train[0].y.shape[1])))
            rows = min(self.initial + self.stretch, *map(len, held_out))
            epochs = 10
            loaders = create_dls(
                *names, files, win_sz=rows, bs=self.batch, n_batches_train=self.steps // epochs, cache=True
            )
            learner = SSMLearner(
                loaders, n_state=8, backend="c", n_skip=self.initial, device=torch.device("cpu"), show_bar=False
            )
            learner.fit_flat_cos(epochs)
        return learner.model.eval()

    def _run(self, u: Any, y: Any, initial: int) -> Any:
        return self.model_(torch.from_numpy(u)[None])[0].numpy()


def _build(peer: type[Peer]) -> Callable[[System, int], Simulator]:
    return lambda system, seed: peer(initial=system.initial, seed=seed)


PEERS = {
    name: _build(peer)
    for name, module, peer in (("deepSI", "deepSI", DeepSI), ("tsfast", "tsfast", TSFast))
    if find_spec(module)
}
"""Those that are installed: how to build them for a system and a seed."""
