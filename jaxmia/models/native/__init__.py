"""C++ kernels for ensembles on CPUs, compiled for the local machine when they are first needed."""
