"""Proof before a camera may reject parts: what is found, how sure that is, how steady, and who measured it."""
