"""Watch: what looks at a running line, its health and the drift of its parts."""
