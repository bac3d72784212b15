"""The parts of `hbode.compat`: states, methods, options and solves in torchdiffeq's terms."""
