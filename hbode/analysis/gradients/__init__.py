"""How gradients grow and fade on their way back: through heavy balls, any system, and layers for sequences."""
