"""What a network is: its backbone, its torch module, its folded and its exported forms."""
