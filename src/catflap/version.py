"""The version of Catflap, as every artefact records it."""

VERSION = "0.1.0"
