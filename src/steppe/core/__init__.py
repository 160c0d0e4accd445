"""The vocabulary: protocols, selection, masks, registry, errors. Imports no part."""
