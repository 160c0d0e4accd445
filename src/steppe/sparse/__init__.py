"""Zeros that pay: matrices of which only what is kept is stored, read and multiplied."""
