"""Page: what the operator sees in a browser."""
