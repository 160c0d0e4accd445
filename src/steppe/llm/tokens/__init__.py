"""Tokens of whole texts: made once, kept, read a window at a time."""
