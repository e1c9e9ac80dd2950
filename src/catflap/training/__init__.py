"""Dataset to Checkpoint."""
