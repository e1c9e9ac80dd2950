"""The cost of the training environment beside that of the inference environment, all of it measured."""
