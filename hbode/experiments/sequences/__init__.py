"""Experiments on long sequences, with recurrent cells, oscillators and attention."""
