"""Small problems whose answer is known."""
