"""Triton: the cases under its interpreter, on a GPU where there is one, and every kernel compiled without one."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
CASES = Path(__file__).with_name("triton_cases.py")
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "compile_triton.py"


def run_cases(**environment):
    """In a process of its own, for Triton decides at import whether it interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_under_the_interpreter():
    run_cases(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@pytest.mark.cuda
def test_on_the_gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    run_cases(TRITON_INTERPRET="0")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compile_triton", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("architecture", [80, 86, 87, 89, 90, 120])
def test_every_kernel_compiles_without_a_gpu_and_spills_nothing(script, architecture):
    for name, layout, *rest in script.variants():
        if layout == "channels last" and architecture != 87:
            continue  # the script compiles the rest; one architecture keeps the test short
        row = script.compile_for(
            architecture, name, layout, *rest, "fp16" if script.takes_features(rest[0]) else "fp32"
        )
        assert 0 < row.registers <= 160
        assert row.spilled_bytes == 0
        assert row.shared_bytes <= 48 * 1024


def test_the_committed_table_covers_every_kernel(script):
    with script.RESULTS.open() as file:
        rows = [script.Row(**row) for row in csv.DictReader(file)]
    expected = {
        (name, layout, dtype, f"sm_{architecture}")
        for name, layout, kernel, *_ in script.variants()
        for dtype in (script.DTYPES if script.takes_features(kernel) else script.DTYPES[:1])
        for architecture in script.ARCHITECTURES
    }
    assert {(row.kernel, row.layout, row.dtype, row.architecture) for row in rows} == expected
    assert {row.spilled_bytes for row in rows} == {"0"}
