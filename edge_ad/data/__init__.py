"""Data folders and images: the readers and the only preprocessing."""
