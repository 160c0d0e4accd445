"""How do the weights obey? One file per coupling."""
