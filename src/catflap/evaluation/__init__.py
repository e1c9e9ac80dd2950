"""Predictions and labels to metrics, intervals, gates and the Report.

The verbs `evaluate` and `drift`, which read photos and logs, are in pipeline/.
"""
