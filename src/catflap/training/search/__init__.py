"""Which backbone, frame and fit, and for how long: within the limits of time, size and latency."""
