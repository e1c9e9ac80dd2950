"""A file for each runtime: a variant's files to a function from frames to logits."""
