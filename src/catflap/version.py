"""The version of Catflap, as every artefact records it, and where its source and documentation are."""

VERSION = "0.1.0"
REPOSITORY = "https://github.com/catflap/catflap"
