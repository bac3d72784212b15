"""`SystemIdentifier`: from measured inputs and outputs to a model that simulates new inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from torch import Tensor

from ...lazy import optional
from ...models.continuous import EnergyBalance
from ...setup.arguments import check_at_least
from ..baselines.simulator import Simulator, split_runs
from ..records import Array, Records, Run, Scaling, check_for_training
from .automatic import SMALL, choose
from .bands import Simulated
from .checkpoints import fit_or_read, place
from .fitting.member import LONGEST, Fitted, Settings
from .fitting.multiple_shooting import GradientSettings
from .held_out import Cut, Mask, Trials, blocks, from_several_rows, from_the_start
from .laws.description import Description, describe
from .laws.known import Known
from .laws.port import energy_balance, has_energy
from .laws.structures import Structure
from .runs.derivatives import unit_of_time
from .runs.simulation import simulate
from .runs.stretches import stretches
from .saving import load, save

OPTIMIZERS = ("auto", "least_squares", "adam")


class SystemIdentifier(Simulator):
    """Identify a driven system, h'' = f(h, h', u), from records of its inputs and outputs.

    The law is linear with a polynomial stiffness, and a small network of tanh units corrects both; all of it is fitted
    to free runs over stretches of the record, whose initial states are fitted too, by nonlinear least squares with the
    derivatives of the computed solution. Of several seeds the ensemble simulates, and its spread, calibrated on
    the validation rows, gives bands.

    Parameters
    ----------
    model
        "hbnode", second order in time, or "node", first order; "port", second order with an energy that never rises
        without input: M h'' = -∇V(h) - D h' + G u with a polynomial V, D positive definite, a mass in M for each
        output, and small networks that correct them (`PortHamiltonian`). "auto": the first is tried, and where its
        free runs miss more than `GOOD` of the variance of the validation rows, by more than noise, the laws of `AUTO`
        too, with what they say of states, network, read-out and input; the one whose free runs miss the validation rows
        least is taken, `chosen_`. An output that often has the same extreme value is taken to be limited there then.
    states
        Channels of h (default: one an output).
    degree
        Of the polynomial in h, 1 for none; that of "port", the gradient of V, is of all channels together.
        ``SystemIdentifier(degree=3, hidden=0)`` is a Duffing oscillator.
    hidden
        Units of the network, 0 for none; a sequence: of each of its layers.
    corrected
        What networks of so many units correct in "port": among "potential", "damping", "gain"; the rest is constant.
    known
        A known part of the law in physical units, as ``known(t, y, y', u)`` returning y'' of shape (..., Cy)
        (``known(t, y, u)`` returning y' for "node"); the rest is learned. A `torch.nn.Module` is trained too.
    unit
        Of the network: "tanh", which is bounded, or "relu", for laws with kinks.
    readout
        "position": outputs are positions; "absolute": their sign was not measured; "linear": a learned combination of
        the state; "square": its square, with an offset.
    limits
        Least and greatest value that an output can show, (low, high) in its unit, None for none.
    between
        How inputs go between their samples: "cubic", "quintic" (fast sampled, no missing values), "linear", "hold".
    initial
        Samples that the initial state of a simulation is estimated from.
    stretch
        Samples of a stretch that is simulated in training, from an initial state of its own; None: whole runs.
    penalty
        Share of the error of the law without network that a weight of size one of the network costs; a list: the one
        with the lowest validation error is taken.
    validation
        What chooses when to stop, and among seeds and penalties: a share of the rows of each run, at its end; "blocks",
        every fifth block of the rows, others for each seed, which its training simulates but does not look at; 0,
        the training error.
        Default: "blocks" for up to `SMALL` rows in all, else 0.2.
    seeds, random_state
        How many models, and the first seed.
    keep
        "ensemble", of all models whose error in free run, over the validation rows of all of them, is at most 1.3
        times that of the best, or "best".
    coverage
        Of the bands.
    substeps
        Steps of rk4 from one sample to the next.
    evaluations
        Of the least-squares problem, at most, in each of its two stages.
    rows
        That these look at, at most: of longer records stretches that are evenly spread over them. None: all.
    optimizer
        "least_squares"; "adam", by gradients over random stretches, from states that an encoder reads off the first
        `initial` samples, with a least-squares finish where a model has up to 300 parameters; "auto", least squares up
        to so many and Adam beyond them.
    steps, batch, learning_rate
        Of Adam.
    jobs
        Models fitted at a time, in processes of joblib.
    compile
        Whether training simulates by a compiled solve (None: where records are long enough to pay for it).
    checkpoint
        A folder: models that are done are kept there, trainings by gradients every hundred steps too, and a fit that
        was interrupted goes on from them.
    verbose
        Whether to show progress.

    Attributes
    ----------
    chosen_
        The identifier without "auto", whose settings were taken.
    members_
        The fitted models that are kept, the best first.
    scaling_, bands_, outputs_, inputs_, time_
        Of the training records.
    longest_
        Standardised time between two rows of a simulation, at most: rows are put into longer gaps.
    validation_error_
        Root mean square errors on the validation rows of the free run of the ensemble, or, where each member held out
        blocks of its own, of the members, in physical units, (Cy,).

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Records, SystemIdentifier
    >>> t = np.arange(400) / 20
    >>> u = np.sin(0.3 * t**2 / 2)
    >>> y = np.cumsum(np.cumsum(u)) * 1e-3
    >>> model = SystemIdentifier(degree=1, hidden=0, initial=10, evaluations=5, seeds=1)
    >>> model = model.fit(Records.from_arrays(t, y, u))
    >>> model.simulate(Records.from_arrays(t, y, u))[0].shape
    (400, 1)
    """

    needs_common_step = False
    takes_missing_inputs = True
    _by_lead = False

    def __init__(
        self,
        model: str = "auto",
        *,
        states: int | None = None,
        degree: int = 3,
        hidden: int | Sequence[int] = 8,
        corrected: Sequence[str] = ("potential", "damping"),
        unit: str = "tanh",
        known: Callable[..., Tensor] | None = None,
        readout: str = "position",
        limits: tuple[float | None, float | None] = (None, None),
        between: str = "cubic",
        initial: int = 50,
        stretch: int | None = 500,
        penalty: float | Sequence[float] = 1e-3,
        validation: float | str | None = None,
        seeds: int = 3,
        random_state: int = 0,
        keep: str = "ensemble",
        coverage: float = 0.9,
        substeps: int = 2,
        evaluations: int = 60,
        rows: int | None = 15_000,
        optimizer: str = "auto",
        steps: int = 3000,
        batch: int = 32,
        learning_rate: float = 3e-3,
        jobs: int = 1,
        compile: bool | None = None,
        checkpoint: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.model, self.states, self.degree, self.hidden, self.known = model, states, degree, hidden, known
        self.corrected, self.unit, self.readout, self.limits = corrected, unit, readout, limits
        self.between, self.initial, self.stretch = between, initial, stretch
        self.penalty, self.validation, self.seeds, self.random_state = penalty, validation, seeds, random_state
        self.keep, self.coverage, self.substeps = keep, coverage, substeps
        self.evaluations, self.rows = evaluations, rows
        self.optimizer, self.steps, self.batch, self.learning_rate = optimizer, steps, batch, learning_rate
        self.jobs, self.compile, self.checkpoint, self.verbose = jobs, compile, checkpoint, verbose

    def fit(self, records: Records, validation: Records | None = None) -> Self:
        """Fit to records with inputs; `validation` takes the place of the rows that are held out.

        Raises
        ------
        DataError
            For records that nothing can be learned from, by column and row.
        """
        self._held_out = validation
        try:
            return super().fit(records)
        finally:
            del self._held_out

    def _fit(self, records: Records) -> None:
        if self.model != "auto":
            self._fit_law(records, {})
            return
        chosen = choose(self, records)
        first = {(chosen.penalty_, chosen.fits_[0].seed): chosen.fits_[0]}
        if self.seeds > 1:
            chosen.set_params(seeds=self.seeds, jobs=self.jobs)._fit_law(records, first)
        self.chosen_ = chosen
        for name, value in vars(chosen).items():
            if name.endswith("_"):
                setattr(self, name, value)

    @property
    def law_(self) -> SystemIdentifier:
        """What was fitted: with "auto", the one that was chosen."""
        found: SystemIdentifier = vars(self).get("chosen_", self)
        return found

    def _fit_law(self, records: Records, done: dict[tuple[float, int], Fitted]) -> None:
        validation = self._held_out
        few = "blocks" if records.total_rows <= SMALL else 0.2
        chosen_by = few if self.validation is None else self.validation
        train, held_out = records, validation
        if validation is None and not isinstance(chosen_by, str) and chosen_by > 0:
            train, held_out = split_runs(records, 1 - chosen_by)
        check_for_training(train, max(self.initial + 2, 20))
        self.outputs_, self.inputs_, self.time_ = records.outputs, records.inputs, records.time
        self.step_ = records.step
        self.scaling_ = replace(Scaling.fit(train), time_unit=unit_of_time(train))
        scaled = self.scaling_.to_standard(train)
        self.longest_ = LONGEST * scaled.median_step
        held: Any = None if held_out is None else self.scaling_.to_standard(held_out)
        if held_out is None and isinstance(chosen_by, str):
            held = chosen_by
        y = np.concatenate([run.y for run in scaled])
        self.seen_ = np.stack((np.nanmin(y, 0), np.nanmax(y, 0)))
        structure = self._structure()
        penalties = [float(x) for x in np.atleast_1d(np.asarray(self.penalty, dtype=float))]
        tasks = [
            (structure, self._settings(penalty), scaled, held, seed)
            for penalty in penalties
            for seed in range(self.random_state, self.random_state + self.seeds)
            if (penalty, seed) not in done
        ]
        known = self._known()
        joblib = optional("joblib")
        fits = joblib.Parallel(n_jobs=min(self.jobs, len(tasks)))(
            joblib.delayed(fit_or_read)(task, known, place(self.checkpoint, task, self.known), self.verbose)
            for task in tasks
        )
        done = done | {(task[1].penalty, one.seed): one for task, one in zip(tasks, fits, strict=True)}
        by_penalty = [[one for (of, _), one in done.items() if of == penalty] for penalty in penalties]
        chosen = min(by_penalty, key=lambda group: float(np.median([one.validation for one in group])))
        self.penalty_ = penalties[by_penalty.index(chosen)]
        self.fits_: list[Fitted] = sorted(chosen, key=lambda one: one.validation)
        self.members_ = [one.model for one in self.fits_]
        in_blocks = isinstance(held, str)
        rows = records if held_out is None else held_out
        trials = Trials.of(rows, self.initial, self._cut(in_blocks), self._of_members)
        good = trials.like_the_best(self.scaling_.outputs.std)[: 1 if self.keep == "best" else None]

        def out(member: int, run: int) -> Mask:
            return blocks(len(rows[run]), self.initial, self.fits_[member].seed)

        self.bands_ = trials.bands(self.coverage, good, out if in_blocks else None, self._by_lead)
        others = [i for i in range(len(self.fits_)) if i not in good]
        self.fits_ = [self.fits_[i] for i in (*good, *others)]
        self.members_ = [one.model for one in self.fits_[: len(good)]]
        self.validation_error_ = self.bands_.floor

    def simulate(self, records: Records, initial: int | None = None) -> list[Array]:
        """Return the free runs, (T, Cy) each, in units of the outputs: all inputs, and the first outputs, are seen.

        Parameters
        ----------
        records
            With the channels of training; outputs behind the first `initial` rows are not looked at.
        initial
            Samples to estimate the initial state from (default: that of training).

        Raises
        ------
        DataError, ValueError
            For other channels than those of training, and for runs that are too short.
        """
        return super().simulate(records, self.initial if initial is None else initial)

    def score(self, records: Records, initial: int | None = None) -> float:
        """Return the fit in per cent, 100 at best, of the rows behind the first `initial`."""
        return super().score(records, self.initial if initial is None else initial)

    def predict(self, records: Records) -> Array:
        """Return `simulate` of all runs, one below the other, (N, Cy)."""
        return np.concatenate(self.simulate(records))

    def simulate_with_bands(self, records: Records, initial: int | None = None) -> Simulated:
        """Return the free runs with their bands and those of all members, from the first row on."""
        initial = self.initial if initial is None else initial
        members = self._of_members(records, initial)
        widths = [self.bands_.half_width(x.std(0), np.arange(x.shape[1]) - initial + 1) for x in members]
        return Simulated([x.mean(0) for x in members], widths, members)

    def _cut(self, in_blocks: bool) -> Cut:
        """Return how validation runs are cut to be simulated."""
        return from_several_rows if in_blocks else from_the_start

    def _of_members(self, records: Records, initial: int) -> list[Array]:
        """Return the free runs of all members, (M, T, Cy) for each run."""
        check_at_least(2, initial=initial)
        self._check_simulation(records, initial)
        scaled = self.scaling_.to_standard(records)
        runs = [simulate(model, scaled, self.law_.between, initial, self.longest_) for model in self.members_]
        return [self.scaling_.outputs.from_standard(np.stack(one)) for one in zip(*runs, strict=True)]

    @property
    def parameters_(self) -> int:
        """How many numbers a model has."""
        return sum(x.numel() for x in self.members_[0].parameters())

    def _simulate(self, run: Run, initial: int) -> Array:
        records = Records((run,), self.outputs_, self.inputs_, self.time_)
        return self.simulate_with_bands(records, initial).y[0]

    def linear(self) -> SystemIdentifier:
        """Return the linear law to compare with, of one seed, not fitted."""
        law = {"model": "hbnode", "states": None, "readout": "position", "degree": 1, "hidden": 0, "seeds": 1}
        made: SystemIdentifier = clone(self.law_).set_params(**law, checkpoint=None, verbose=False)
        return made

    def describe(self) -> Description:
        """Return what the best model learned, in physical units: modes, stiffness curve."""
        best = self.members_[0]
        return describe(best, self.scaling_, self.outputs_, len(self.inputs_), self.time_, self.seen_)

    def energy_balance(self, records: Records, initial: int | None = None) -> list[EnergyBalance]:
        """Return what comes in, what is lost and what is there in simulations by the best model, one for each run.

        In physical units, for a unit mass of the first output; work is done by inputs as they differ from their mean.

        Parameters
        ----------
        records, initial
            As for `simulate`.

        Raises
        ------
        ValueError
            Unless the model is "port", and its positions are the outputs.
        """
        best, initial = self.members_[0], self.initial if initial is None else initial
        if not has_energy(best):
            raise ValueError("model must be 'port', with outputs that are its positions, to have an energy in a unit")
        self._check_simulation(records, initial)
        scaled, found = self.scaling_.to_standard(records), []
        for run, one in zip(scaled, records, strict=True):
            filled, rows = run.filled(self.longest_)
            given = stretches(replace(scaled, runs=(filled,)), None, self.law_.between)
            found.append(energy_balance(best, self.scaling_, given, int(rows[initial - 1]) + 1, float(one.t[0])))
        return found

    def save(self, folder: str | Path) -> None:
        """Write the fitted models to a folder, weights as safetensors and everything else as JSON.

        A known part is not written: `load` is to be given it again.
        """
        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, known: Callable[..., Tensor] | None = None) -> SystemIdentifier:
        """Return what `save` wrote. No code is run from the files.

        Raises
        ------
        DataError
            For a folder that is no model of this package, or not whole.
        """
        made: SystemIdentifier = load(cls, Path(folder), known)
        return made

    def _structure(self) -> Structure:
        mean, std = self.scaling_.outputs.mean, self.scaling_.outputs.std
        low, high = (() if x is None else tuple(((x - mean) / std).tolist()) for x in self.limits)
        return Structure(
            len(self.outputs_),
            len(self.inputs_),
            self.model,
            self.states,
            self.degree,
            self.hidden if isinstance(self.hidden, int) else tuple(self.hidden),
            self.readout,
            substeps=self.substeps,
            unit=self.unit,
            low=low,
            high=high,
            corrected=tuple(self.corrected),
        )

    def _known(self) -> Known | None:
        return None if self.known is None else Known(self.known, self.scaling_, self._structure().momentum)

    def _settings(self, penalty: float) -> Settings:
        return Settings(
            self.initial,
            self.stretch,
            self.between,
            penalty,
            self.evaluations,
            self.rows,
            self.compile,
            longest=self.longest_,
            optimizer=self.optimizer,
            gradients=GradientSettings(self.steps, self.batch, self.learning_rate, min(self.stretch or 300, 300)),
        )

    def _check(self, records: Records) -> None:
        super()._check(records)
        if self.keep not in ("ensemble", "best"):
            raise ValueError(f"keep must be 'ensemble' or 'best', got {self.keep!r}")
        check_at_least(1, seeds=self.seeds, rows=self.rows, steps=self.steps, batch=self.batch)
        check_at_least(2, initial=self.initial, stretch=self.stretch)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        share = self.validation
        if not (share is None or share == "blocks" or (not isinstance(share, str) and 0 <= share < 1)):
            raise ValueError(f"validation must be a share of the rows, 0 to 1, or 'blocks', got {share!r}")
