"""Options that several commands share."""

import argparse
from pathlib import Path

from hbode.commands.arguments import add_training, training_keywords, training_settings
from hbode.training import TrainingSettings


def test_training():
    parser = argparse.ArgumentParser()
    add_training(parser)
    default = TrainingSettings(epochs=7, clip=1.0)
    none = parser.parse_args([])
    assert training_settings(none, default) == default
    assert training_keywords(none) == {"engine": "plain", "devices": 1, "checkpoint": None}
    a = parser.parse_args(
        ["--epochs", "3", "--learning-rate", "0.1", "--engine", "lightning", "--devices", "2", "--checkpoint", "x.pt"]
    )
    assert training_settings(a, default) == TrainingSettings(epochs=3, learning_rate=0.1, clip=1.0)
    assert training_keywords(a) == {"engine": "lightning", "devices": 2, "checkpoint": Path("x.pt")}
