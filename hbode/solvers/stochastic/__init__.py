"""Steps with noise: a Brownian path from a seed, and the splitting that takes its damping and noise exactly."""
