"""Packages that are called like verbs: `edge_ad.calibrate(...)` and `edge_ad.export(...)`.

Both names are packages, and Python puts a package in the place of a function of its name as soon as something is
imported from it. So the packages themselves can be called, whichever was imported first.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _VerbPackage(ModuleType):
    """A package that hands a call on to the function of its name in edge_ad.pipeline."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(f"edge_ad.pipeline.{name}"), name)(*args, **options)


def callable_package(name: str) -> None:
    """Let the package `name` be called; the function is imported by the first call."""
    sys.modules[name].__class__ = _VerbPackage
