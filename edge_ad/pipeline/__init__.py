"""The ways of a photo, one file each; every step is one function of the rooms below."""
