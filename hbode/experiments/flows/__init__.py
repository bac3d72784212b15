"""Densities by flows: likelihood, cost, and how stiff the learned fields are."""
