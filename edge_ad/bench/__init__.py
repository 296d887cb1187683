"""Bench: how fast the kernels, the graphs and the running loop are."""
