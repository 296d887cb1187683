"""From a folder of good-part photos to a defect inspector running on the line."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
