"""Many runs of one recipe: settings from a grid, run by one backend or another, and compared."""
