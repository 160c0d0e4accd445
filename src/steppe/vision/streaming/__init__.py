"""Images that stay on disk and are decoded batch by batch, by worker processes."""
