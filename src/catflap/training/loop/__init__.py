"""The loop that trains every weight: its settings, teacher, curve, and what a stopped run goes on from."""
