"""Which photos show the same: by perceptual hash, confirmed by a small picture, or by embedding."""
