"""A causal language model trained as a whole, from a recipe."""
