"""What the budgets share that try candidates out: widths of the right cost, each tried once."""
