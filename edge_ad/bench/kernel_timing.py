"""How `edgead bench kernels` times the cases of edge_ad.bench.kernel_cases: the clock, and the files after.

Times on a GPU are CUDA events around replays of a CUDA graph where the call can be captured, so that they are the
device's and not Python's. On a CPU they are wall-clock times of whole calls, as a user has them.
"""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_ad import kernels
from edge_ad.bench.kernel_cases import Call, Case, backends, bytes_moved, check, inputs, ours, to_arrays
from edge_ad.bench.rows import device_name, revision
from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.optional import need

COLUMNS = (
    *("date", "revision", "device", "threads", "backend", "versions", "operation", "shape", "dtype"),
    *("p20_ms", "p50_ms", "p80_ms", "gb_per_s", "of_copy", "floor_ms", "vs_eager"),
)


@dataclass(frozen=True)
class Setup:
    """Where and how everything is timed."""

    device: str
    device_name: str
    threads: int
    dtype: str
    copy: dict[str, float] = field(default_factory=dict)  # bytes read and written -> GB/s, filled when needed

    @classmethod
    def of(cls, device: str, threads: int, dtype: str) -> Setup:
        """Check the words of the command line and set the threads of every backend."""
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"there is no device {device!r}", hint="auto, cpu or cuda")
        if dtype not in ("float32", "float16", "bfloat16"):
            raise ConfigError(f"there is no element type {dtype!r} here", hint="float32, float16 or bfloat16")
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            raise BackendError("torch finds no CUDA device", hint="--device cpu")
        device = "cuda" if device != "cpu" and there else "cpu"
        if device == "cpu" and dtype != "float32":
            raise ConfigError(f"{dtype} is timed on a GPU only", hint="leave --dtype out")
        torch.set_num_threads(threads)
        kernels.set_threads(threads)
        return cls(
            device, torch.cuda.get_device_name() if there and device == "cuda" else device_name(), threads, dtype
        )

    def copy_rate(self, count: int) -> float:
        """GB/s of copying `count` bytes, read and written, on this device: the speed nothing can pass by much."""
        key = str(count)
        if key not in self.copy:
            source = torch.ones(max(count // 8, 1), dtype=torch.float32, device=self.device)
            target = torch.empty_like(source)
            p50 = time_call(lambda: target.copy_(source), self, repeats=30, seconds=0.3)[1]
            self.copy[key] = 8 * source.numel() / p50 / 1e6
        return self.copy[key]

    def copy_note(self) -> str:
        """The rate for data larger than any cache."""
        return f"{self.copy_rate((1 << 30) if self.device == 'cuda' else (1 << 27)):.1f} GB/s"


def measure(
    case: Case, setup: Setup, *, only: list[str] | None, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """Rows of one case, each backend's; raises BackendError if a result is wrong, before anything is timed."""
    given = inputs(case, setup.device, setup.dtype)
    calls = {b: c for b, c in backends(case, given, setup.device).items() if not only or b in (*only, "eager")}
    exact = exact_result(case, given)
    for name, call in calls.items():
        with forced_backend(name):
            check(name, case, [part[: case.checked] for part in to_arrays(call())] if case.large else call(), exact)
    rows = []
    for name, call in calls.items():
        with forced_backend(name):
            times = time_call(call, setup, repeats=repeats, seconds=seconds)
            floor = read_write_ms(call, given, sum(x.size for x in exact), seconds) if name == "cpp" else None
        rows.append(row_of(case, setup, name, times, bytes_moved(case, given, exact)) | {"floor_ms": floor})
    eager = next((row["p50_ms"] for row in rows if row["backend"] == "eager"), None)
    gains = ({"vs_eager": round(eager / row["p50_ms"], 3) if eager else None} for row in rows)
    full = [row | gain for row, gain in zip(rows, gains, strict=True)]
    return [row for row in full if not only or row["backend"] in only]


@contextmanager
def forced_backend(name: str) -> Iterator[None]:
    """Set EDGE_AD_BACKEND while a row of edge_ad.kernels is timed; rows of plain torch have none."""
    with _environment("EDGE_AD_BACKEND", name if name in ("cpp", "numpy", "triton") else None), torch.no_grad():
        yield


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.pop(name, None)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def exact_result(case: Case, given: list[torch.Tensor]) -> list[np.ndarray[Any, Any]]:
    """The exact result: NumPy's definition in float64 of the inputs as backends get them; of large cases a part."""
    checked = [x[: case.checked] for x in given] if case.large else given
    exact = [x.double().cpu().numpy() if x.is_floating_point() else x.numpy() for x in checked]
    with forced_backend("numpy"):
        return to_arrays(ours(case, exact))


def read_write_ms(call: Call, given: list[torch.Tensor], written: int, seconds: float) -> float:
    """Median milliseconds of reading the inputs and writing `written` floats on one thread, computing nothing.

    Between calls of the kernel, since other programs share the memory and its speed changes by the second. Reads are
    torch's sum, which runs at the speed of the memory and, over bytes, through a view of them as floats; writes fill
    the same place each time, so that the system need not find memory for it.
    """
    views = [x if x.is_floating_point() else x.flatten()[: x.numel() // 4 * 4].view(torch.float32) for x in given]
    result = torch.empty(written)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        call()
        before = time.perf_counter()
        for view in views:
            view.sum()
        result.fill_(1)
        times.append((time.perf_counter() - before) * 1e3)
    return round(float(np.median(times)), 5)


def time_call(call: Call, setup: Setup, *, repeats: int, seconds: float) -> tuple[float, float, float]:
    """Milliseconds a call, 20th, 50th and 80th percentile."""
    for _ in range(3):
        call()
    if setup.device == "cuda":
        times = _cuda_times(call, repeats, seconds)
    else:
        times, start = [], time.perf_counter()
        while len(times) < 3 or (len(times) < repeats and time.perf_counter() - start < seconds):
            before = time.perf_counter()
            call()
            times.append((time.perf_counter() - before) * 1e3)
    p20, p50, p80 = np.percentile(times, [20, 50, 80])
    return float(p20), float(p50), float(p80)


def _cuda_times(call: Call, repeats: int, seconds: float) -> list[float]:
    """CUDA events around graph replays, ten a pair of events; around plain calls if capture is refused."""
    run: Call = call
    try:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            kept = call()
        run = graph.replay
        del kept
    except RuntimeError:
        torch.cuda.synchronize()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or (len(times) < repeats and time.perf_counter() - start < seconds):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(10):
            run()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 10)
    return times


def row_of(case: Case, setup: Setup, backend: str, times: tuple[float, float, float], count: int) -> dict[str, Any]:
    """One row of the CSV, less what compares it; `count` bytes must be read or written."""
    rate = count / times[1] / 1e6
    p20, p50, p80 = (round(value, 5) for value in times)
    return {
        "date": datetime.date.today().isoformat(),
        "revision": revision(),
        "device": setup.device_name,
        "threads": setup.threads,
        "backend": backend,
        "versions": f"python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}",
        "operation": case.operation,
        "shape": case.shape,
        "dtype": setup.dtype,
        "p20_ms": p20,
        "p50_ms": p50,
        "p80_ms": p80,
        "gb_per_s": round(rate, 3),
        "of_copy": round(rate / setup.copy_rate(count), 4),
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write bars of the median times, logarithmic, a block for each operation and shape.

    path: .png, .svg or .pdf. Raises BackendError without matplotlib.
    """
    figure = need("matplotlib.figure", why="a chart", install="matplotlib").Figure(layout="constrained")
    blocks = list(dict.fromkeys(f"{row['operation']} {row['shape']}" for row in rows))
    names = list(dict.fromkeys(row["backend"] for row in rows))
    figure.set_size_inches(11, 1 + 0.13 * len(blocks) * (len(names) + 1))
    axis = figure.subplots()
    for i, name in enumerate(names):
        own = [row for row in rows if row["backend"] == name]
        places = [blocks.index(f"{row['operation']} {row['shape']}") + (i + 1) / (len(names) + 1) for row in own]
        bars = axis.barh(places, [row["p50_ms"] for row in own], 0.9 / (len(names) + 1), label=name)
        axis.bar_label(bars, fmt="%.3g", fontsize=6, padding=2)
    axis.set_yticks([place + 0.5 for place in range(len(blocks))], blocks, fontsize=7)
    axis.set(ylim=(len(blocks), 0), xscale="log", xlabel="median ms, shorter is better")
    axis.set_title(f"{rows[0]['device']}, {rows[0]['threads']} threads", fontsize=9)
    axis.legend(fontsize=7)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be written: {error}", "name a file that ends in .png") from error
