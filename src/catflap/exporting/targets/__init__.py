"""One file for each target: how a Checkpoint is written for its runtime."""
