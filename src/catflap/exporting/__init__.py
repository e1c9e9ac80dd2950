"""Checkpoint to Bundle, one file per target runtime."""
