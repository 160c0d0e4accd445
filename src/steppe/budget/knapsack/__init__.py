"""Knapsacks over the widths of coupled channels, which the latency budgets solve."""
