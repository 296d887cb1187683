"""`make system`: no apt where nothing is missing, one line where something can't be had; no silent skips in CI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("system.sh")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell script")


@pytest.fixture
def system(tmp_path):
    """system(path, apt): runs the script where only `path` has programs, with an apt-get that does as `apt` says."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "mktemp", "env", "grep", "tail", "cut", "rm"):
        (programs / name).symlink_to(shutil.which(name))
    calls = tmp_path / "calls"

    def run(more=(), apt="exit 0", root=True):
        for name in more:
            (programs / name).symlink_to("/bin/true")
        for name, code in (("apt-get", f'echo "$@" >> {calls}; {apt}'), ("id", f"echo {0 if root else 1000}")):
            (programs / name).write_text(f"#!/bin/sh\n{code}\n")
            (programs / name).chmod(0o755)
        environment = {"PATH": str(programs), "PYTHON": sys.executable}
        done = subprocess.run(["sh", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.splitlines(), calls.read_text().splitlines() if calls.exists() else []

    return run


def test_what_cannot_be_had_is_one_line_with_apts_reason(system):
    words, calls = system(apt="echo 'E: Unable to locate package chromium'; exit 100")
    assert len(words) == 2
    assert words[0].startswith("installing with apt: ")
    assert words[1].startswith("not installed: ")
    assert "Unable to locate package chromium" in words[1]
    for package in ("g++", "chromium", "chromium-driver", "g++-aarch64-linux-gnu", "qemu-user"):
        assert package in words[0].split(), words
        assert any(call.endswith(f" {package}") for call in calls), "after all together failed, each alone"


def test_without_rights_no_apt_is_called(system):
    words, calls = system(root=False)
    assert calls == []
    assert len(words) == 1
    assert "sudo make system" in words[0]


def test_what_is_there_is_not_asked_for(system):
    there = ("g++", "chromium", "chromedriver", "aarch64-linux-gnu-g++", "qemu-x86_64", "qemu-aarch64", "mosquitto")
    words, calls = system(there, apt="exit 100")
    for package in (*there, "qemu-user", "chromium-driver"):
        assert not any(package in line.split() for line in words + calls)


SKIPS = """
import pytest

def test_broker():
    pytest.skip("the program mosquitto is not installed")

@pytest.mark.skipif(True, reason="there is no browser")
def test_browser(): pass

def test_gpu():
    pytest.skip("there is no CUDA device")

def test_wheel():
    pytest.skip("the wheel can't be downloaded here")
"""


@pytest.mark.parametrize("required", ["", "system"])
def test_ci_fails_where_a_test_is_skipped_for_want_of_a_system_package(tmp_path, required):
    shutil.copy(SCRIPT.with_name("conftest.py"), tmp_path)
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')")
    environment = {**os.environ, "EDGE_AD_REQUIRE": required, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        ".",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    failed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))}
    if required:
        assert done.returncode == 1
        assert failed == {"test_module.py", "test_skips.py::test_broker", "test_skips.py::test_browser"}
        assert "mosquitto is not installed; EDGE_AD_REQUIRE=system makes this skip a failure" in done.stdout
    else:
        assert done.returncode == 0
        assert not failed
