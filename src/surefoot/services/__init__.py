"""Floor 6: what listens to the training loop, and what a run leaves on disk."""
