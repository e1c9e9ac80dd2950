"""Predictions and labels to metrics, intervals, gates and the Report; pure functions on arrays."""
