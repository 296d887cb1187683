"""The inspector on the line: no torch here."""
