"""How far a solve, or each of several jobs, has come."""
