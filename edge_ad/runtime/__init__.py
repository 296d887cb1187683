"""The inspector on the line: no torch here. tests/test_layers.py says which room may import which."""
