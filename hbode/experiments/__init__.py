"""Published experiments: heavy balls (Xia et al., 2021), long sequences, graphs, densities, stiff problems."""

from .experiment import MODELS, Experiment, Settings, Splits, Trial
from .flows.densities import TabularDensity, ToyDensities
from .graphs.nodes import Grand, GrandDigits
from .images import Images
from .initialisation import Initialisation
from .plane_vibration import PlaneVibration
from .point_cloud import PointCloud
from .runner import reproduce
from .sequences.digits import PermutedDigits, PixelDigits
from .sequences.tasks import Adding, Copying, Duplication
from .stiff.equal_error import DiscreteLaplacian, StiffScalar
from .walker2d import Walker2D

EXPERIMENTS: dict[str, Experiment] = {
    one.name: one
    for one in (
        *(PlaneVibration(), Walker2D(), PointCloud(), Initialisation(), Images()),
        *(Adding(), Copying(), Duplication(), PixelDigits(), PermutedDigits()),
        *(Grand(), GrandDigits(), ToyDensities(), TabularDensity()),
        *(StiffScalar(), DiscreteLaplacian()),
    )
}
"""By their names on the command line."""

__all__ = ["EXPERIMENTS", "MODELS", "Experiment", "Settings", "Splits", "Trial", "reproduce"]
