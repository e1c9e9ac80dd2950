"""From a Bundle and a photo to a Prediction. Read classifier.py first, then decisions.py and engine.py."""
