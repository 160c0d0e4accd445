"""A model pruned block by block: walk, calibrate, allocate, solve or reconstruct."""
