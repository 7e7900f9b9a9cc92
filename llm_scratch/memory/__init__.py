"""Memory of training and generation: estimates, measurements, and advice on what fits."""
