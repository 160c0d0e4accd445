"""Removal of channels: groups of coupled channels, their costs, surgery on the network."""
