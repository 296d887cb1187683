"""What is public stays: names with their signatures, and files of the revision in tests/data/fbcd90f that still load.

Its artifact (a small graph of the tests' own with a threshold), presets and settings of a line were written by that
revision's own code; good.png and bad.png are drawn by a program, and scores.json says what it made of them.
"""

import dataclasses
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest
import tomli_w

import edge_ad
import edge_ad.errors
import edge_ad.kernels
from edge_ad.artifact import Artifact, photo_key
from edge_ad.config import Config, read_section
from edge_ad.runtime.line.line import PLANT
from edge_ad.runtime.settings import read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests" / "data" / "fbcd90f"
API = ROOT / "tests" / "data" / "public_api.txt"  # with UPDATE_PUBLIC_API=1 the test writes it anew
EXTENSION_POINTS = {  # what CONTRIBUTING.md says to write a class of, or to call
    "edge_ad.config": ("Config",),
    "edge_ad.runtime.engines.runner": ("GraphRunner", "Outputs"),
    "edge_ad.runtime.sinks.base": ("Sink",),
    "edge_ad.runtime.sources.base": ("Picture", "Source", "SourceLost"),
    "edge_ad.synthesis.defects": ("DefectSource", "Triplet"),
}
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))


def public_api() -> str:
    """A line for each public name: functions and methods with signatures, fields with types."""
    errors = [name for name, kind in vars(edge_ad.errors).items() if isinstance(kind, type)]
    modules = {"edge_ad": edge_ad.__all__, "edge_ad.errors": errors, "edge_ad.kernels": edge_ad.kernels.__all__}
    lines: list[str] = []
    for module, names in {**modules, **EXTENSION_POINTS}.items():
        for name in sorted(names):
            value = getattr(importlib.import_module(module), name)
            lines += _describe(f"{module}.{name}", value)
    return "".join(f"{line}\n" for line in lines)


def _describe(name: str, value: object) -> list[str]:
    if isinstance(value, type):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        lines = [f"class {name}({bases})" if bases else f"class {name}"]
        fields = inspect.get_annotations(value)
        shown = {field: kind for field, kind in fields.items() if not field.startswith("_")}
        lines += [f"    {field}: {getattr(kind, '__forward_arg__', kind)}" for field, kind in shown.items()]
        own = {key: found for key, found in vars(value).items() if key not in fields}
        special = ("__call__",) if Protocol in value.__bases__ else ("__call__", "__init__")
        named = [key for key in own if not key.startswith("_") or key in special]
        return lines + [f"    {line}" for key in sorted(named) for line in _describe(key, own[key])]
    if isinstance(value, property):
        return [f"property {name} -> {inspect.get_annotations(value.fget).get('return')}"]
    value = getattr(value, "__func__", value)
    return [f"{name}{inspect.signature(value)}"] if callable(value) else [f"{name} = {type(value).__name__}"]


def test_public_names_and_signatures_stay():
    if os.environ.get("UPDATE_PUBLIC_API"):
        API.write_text(public_api(), encoding="utf-8")
    assert public_api() == API.read_text(encoding="utf-8"), "a change of the public API is said in CHANGELOG.md"


def test_the_package_carries_its_types():
    assert (Path(edge_ad.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        edge_ad.nothing_of_this_name  # noqa: B018


def test_every_name_that_the_guides_use_imports():
    named = set(re.findall(r"\bedge_ad((?:\.\w+)+)", PAGES))
    named |= {
        f".{module.partition('edge_ad.')[2]}.{name}" if "." in module else f".{name}"
        for module, names in re.findall(r"^from (edge_ad[.\w]*) import (.+)$", PAGES, re.MULTILINE)
        for name in names.split(", ")
    }
    assert ".load" in named
    for path in named:
        parts, found = path.strip(".").split("."), edge_ad
        for i, part in enumerate(parts):
            if not hasattr(found, part):
                importlib.import_module("edge_ad." + ".".join(parts[: i + 1]))
            found = getattr(found, part)


def test_an_old_artifact_judges_as_it_did(tmp_path):
    artifact = Artifact.open(shutil.copytree(OLD / "artifact", tmp_path / "artifact"))
    assert artifact.config.preset == "nano"
    assert artifact.trained_on() == {"0123456789abcdef"}
    expected = json.loads((OLD / "scores.json").read_text())
    with edge_ad.load(artifact.path, threads=1) as detector:
        assert detector.threshold == expected["threshold"]
        for name, anomalous in (("good", False), ("bad", True)):
            prediction = detector.predict(OLD / f"{name}.png")
            assert prediction.image_score == pytest.approx(expected[name], rel=1e-3)
            assert prediction.is_anomalous is anomalous
    artifact.update(reports={"again": {}})  # and may be written to
    assert Artifact.open(artifact.path).manifest.calibration == artifact.manifest.calibration
    assert len(photo_key(OLD / "good.png")) == 16


def test_old_weights_fit_the_detector():
    pytest.importorskip("torch")
    from edge_ad.model.detector import Detector

    detector = Detector(Config.from_toml(OLD / "nano.toml").model, (256, 256), None)
    tensors = {name: list(tensor.shape) for name, tensor in detector.state_dict().items()}
    assert tensors == json.loads((OLD / "nano_tensors.json").read_text())  # as that revision names them


@pytest.mark.parametrize("preset", ["edge", "nano", "paper"])
def test_old_training_settings_are_read(preset):
    written = tomllib.loads((OLD / f"{preset}.toml").read_text(encoding="utf-8"))
    read = tomllib.loads(tomli_w.dumps(Config.from_toml(OLD / f"{preset}.toml").to_dict()))
    for section, values in written.items():
        assert values == (read[section] if isinstance(values, str) else {key: read[section][key] for key in values})


def test_an_old_line_with_every_setting_is_read():
    settings = read_settings(OLD / "line.toml")
    assert set(settings.sink) == {"mqtt", "modbus", "modbus_client", "opcua", "gpio", "webhook", "prometheus"}
    for name, table in settings.sink.items():
        module, config, _ = PLANT[name]
        kind = getattr(importlib.import_module(f"edge_ad.runtime.sinks.{module}"), config)
        assert dataclasses.is_dataclass(read_section(kind, table, f"sink.{name}"))


def test_the_version_comes_from_one_place():
    done = subprocess.run([sys.executable, "-m", "edge_ad", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgead {edge_ad.__version__}\n"
    assert re.search(r'^dynamic = \["version"\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
