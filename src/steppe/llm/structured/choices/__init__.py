"""How it is found what goes: one file for each kind of removal."""
