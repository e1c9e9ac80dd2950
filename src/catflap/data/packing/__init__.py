"""Rows to a Dataset: a role for every photo, and shards."""
