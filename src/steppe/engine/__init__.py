"""The loops; they know protocols only."""
