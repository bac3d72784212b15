"""Solves by other libraries, to compare with."""
