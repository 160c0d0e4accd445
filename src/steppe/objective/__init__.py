"""Against what? One file per objective."""
