"""Style and panels of figures."""
