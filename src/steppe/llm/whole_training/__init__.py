"""Causal language models trained as a whole."""
