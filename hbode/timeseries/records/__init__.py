"""Measured runs: reading them, holding them, standardising them."""

from ...lazy import MissingExtra
from .container import Records
from .files import read_records
from .run import Array, Channel, DataError, Run
from .scaling import Affine, Scaling, check_for_training

__all__ = [
    "Affine",
    "Array",
    "Channel",
    "DataError",
    "MissingExtra",
    "Records",
    "Run",
    "Scaling",
    "check_for_training",
    "read_records",
]
