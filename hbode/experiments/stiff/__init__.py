"""Stiff problems with exact solutions, by every solver at an equal error."""
