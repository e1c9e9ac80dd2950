"""The training environment beside the inference environment, all of it measured."""
