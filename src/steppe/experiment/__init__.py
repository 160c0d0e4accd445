"""A recipe made ready and run, in Python: what ``steppe train`` does, without a command line."""
