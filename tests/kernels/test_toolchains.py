"""The C++ kernels under sanitizers, and built for the CPU of a Jetson."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_ad.kernels import reference

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "kernels" / "csrc"


def test_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    pytest.importorskip("pybind11")
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    command = ["sh", str(HERE / "sanitize.sh"), sys.executable, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_runs_on_aarch64(tmp_path):
    """Cross-compiled with NEON by the compiler; run as well where an emulator is installed."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("there is no aarch64-linux-gnu-g++ (Debian's g++-aarch64-linux-gnu)")
    sources = [str(path) for path in sorted(CSRC.glob("*.cpp")) if path.name != "module.cpp"]
    program = tmp_path / "probe"
    flags = [
        "-std=c++17",
        "-O3",
        "-fopenmp-simd",
        "-fno-math-errno",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-static",
        "-pthread",
    ]
    subprocess.run([compiler, *flags, f"-I{CSRC}", *sources, str(HERE / "probe.cpp"), "-o", str(program)], check=True)
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("compiled, but there is no qemu-aarch64 to run it")
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, check=True)
    channels, side = 7, 3
    i = np.arange(channels * side * side, dtype=np.float64).reshape(1, channels, side, side)
    options = {"size": (20, 20), "combine_by": "mean", "weights": (1.0,), "sigma": 0.0, "k": 5}
    expected = reference.fused_score([np.sin(i)], [np.cos(3 * i)], **options, return_pixel_scores=False, eps=1e-6)
    assert float(done.stdout) == pytest.approx(expected.image_score[0], rel=1e-5)
