"""How flat, how robust: measured."""
