"""The experiments of Xia et al., "Heavy Ball Neural Ordinary Differential Equations" (NeurIPS 2021)."""

from .experiment import MODELS, Experiment, Settings, Splits, Trial
from .images import Images
from .initialisation import Initialisation
from .plane_vibration import PlaneVibration
from .point_cloud import PointCloud
from .runner import reproduce
from .walker2d import Walker2D

EXPERIMENTS: dict[str, Experiment] = {
    one.name: one for one in (PlaneVibration(), Walker2D(), PointCloud(), Initialisation(), Images())
}
"""By their names on the command line."""

__all__ = ["EXPERIMENTS", "MODELS", "Experiment", "Settings", "Splits", "Trial", "reproduce"]
