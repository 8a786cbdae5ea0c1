"""Kernels in C++ for ensembles on CPUs, compiled for this very machine when they are first needed."""
