"""From scores of good parts to ranges and thresholds."""
