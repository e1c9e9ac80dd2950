"""Bundle to HTTP: answers, the Open Inference Protocol, and the camera page."""
