"""The loop that trains every weight, and what a step of it needs."""
