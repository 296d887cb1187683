"""The error tree.

EdgeAdError
├── ConfigError     a setting is unknown, of the wrong type or out of range
├── DataError       images, masks or folders that can't be used
├── ArtifactError   a trained detector on disk that is missing, damaged, foreign or too new
└── BackendError    a kernel, engine, device or peer that can't run here or stopped running
"""

from __future__ import annotations


class EdgeAdError(Exception):
    """What went wrong and with what value; `hint` says what to do next.

    The command line prints `error: <message>` and `hint: <hint>` and exits with 1.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(EdgeAdError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(EdgeAdError):
    """Images, masks or folders that can't be used."""


class ArtifactError(EdgeAdError):
    """A trained detector on disk that is missing, damaged, foreign or too new."""


class BackendError(EdgeAdError):
    """A kernel, engine, device or peer that can't run here or stopped running."""
