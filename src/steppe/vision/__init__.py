"""Image classifiers and image data: models by name, images decoded once, exact resume."""
