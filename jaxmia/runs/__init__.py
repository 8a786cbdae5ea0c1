"""What lies in a run directory and who works there; nothing here trains."""
