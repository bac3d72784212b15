"""Methods: each a pure step, most of them a table. Those that solve equations are in `hbode.solvers.implicit`."""
