"""How flat? One file per perturbation."""
