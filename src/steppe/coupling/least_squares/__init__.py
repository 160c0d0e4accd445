"""Linear algebra that the solvers of one layer's least-squares problem share."""
