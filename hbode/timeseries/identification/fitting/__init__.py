"""From a structure and a seed to fitted parameters: by gradients, and by least squares."""
