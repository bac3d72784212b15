"""What all reports share: digits that a spread supports, ticks that count, lines off the scale that are named."""

from __future__ import annotations

import io
import math

import pytest

from hbode.reporting.style import Picture, say_off_scale, whole_ticks
from hbode.reporting.tables import measured, short, with_spread


@pytest.mark.parametrize(
    "middle, ends, shown",
    [
        (12.3456, (12.1, 12.6), "12"),  # known to 0.5
        (12.3456, (12.34, 12.35), "12.3"),  # three digits at most
        (12.3456, (5.0, 30.0), "10"),
        (12.3456, (12.3456, 12.3456), "12"),  # a single run: two digits
        (0.0, (0.0, 0.0), "0"),
        (math.nan, (0.0, 0.0), "–"),
    ],
)
def test_measured_numbers_have_the_digits_that_repeats_support(
    middle: float, ends: tuple[float, float], shown: str
) -> None:
    assert measured(middle, ends) == shown


@pytest.mark.parametrize(
    "middle, deviation, shown",
    [
        (0.123456, 0.0123, "0.123 ± 0.012"),
        (98.7654, 1.234, "98.8 ± 1.2"),
        (1234.5, 56.7, "1234 ± 57"),
        (2.0, 0.0, "2 ± 0"),
        (2.5e-6, 1e-7, "2.5e-06 ± 1e-07"),
    ],
)
def test_means_have_the_decimals_of_their_spread(middle: float, deviation: float, shown: str) -> None:
    assert with_spread(middle, deviation) == shown


def test_numbers_of_a_table_have_three_digits() -> None:
    found = [short(x) for x in (1000.49, 31.62, 0.00434, 12345.6, 7.0, math.nan, None)]
    assert found == ["1000", "31.6", "0.00434", "1.23e+04", "7", "–", "–"]


@pytest.mark.parametrize("epochs, ticks", [(1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_epochs_have_whole_ticks_be_there_but_one(epochs: int, ticks: list[int]) -> None:
    panel = Picture(4, 3).subplots()
    panel.plot(range(1, epochs + 1), range(epochs), marker="o")
    whole_ticks(panel)
    low, high = panel.get_xlim()
    assert [x for x in panel.get_xticks() if low <= x <= high] == ticks


def test_lines_that_leave_a_panel_are_named() -> None:
    figure = Picture(4, 3)
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], label="stays")
    panel.plot([0, 1], [0, 9], label="runs away")
    panel.plot([0, 1], [0, 9], label="_helper")
    panel.plot([0, 1], [math.nan, 1], label="unknown")
    panel.set_ylim(-0.5, 2)
    say_off_scale(panel)
    assert [text.get_text() for text in panel.texts] == ["partly off the scale: runs away"]
    panel.set_ylim(-1, 10)
    say_off_scale(panel)
    assert len(panel.texts) == 1
    figure.savefig(io.BytesIO())
