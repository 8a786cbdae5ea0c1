"""The samples of a challenge, who trains on which of them, and how they are seen."""
