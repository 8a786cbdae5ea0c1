"""What touches PyTorch: challenge files, target models, and plain PyTorch training to compare with."""
