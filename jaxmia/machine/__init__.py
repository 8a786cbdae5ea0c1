"""Checks of the machine and benchmarks of its training speed."""
