"""Stretches of records, free runs over them, and the states in which they start."""
