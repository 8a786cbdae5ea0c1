"""How good a score or an attack is; plain NumPy."""
