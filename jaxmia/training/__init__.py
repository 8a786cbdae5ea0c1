"""Trains and queries ensembles of shadow models."""
