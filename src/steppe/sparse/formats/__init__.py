"""Formats of sparse matrices, one a file; `steppe.sparse.format.FORMATS` finds them."""
