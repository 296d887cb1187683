"""A settings file with every field explained: what `edgead run --example-settings` prints."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from typing import Any

import tomli_w

from edge_ad.runtime.line.line import PLANT, HealthSettings, RecalibrationSettings
from edge_ad.runtime.page.server import PageConfig
from edge_ad.runtime.settings import TABLES, RegionSettings, RunSettings
from edge_ad.runtime.watch.drift import DriftConfig

AROUND = {"page": PageConfig, "health": HealthSettings, "drift": DriftConfig, "recalibration": RecalibrationSettings}


def example_toml() -> str:
    """Every field, its default and what it means; tables that switch something on are comments."""
    lines = ["# Settings of `edgead run ARTIFACT --settings FILE`. Every value is the default; delete what you keep."]
    _explain(RunSettings(), "", lines)
    lines += [
        "",
        "# What follows is off until its table is there; an empty table switches it on with these defaults.",
    ]
    for name, kind in AROUND.items():
        lines += ["", *_table(name, kind)]
    for name, (module, config, _) in PLANT.items():
        lines += [
            "",
            *_table(f"sink.{name}", getattr(importlib.import_module(f"edge_ad.runtime.sinks.{module}"), config)),
        ]
    return "\n".join(lines) + "\n"


def _explain(section: Any, where: str, lines: list[str]) -> None:
    tables = []
    for item in dataclasses.fields(section):
        value, text = getattr(section, item.name), _help(type(section), item.name)
        inner = f"{where}.{item.name}" if where else item.name
        if dataclasses.is_dataclass(value):
            tables.append((f"[{inner}]", value, inner, text))
        elif item.name == "station":
            tables.append(("[[station]]", value[0], inner, text))
        elif item.name == "regions":
            tables.append(("[[station.policy.regions]]", RegionSettings(), inner, text))
        elif item.name in TABLES:
            lines.append(f"# [{item.name}{'.NAME' if item.name == 'sink' else ''}]: {text}")
        else:
            lines.append(f"# {text}")
            absent = value is None
            pair = _pair(item.name, _of_type(type(section), item.name) if absent else value)
            lines.append(f"# {pair}" if absent else pair)
    for header, value, inner, text in tables:
        comment = "# " if header == "[[station.policy.regions]]" else ""  # an example, not a default
        lines += ["", f"# {text}", f"{comment}{header}"]
        block: list[str] = []
        _explain(value, inner, block)
        lines += [comment + line if comment else line for line in block]


def _table(name: str, kind: type) -> list[str]:
    """A table that is off by default, as comments."""
    lines = [f"# [{name}]  # {(kind.__doc__ or '').splitlines()[0]}"]
    for item in dataclasses.fields(kind):
        value = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        shown = _of_type(kind, item.name) if value is None else value
        mark = "# # " if value is None else "# "
        lines.append(f"{mark}{_pair(item.name, shown)}  # {_help(kind, item.name)}")
    return lines


def _help(section: type, name: str) -> str:
    return str(typing.get_type_hints(section, include_extras=True)[name].__metadata__[0])


def _pair(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{name} = {{}}"
    return tomli_w.dumps({name: value}, multiline_strings=False).strip().replace("\n", "").replace("    ", " ")


def _of_type(section: type, name: str) -> Any:
    """A value of the right type for a field whose default is absent."""
    hint = typing.get_type_hints(section)[name]
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    kind = kinds[0]
    return [0] * len(typing.get_args(kind)) if typing.get_origin(kind) is tuple else kind(0)
