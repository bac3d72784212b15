"""What `hbode fit` and `hbode forecast` share: how a law is asked for."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..timeseries import DataError, Records
from .arguments import NOT_ASKED, at_least, cores, positive_int, seed

if TYPE_CHECKING:
    from ..timeseries import LatentSDEForecaster, SystemIdentifier

Kind = TypeVar("Kind", bound="SystemIdentifier")
MODELS = ("auto", "hbnode", "node", "port")
OPTIMIZERS = ("auto", "least_squares", "adam")
READOUTS = ("position", "absolute", "linear", "square")
BASELINES = ("none", "linear", "auto", "all")


def add_law(parser: Any, also: Mapping[str, str] | None = None) -> None:
    """Add what is fitted, and how; `also` are further models, with what they are for."""
    others = dict(also or {})
    add = parser.add_argument
    add(
        "--model",
        choices=(*MODELS, *others),
        default="auto",
        help="hbnode: second order in time, for what moves or swings; node: first order, levels, temperatures; port: "
        "second order with a potential and damping, no energy from nowhere; "
        + "".join(f"{name}: {what}; " for name, what in others.items())
        + "auto: of the first two, the one that simulates best the rows that choose, hidden states included "
        "(default: auto)",
    )
    add(
        "--hidden",
        type=_layers,
        metavar="N[,N]",
        help="units of the network that corrects the law, of each of its layers; 0 for none",
    )
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        help="least_squares, or adam, for large networks (default: auto, by the number of parameters)",
    )
    add("--degree", type=positive_int, metavar="N", help="of the polynomial stiffness, 1 for a linear one")
    add("--states", type=positive_int, metavar="N", help="channels of the state (default: one an output)")
    add(
        "--readout",
        choices=READOUTS,
        help="outputs are positions (default), their absolute values, or combinations of states, linear or squared",
    )
    add(
        "--limits",
        type=_limits,
        metavar="LOW:HIGH",
        help="what outputs can show, such as :10 for a level that overflows",
    )
    add("--initial", type=at_least(2), metavar="N", help="samples that the initial state is found from")
    add("--stretch", type=at_least(2), metavar="N", help="samples of a stretch that is simulated in training")
    add("--evaluations", type=positive_int, metavar="N", help="of the least-squares problem, at most, in each stage")
    add("--seeds", type=positive_int, metavar="N", help="models of the ensemble")
    add("--seed", type=seed, default=0, metavar="N", help="the first of them (default: %(default)s)")
    add("--jobs", type=positive_int, metavar="N", help="models fitted at a time, in processes (default: one a core)")
    add(
        "--baselines",
        choices=BASELINES,
        default="auto",
        help="simpler models to stand beside; auto: an LSTM only if it takes less than a minute (default: auto)",
    )
    add(
        "--resume",
        type=Path,
        metavar="FOLDER",
        help="where models that are done are kept until all are (default: OUT.unfinished, removed at the end)",
    )


def identifier_of(kind: type[Kind], a: argparse.Namespace, kept: Path) -> Kind:
    """Return what is to be fitted; what was not asked for is left at its default."""
    options = (
        "hidden",
        "optimizer",
        "degree",
        "states",
        "readout",
        "limits",
        "initial",
        "stretch",
        "evaluations",
        "seeds",
    )
    given = {name: getattr(a, name) for name in options if getattr(a, name) is not None}
    identifier: Kind = kind(a.model, **given, random_state=a.seed, checkpoint=kept, verbose=not a.quiet)
    identifier.set_params(jobs=a.jobs or min(cores(), identifier.seeds))
    return identifier


def _layers(text: str) -> int | tuple[int, ...]:
    layers = tuple(map(at_least(0), text.split(",")))
    if len(layers) > 1 and 0 in layers:
        raise argparse.ArgumentTypeError(f"must be 0, or units of each layer, got {text!r}")
    return layers[0] if len(layers) == 1 else layers


def _limits(text: str) -> tuple[float | None, float | None]:
    low: float | None
    high: float | None
    try:
        low, high = (float(part) if part.strip() else None for part in text.split(":"))
    except ValueError:
        low = high = None
    if (low is None and high is None) or (low is not None and high is not None and not low < high):
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH, either may be left out, got {text!r}")
    return low, high


def fit_or_say(identifier: SystemIdentifier | LatentSDEForecaster, train: Records, kept: Path, out: Path) -> float:
    """Fit, and return the seconds; say from which record an error is, and where an interrupted fit goes on."""
    began = time.perf_counter()
    try:
        identifier.fit(train)
    except (DataError, ValueError) as error:
        raise DataError(f"{train.source}: {error}") from None
    except KeyboardInterrupt:
        more = f"; models that are done are kept in {kept}, the same command goes on from them"
        raise KeyboardInterrupt(f"interrupted{more if kept.exists() else ''}; {out} was not written") from None
    return time.perf_counter() - began


def asked(a: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for, in types of JSON."""
    found = {name: x for name, x in vars(a).items() if name not in NOT_ASKED and x is not None}
    found |= {name: f"{x.start or 0}:{x.stop or ''}" for name, x in found.items() if isinstance(x, slice)}
    return {
        name: str(x) if isinstance(x, Path) else list(x) if isinstance(x, tuple) else x for name, x in found.items()
    }
