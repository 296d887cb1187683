"""What is public stays: names that import, and files of the revision in tests/data/fbcd90f that still load.

Its artifact (a small graph of the tests' own with a threshold), presets and settings of a line were written by that
revision's own code; good.png and bad.png are drawn by a program, and scores.json says what it made of them.
"""

import dataclasses
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

import edge_ad
from edge_ad.artifact import Artifact, photo_key
from edge_ad.config import PRESETS, Config, read_section
from edge_ad.runtime.line.line import PLANT
from edge_ad.runtime.settings import read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests" / "data" / "fbcd90f"
PUBLIC = {
    "edge_ad": {"Prediction", "Predictor", "__version__", "ablate", "load", "synth", "train"},
    "edge_ad.errors": {"EdgeAdError", "ConfigError", "DataError", "ArtifactError", "BackendError"},
}
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize(("module", "names"), PUBLIC.items())
def test_public_names_import(module, names):
    imported = importlib.import_module(module)
    assert {name for name in names if not hasattr(imported, name)} == set()


def test_the_package_names_what_is_public():
    assert set(edge_ad.__all__) == PUBLIC["edge_ad"]
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


@pytest.mark.parametrize("preset", PRESETS)
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
