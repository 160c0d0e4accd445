"""Kernels for GPUs, written in Triton; nothing here is imported where there is no GPU."""
