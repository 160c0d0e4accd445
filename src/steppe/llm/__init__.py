"""Language models: pruned block by block, kept sparse, measured, exported."""
