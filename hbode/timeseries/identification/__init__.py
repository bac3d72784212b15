"""Identification of driven systems: records of inputs and outputs in, models that simulate out."""

from .bands import Bands, Simulated
from .fitting.member import Fitted, Settings, fit_member
from .identifier import SystemIdentifier
from .laws.description import Curve, Description, Mode, describe
from .laws.port import EnergyLaw
from .laws.structures import Force, Structure
from .runs.simulation import free_run_error

__all__ = [
    "Bands",
    "Curve",
    "Description",
    "EnergyLaw",
    "Fitted",
    "Force",
    "Mode",
    "Settings",
    "Simulated",
    "Structure",
    "SystemIdentifier",
    "describe",
    "fit_member",
    "free_run_error",
]

INTERNAL = {"fit_member", "free_run_error"}
"""Names that other rooms of hbode use, and that are no part of what users may rely on."""
