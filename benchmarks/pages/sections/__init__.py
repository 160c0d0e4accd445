"""One file per section of a page: its tables, and what its text says."""
