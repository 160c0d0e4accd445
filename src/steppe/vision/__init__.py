"""Image classifiers and the data they see: models by name, images decoded once, exact resume."""
