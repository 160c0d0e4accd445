"""One step of a sparse, flat training: gradients, perturbation, coupling, projection."""
