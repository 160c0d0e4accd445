"""Which shape? One file per structure."""
