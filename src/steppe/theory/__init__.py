"""Small problems with a known solution."""
