"""What lies on disk between two verbs: a frozen dataclass with load and save for each artefact."""
