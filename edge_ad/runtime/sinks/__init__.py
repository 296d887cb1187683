"""Sinks: where verdicts go, each in a thread of its own, behind a store that loses none."""
