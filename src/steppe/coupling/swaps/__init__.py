"""The search for the pair of weights of a row whose exchange lowers its error most."""
