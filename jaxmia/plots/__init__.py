"""The style of figures and the panels they are made of."""
