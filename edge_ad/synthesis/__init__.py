"""Synthetic defects: triplets (normal image, defective image, mask)."""
