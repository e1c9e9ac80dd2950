"""Predictions and true labels to metrics, intervals, calibration, drift, gate and pages: pure functions.

The verbs `evaluate` and `drift`, which read photos and logs, are in pipeline/.
"""
