"""Float graphs to int8 and fp16 ones: ranges of activations, and weights that are rounded with care."""
