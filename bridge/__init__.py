"""Everything that uses PyTorch: challenge files, target models, and PyTorch training."""
