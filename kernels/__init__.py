"""The difference maps and the Top-K score: definitions, and fast versions of them on GPU and CPU."""
