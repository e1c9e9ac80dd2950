"""Bundle and photo to Prediction; engines/ has a file for each runtime."""
