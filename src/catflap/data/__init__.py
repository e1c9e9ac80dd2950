"""Photos to Manifest to Dataset: scan and prepare."""
