"""Plots and the HTML page that show what a run found."""
