"""The verbs that walk through several rooms: build, evaluate, demo, drift, trace."""
