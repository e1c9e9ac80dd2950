"""Frozen features of photos, and the linear head that is fitted on them."""
