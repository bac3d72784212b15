"""`LatentSDEForecaster`: from records that noise moved to forecasts whose bands come from that noise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ... import training
from ...models import LatentSDE
from ...models.continuous import NeuralStateSpace, PositionReadout
from ...setup.arguments import check_at_least
from ...systems import HeavyBall
from ...training import TrainingSettings
from ..baselines.simulator import split_runs
from ..identification import Bands, Description, Force, Simulated, describe
from ..identification.held_out import Trials, from_many_rows
from ..identification.runs.derivatives import unit_of_time
from ..identification.saving import read_files, write_files
from ..records import Array, Channel, DataError, Records, Run, Scaling, check_for_training
from .forecaster import HeavyBallForecaster
from .forecasts import Forecaster

FORMAT = "hbode latent SDE forecaster 1"
STEP = 0.5
"""The longest step of BAOAB, in the unit of time in which the slopes of the standardised outputs have unit size."""
DAMPING, NOISE = 0.2, 0.15
"""At the start of the training: γ in that unit, and the noise of the measurement of standardised outputs."""
WINDOWS = 512
"""Windows of training, at most, evenly spread over the records."""
LEADS = 200
"""Rows ahead, at most, that calibrate the bands; behind them these widen as the paths do."""
UNITS = 32
"""Of the networks that read the observations and steer the posterior."""


class LatentSDEForecaster(Forecaster):
    """Forecast records whose motion is shaken: y'' = f(y) - γ y' + σ dW/dt, seen with noise.

    Where `HeavyBallForecaster` takes the motion to be determined and calibrates its bands on past errors, here the law,
    its damping γ, the noise σ of the process and that of the measurement are learned together, as a `LatentSDE` of as
    many channels as outputs. f is linear with a polynomial stiffness, and a small network corrects both. A forecast
    draws paths: each goes on from a state that fits the last `initial` rows of a run, with noise of its own. Rows may
    be at any times, and values may be missing. The bands are the spread of the paths, calibrated on forecasts of the
    validation rows as those of `HeavyBallForecaster` are, and never narrower than what `coverage` of the paths need:
    the calibration of a short record knows few rows ahead.

    Parameters
    ----------
    degree, hidden
        Of the law: highest power of each output, and units of the network, 0 for none.
    initial
        Rows of a window in training, and rows that a forecast starts from.
    paths
        Drawn for a forecast.
    coverage
        Of the bands: the share of measurements that should be within `half_width` of the mean of the paths.
    validation
        Share of the rows of each run, at its end, whose bound chooses the weights that are kept, and on which the bands
        are calibrated.
    epochs, batch, learning_rate
        Of Adam, over up to `WINDOWS` windows, of which samples are batched.
    random_state
        Seed of the training and of the paths: the same records give the same forecast.
    verbose
        Whether to show progress.

    Attributes
    ----------
    members_
        The `LatentSDE`, alone.
    history_
        Of its training; the loss is the negative bound of the log-likelihood of a window.
    bands_
        `Bands` by the number of samples ahead.
    scaling_, outputs_, inputs_, time_
        Of the training records.

    Raises
    ------
    DataError, ValueError
        From `fit`, for records with inputs, and for numbers that are not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import LatentSDEForecaster, Records
    >>> rng, t = np.random.default_rng(0), np.arange(300) / 2
    >>> records = Records.from_arrays(t, np.sin(t) + 0.1 * rng.normal(size=300).cumsum())
    >>> model = LatentSDEForecaster(degree=1, hidden=0, initial=15, epochs=1, paths=100).fit(records)
    >>> (forecast,) = model.forecast(records, horizon=20)
    >>> forecast.members.shape, bool((forecast.half_width > 0).all())
    ((100, 20, 1), True)
    """

    needs_inputs = False
    needs_common_step = False
    model = "latent-sde"

    def __init__(
        self,
        *,
        degree: int = 3,
        hidden: int = 0,
        initial: int = 25,
        paths: int = 500,
        coverage: float = 0.9,
        validation: float = 0.2,
        epochs: int = 100,
        batch: int = 64,
        learning_rate: float = 1e-2,
        random_state: int = 0,
        verbose: bool = False,
    ) -> None:
        self.degree, self.hidden, self.initial, self.paths, self.coverage = degree, hidden, initial, paths, coverage
        self.validation, self.epochs, self.batch, self.learning_rate = validation, epochs, batch, learning_rate
        self.random_state, self.verbose = random_state, verbose

    def _fit(self, records: Records) -> None:
        settings = TrainingSettings(self.epochs, self.batch, self.learning_rate, clip=10.0)
        train, held = split_runs(records, 1 - self.validation)
        check_for_training(train, max(self.initial, 20))
        self.outputs_, self.inputs_, self.time_ = records.outputs, records.inputs, records.time
        self.scaling_ = replace(Scaling.fit(train), time_unit=unit_of_time(train))
        y = np.concatenate([run.y for run in self.scaling_.to_standard(train)])
        self.seen_ = np.stack((np.nanmin(y, 0), np.nanmax(y, 0)))
        long = tuple(run for run in held if len(run) > self.initial)  # with a row to compare a forecast with
        held = replace(held, runs=long or held.runs)
        windows, others = self._windows(train), self._windows(held)
        if windows is None or others is None or not long:
            raise DataError(f"no run has {self.initial} rows, and one more, in its training and its validation part")
        with torch.random.fork_rng([]):
            torch.manual_seed(self.random_state)
            model = self._untrained()
        self.history_ = training.train(
            model,
            lambda one, given: one.elbo(*given).loss,
            windows,
            settings,
            validation=others,
            seed=self.random_state,
            progress=self._tell if self.verbose else None,
        )
        self.members_ = [model]
        trials = Trials.of(held, self.initial, from_many_rows(LEADS), self._of_members)
        self.bands_ = trials.bands(self.coverage, range(self.paths), by_lead=True)

    def _untrained(self) -> LatentSDE:
        count = len(self.outputs_)
        gamma = torch.full((count,), DAMPING)
        law = HeavyBall(Force(count, 0, self.degree, self.hidden, momentum=False), gamma, epsilon=4.0)
        model = LatentSDE(
            law,
            count,
            count,
            hidden=UNITS,
            diffusion=math.sqrt(2 * DAMPING),  # a unit spring has unit variance then, as the outputs have
            noise=NOISE,
            step_size=STEP,
            decoder=nn.Identity(),
        )
        return model.double()

    def _windows(self, records: Records) -> tuple[Tensor, Tensor] | None:
        """Return times (W, initial) since the first row, and standardised outputs (W, initial, Cy)."""
        runs = self.scaling_.to_standard(records).runs
        starts = [(run, start) for run in runs for start in range(len(run) - self.initial + 1)]
        parts = [
            run.take(slice(start, start + self.initial)) for run, start in starts[:: max(len(starts) // WINDOWS, 1)]
        ]
        parts = [part for part in parts if part.y_mask.any()]
        if not parts:
            return None
        t, y = (
            torch.from_numpy(np.stack(of)) for of in zip(*((part.t - part.t[0], part.y) for part in parts), strict=True)
        )
        return t, y

    def _tell(self, epoch: int, history: training.History) -> None:
        if epoch % 10 == 0:
            told = f"bound {-history.train['loss'][-1]:.4g}, validation {-history.validation['loss'][-1]:.4g}"
            print(f"epoch {epoch} of {self.epochs}: {told}", flush=True)

    @torch.no_grad()
    def _of_members(self, records: Records, initial: int) -> list[Array]:
        """Return paths at all rows of each run, (paths, T, Cy), as measured: with the noise of the measurement."""
        self._check_simulation(records, initial)
        (model,) = self.members_
        found = []
        for run in self.scaling_.to_standard(records):
            t, y = (torch.from_numpy(x).unsqueeze(0) for x in (run.t - run.t[0], run.y))
            known = run.y_mask[:initial].any(1)
            if not known.any():
                raise DataError(f"run {run.name!r} has no value in its first {initial} rows, from which it is forecast")
            begin = int(known.argmax())
            with torch.random.fork_rng([]):
                torch.manual_seed(self.random_state)
                made = model.predict(t[:, begin:initial], y[:, begin:initial], t[:, begin:], samples=self.paths)
                made = made + model.log_noise.exp() * torch.randn_like(made)
            paths = nn.functional.pad(made[:, 0], (0, 0, begin, 0), value=torch.nan)
            found.append(self.scaling_.outputs.from_standard(paths.numpy()))
        return found

    def simulate_with_bands(self, records: Records, initial: int | None = None) -> Simulated:
        """Return the means of paths from the first `initial` rows of each run, their bands, and all paths."""
        initial = self.initial if initial is None else initial
        paths = self._of_members(records, initial)
        widths = [self._half_width(x, np.arange(x.shape[1], dtype=float) - initial + 1) for x in paths]
        return Simulated([x.mean(0) for x in paths], widths, paths)

    def _half_width(self, members: Array, lead: Array) -> Array:
        """Return the wider of what was calibrated, over few rows ahead in short records, and the law of the paths."""
        own = np.quantile(np.abs(members - members.mean(0)), self.coverage, axis=0)
        found: Array = np.maximum(super()._half_width(members, lead), own)
        return found

    def _simulate(self, run: Run, initial: int) -> Array:
        (paths,) = self._of_members(Records((run,), self.outputs_, self.inputs_, self.time_), initial)
        mean: Array = paths.mean(0)
        return mean

    @property
    def parameters_(self) -> int:
        """How many numbers the model has, those of its posterior too."""
        return sum(x.numel() for x in self.members_[0].parameters())

    @property
    def law_(self) -> LatentSDEForecaster:
        """What was fitted."""
        return self

    def linear(self) -> HeavyBallForecaster:
        """Return the linear law without noise to compare with, not fitted."""
        return HeavyBallForecaster("hbnode", degree=1, hidden=0, seeds=1, initial=self.initial)

    def describe(self) -> Description:
        """Return what the law without its noise is, in physical units."""
        count = len(self.outputs_)
        law = NeuralStateSpace(self.members_[0].system, PositionReadout(count), count)
        return describe(law, self.scaling_, self.outputs_, 0, self.time_, self.seen_)

    def noise(self) -> tuple[Array, Array]:
        """Return σ of the process, in units of the outputs over time^(3/2), and the measurement's deviation, (Cy,)."""
        std, (model,) = self.scaling_.outputs.std, self.members_
        of_process, of_measurement = (x.detach().exp().numpy() for x in (model.log_diffusion, model.log_noise))
        return std * of_process / self.scaling_.time_unit**1.5, std * of_measurement

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder, weights as safetensors and everything else as JSON."""
        found = {
            "format": FORMAT,
            "parameters": self.get_params(),
            "outputs": [vars(c) for c in self.outputs_],
            "time": vars(self.time_),
            "scaling": self.scaling_.as_json(),
            "seen": self.seen_.tolist(),
            "bands": self.bands_.as_json(),
            "step": self.step_,
        }
        write_files(Path(folder), found, {k: x.contiguous() for k, x in self.members_[0].state_dict().items()})

    @classmethod
    def load(cls, folder: str | Path) -> LatentSDEForecaster:
        """Return what `save` wrote. No code is run from the files.

        Raises
        ------
        DataError
            For a folder that is no such model, or not whole.
        """
        found, weights = read_files(Path(folder), FORMAT)
        try:
            made = cls(**found["parameters"])
            made.outputs_, made.inputs_ = tuple(Channel(**c) for c in found["outputs"]), ()
            made.time_, made.scaling_ = Channel(**found["time"]), Scaling.from_json(found["scaling"])
            made.seen_, made.step_ = np.array(found["seen"]), found["step"]
            made.bands_ = Bands.from_json(found["bands"])
            made.members_ = [made._untrained()]
            made.members_[0].load_state_dict(weights)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{folder}: the model is not whole ({error})") from None
        return made

    def _check(self, records: Records) -> None:
        super()._check(records)
        if records.inputs:
            names = ", ".join(map(str, records.inputs))
            raise DataError(f"{self._name} takes no inputs, got {names}: HeavyBallForecaster does")
        check_at_least(0, hidden=self.hidden)
        check_at_least(1, degree=self.degree)
        check_at_least(2, initial=self.initial, paths=self.paths)
        if not 0 < self.coverage < 1:
            raise ValueError(f"coverage must be between 0 and 1, got {self.coverage}")
