"""Explicit one-step methods: Runge-Kutta, Runge-Kutta-Nyström and Chebyshev, and the tables that define them."""
