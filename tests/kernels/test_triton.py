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


@pytest.mark.parametrize("architecture", [80, 86, 87, 89, 90, 100, 120])
def test_every_kernel_compiles_without_a_gpu_and_spills_nothing(script, architecture):
    dtype = {80: "fp32", 90: "bf16"}.get(architecture, "fp16")  # the script compiles the rest
    for name, layout, kind, *rest in script.variants():
        if kind == dtype and (layout.startswith("768") or architecture == 80):
            row = script.compile_for(architecture, name, layout, kind, *rest)
            assert 0 < row.registers <= 65536 // (32 * row.warps)
            assert row.spilled_bytes == 0
            assert row.shared_bytes <= 48 * 1024
            if rest[0].arg_names[0].startswith("T"):  # features are read 16 bytes at a time
                assert row.loads_of_16_bytes >= 4


def test_the_committed_table_covers_every_kernel(script):
    with script.RESULTS.open() as file:
        rows = [script.Row(**row) for row in csv.DictReader(file)]
    expected = {
        (*variant[:3], f"sm_{architecture}") for variant in script.variants() for architecture in script.ARCHITECTURES
    }
    assert {(row.kernel, row.layout, row.dtype, row.architecture) for row in rows} == expected
    assert {row.spilled_bytes for row in rows} == {"0"}
