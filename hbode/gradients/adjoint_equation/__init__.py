"""The gradient of the exact solution: the adjoint equation, solved backwards by steps of its own."""
