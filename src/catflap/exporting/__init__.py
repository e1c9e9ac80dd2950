"""Checkpoint to Bundle: variants for each target, judged, gated and checked; one file per target."""
