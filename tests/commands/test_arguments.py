"""Options that several commands share."""

import argparse

from hbode.commands.arguments import add_training, training_settings
from hbode.training import TrainingSettings


def test_training():
    parser = argparse.ArgumentParser()
    add_training(parser)
    default = TrainingSettings(epochs=7, clip=1.0)
    none = parser.parse_args([])
    assert training_settings(none, default) == default
    assert (none.engine, none.devices) == ("plain", 1)
    a = parser.parse_args(["--epochs", "3", "--learning-rate", "0.1", "--engine", "lightning", "--devices", "2"])
    assert training_settings(a, default) == TrainingSettings(epochs=3, learning_rate=0.1, clip=1.0)
    assert (a.engine, a.devices) == ("lightning", 2)
