"""One file per target, to_NAME.py, each with a TARGET; delete the file and the target is gone."""
