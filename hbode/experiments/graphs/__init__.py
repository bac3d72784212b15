"""Experiments on graphs, whose samples are nodes."""
