"""Bundle and photo to Prediction; session.py owns onnxruntime."""
