"""Reads run records only."""
