"""A Bundle in other shapes: its files, C sources, a Triton repository, a bill of materials; without torch."""
