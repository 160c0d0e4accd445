"""Detectors of objects: recipes and runs of task ``detection``."""
