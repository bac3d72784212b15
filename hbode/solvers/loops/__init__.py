"""Loops: which step is tried next, what becomes of it, and when the host looks."""
