"""Packages that only some lines need: imported when asked for, and named when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from edge_ad.errors import BackendError


def need(module: str, *, why: str, install: str = "'edge-ad[plant]'") -> Any:
    """The imported module.

    Raises BackendError, naming what to install, where it can't be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f"{why} needs the Python package '{module.split('.')[0]}': {error}",
            f"pip install {install}",
        ) from error
