"""Channels that are really gone: what is coupled, what it costs, surgery."""
