"""Bundle to Verdict, on the device that will run it."""
