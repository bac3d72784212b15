"""The shape that all results have."""

from __future__ import annotations

import html
import importlib
from abc import ABC, abstractmethod
from dataclasses import fields, is_dataclass
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from .tables import Columns, aligned, markdown_table, plain

Rows = list[tuple[str, ...]]


class Report(ABC):
    """A result that is read as text, JSON, Markdown, a table of pandas or a figure, and shows itself in a notebook.

    A subclass says `headline`, `table`, `columns` and `plot`, and what else must be known in `remarks`.

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder, hbodeint
    >>> from hbode.analysis import Report, stiffness
    >>> system = FirstOrder(lambda t, h: -h)
    >>> found = stiffness(system, hbodeint(system, torch.ones(1), [0.0, 1.0]), unit="s")
    >>> isinstance(found, Report), found.headline()
    (True, 'Stiffness of FirstOrder: 2 times; rates in 1 / s, from matrices')
    """

    @abstractmethod
    def headline(self) -> str:
        """Return what this is of, in one line."""

    @abstractmethod
    def table(self) -> Rows:
        """Return the cells of a table that a person reads, its head first."""

    @abstractmethod
    def columns(self) -> Columns:
        """Return the numbers as columns of equal length, by name."""

    @abstractmethod
    def plot(self) -> Figure:
        """Draw it."""

    def remarks(self) -> list[str]:
        """Return what the table does not say: verdicts, failures, and notes on what is not known."""
        return [f"note: {note}" for note in getattr(self, "notes", ())]

    def summary(self) -> str:
        """Return it as text for a terminal."""
        return "\n".join([self.headline(), *aligned(self.table()), *self.remarks()])

    __repr__ = summary

    def __str__(self) -> str:
        return repr(self)

    def markdown(self) -> str:
        """Return it in Markdown."""
        remarks = [f"- {remark}" for remark in self.remarks()]
        return "\n".join([self.headline(), "", markdown_table(self.table()), *([""] if remarks else []), *remarks])

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in types of JSON, None for what is unknown."""
        if not is_dataclass(self):
            raise NotImplementedError
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    def to_dataframe(self) -> Any:
        """Return the `columns` as a `pandas.DataFrame`.

        Raises
        ------
        ImportError
            Without pandas, which is not a dependency.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError("to_dataframe needs pandas: pip install pandas") from error
        return pandas.DataFrame(
            {key: x.cpu().numpy() if isinstance(x, Tensor) else list(x) for key, x in self.columns().items()}
        )

    def _repr_html_(self) -> str:
        head, *rows = [[html.escape(cell) for cell in row] for row in self.table()]
        cells = "".join(f"<tr><th>{row[0]}</th><td>{'</td><td>'.join(row[1:])}</td></tr>" for row in rows)
        remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in self.remarks())
        return (
            f"<p>{html.escape(self.headline())}</p><table><thead><tr><th>{'</th><th>'.join(head)}</th></tr></thead>"
            f"<tbody>{cells}</tbody></table>" + (f"<ul>{remarks}</ul>" if remarks else "")
        )
