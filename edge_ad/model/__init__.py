"""Teacher, student, head and the detector they make."""
