"""The device runtime stays small: what `edgead run` imports needs no torch and no training packages."""

import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

HEAVY = (
    "torch",
    "timm",
    "diffusers",
    "accelerate",
    "onnx",
    "PIL",
    "scipy",
    "sklearn",
    "skimage",
    "triton",
    "matplotlib",
)
TORCH_FREE = (
    "edge_ad",
    "edge_ad.artifact",
    "edge_ad.config",
    "edge_ad.metrics",
    "edge_ad.kernels",
    "edge_ad.data.images",
    "edge_ad.data.samples",
    "edge_ad.pipeline.explain",
    "edge_ad.runtime.engines.runner",
    "edge_ad.runtime.explain.picture",
    "edge_ad.runtime.predictor",
    "edge_ad.report",
    "edge_ad.runtime.sinks.store",
    "edge_ad.training.photos",
    "edge_ad.calibrate.calibration",
    "edge_ad.cli",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_runtime_imports_nothing_heavy(module):
    blocked = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\nimport {module}"
    done = python(blocked)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy():
    code = (
        f"import sys\nfor name in {(*HEAVY, 'numpy', 'cv2', 'onnxruntime')!r}: sys.modules[name] = None\n"
        "from edge_ad.cli import main\nmain(['--help'])"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "calibrate" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [(["--version"], 0, "edgead"), (["nope"], 2, "nope"), (["compare"], 2, "Missing"), ([], 2, "")],
)
def test_exit_codes(arguments, code, says):
    done = python(f"from edge_ad.cli import main; main({arguments!r})")
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_one_line_and_a_hint(tmp_path):
    words = f"'run', '{tmp_path}/none', '--source', '{tmp_path}'"
    done = python(f"from edge_ad.cli import main; main([{words}])")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    debug = python(f"from edge_ad.cli import main; main(['--debug', {words}])")
    assert "Traceback" in debug.stderr


def test_every_file_of_a_page_is_packaged():
    """An editable install finds them anyway; a wheel only where pyproject.toml names the folder."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "edge_ad").rglob("static")}
    assert folders == {"edge_ad.report", "edge_ad.runtime.page"}
    assert all(named.get(folder) == ["static/*"] for folder in folders)
