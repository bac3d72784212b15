"""How stiff a system is: the eigenvalues of its Jacobian, and where methods are stable."""
