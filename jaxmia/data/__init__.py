"""The samples of a challenge, membership masks, augmentation and preprocessing."""
