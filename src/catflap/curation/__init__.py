"""Dataset to better Manifest: what a machine suspects, and what a person decides."""
