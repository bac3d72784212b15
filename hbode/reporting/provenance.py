"""What a result was computed with."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from ..version import __version__


def computed_with() -> dict[str, Any]:
    """Return the versions and the machine, in types of JSON."""
    return {
        "versions": {"hbode": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpu_count": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }
