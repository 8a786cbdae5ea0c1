"""Metrics of membership scores and selection of attacks, in plain NumPy."""
