"""Contents of a run directory, and the processes that work in it."""
