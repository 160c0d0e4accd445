"""When? One file per schedule."""
