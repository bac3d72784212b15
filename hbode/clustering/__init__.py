"""Kernel treelets: trees of samples, of variables and of trajectories, with a basis at every level."""

from .figures import tree_figure
from .kernels import local_gamma
from .rotations import Rotations, jacobi_tree
from .samples import KernelTreelets
from .trajectories import trajectory_features, windows
from .variables import Treelets

__all__ = [
    "KernelTreelets",
    "Rotations",
    "Treelets",
    "jacobi_tree",
    "local_gamma",
    "trajectory_features",
    "tree_figure",
    "windows",
]
