"""How much, where? One file per budget."""
