"""From a trained detector to graphs and engines."""
