"""What `edgead bench kernels` times: operations, shapes, backends, the check before, the clock, the files after.

Times on a GPU are CUDA events around replays of a CUDA graph where the call can be captured, so that they are the
device's and not Python's. On a CPU they are wall-clock times of whole calls, as a user has them.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import typer

from edge_ad import kernels
from edge_ad.errors import BackendError, ConfigError

SIZE, K = (256, 256), 100
COLUMNS = (
    *("date", "revision", "device", "threads", "backend", "versions", "operation", "shape", "dtype"),
    *("p20_ms", "p50_ms", "p80_ms", "gb_per_s", "of_copy", "vs_eager"),
)
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One operation on features [B,C,h,w] of every layer; topk_mean takes maps [B,256,256] alone."""

    operation: str
    batch: int
    layers: tuple[tuple[int, int], ...] = ()  # channels, side

    @property
    def shape(self) -> str:
        if not self.layers:
            return f"B{self.batch} {SIZE[0]}x{SIZE[1]}"
        return f"B{self.batch} " + "+".join(f"{c}x{side}x{side}" for c, side in self.layers)


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
        return cls(device, torch.cuda.get_device_name() if there and device == "cuda" else cpu_name(), threads, dtype)

    def copy_rate(self, count: int) -> float:
        """GB/s of copying `count` bytes, read and written, on this device: the speed nothing can pass by much."""
        key = str(count)
        if key not in self.copy:
            source = torch.ones(max(count // 8, 1), dtype=torch.float32, device=self.device)
            target = torch.empty_like(source)
            p50 = clock(lambda: target.copy_(source), self, repeats=30, seconds=0.3)[1]
            self.copy[key] = 8 * source.numel() / p50 / 1e6
        return self.copy[key]

    def copy_note(self) -> str:
        """The rate for data larger than any cache."""
        return f"{self.copy_rate((1 << 30) if self.device == 'cuda' else (1 << 27)):.1f} GB/s"


def cases(*, quick: bool) -> list[Case]:
    """Realistic shapes: three taps of a small ViT or a pyramid of a CNN, one image or many."""
    if quick:
        return [Case("cosine_map", 1, ((192, 16),)), Case("fused_score", 1, ((192, 16),) * 3), Case("topk_mean", 1)]
    same = [((192, 16),) * 3, ((384, 16),) * 3, ((192, 64),) * 3, ((384, 28),) * 3, ((768, 32),) * 3]
    pyramid = ((192, 64), (384, 32), (768, 16))
    result = [Case("fused_score", batch, layers) for batch in (1, 8) for layers in [*same, pyramid]]
    result += [Case("fused_score", 32, layers) for layers in (((384, 16),) * 3, ((384, 28),) * 3)]
    result += [Case("cosine_map", batch, (layer,)) for batch in (1, 8, 32) for layer in ((384, 28), (192, 64))]
    return result + [Case("topk_mean", batch) for batch in (1, 8, 32)]


def measure(
    case: Case, setup: Setup, *, only: list[str] | None, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """Rows of one case, each backend's; raises BackendError if a result is wrong."""
    data = inputs(case, setup)
    exact = definition(case, data)
    rows = []
    for name, call in backends(case, data, setup).items():
        if only and name not in only and name != "eager":
            continue
        with forced(name):
            check(name, case, call(), exact)
            times = clock(call, setup, repeats=repeats, seconds=seconds)
        rows.append(row_of(case, setup, name, times))
    eager = next(row["p50_ms"] for row in rows if row["backend"] == "eager")
    return [row | {"vs_eager": eager / row["p50_ms"]} for row in rows if not only or row["backend"] in only]


def inputs(case: Case, setup: Setup) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Features of a good detector: the student near the teacher, with a fixed seed."""
    make = torch.Generator().manual_seed(0)
    dtype = getattr(torch, setup.dtype)
    pairs = []
    for channels, side in case.layers or ((1, SIZE[0]),):
        teacher = torch.randn(case.batch, channels, side, side, generator=make)
        student = teacher + 0.5 * torch.randn(teacher.shape, generator=make)
        pairs.append((teacher.to(setup.device, dtype), student.to(setup.device, dtype)))
    return pairs


def backends(case: Case, pairs: list[tuple[torch.Tensor, torch.Tensor]], setup: Setup) -> dict[str, Call]:
    """Every backend's call of the same work on the same numbers."""
    plain = functools.partial(eager, case.operation, pairs)
    compiled = torch.compile(
        eager, dynamic=False, mode="max-autotune-no-cudagraphs" if setup.device == "cuda" else None
    )
    calls: dict[str, Call] = {"eager": plain, "compile": functools.partial(compiled, case.operation, pairs)}
    if setup.device == "cuda":
        return {"triton": functools.partial(ours, case.operation, pairs)} | calls
    arrays = [(t.numpy(), s.numpy()) for t, s in pairs]
    named = {name: functools.partial(ours, case.operation, arrays) for name in ("cpp", "numpy")}
    available = kernels.available_backends()
    return {name: call for name, call in named.items() if not available[name]} | calls


def ours(operation: str, pairs: list[tuple[Any, Any]]) -> Any:
    """The operation as edge_ad.kernels does it, on tensors or arrays."""
    if operation == "cosine_map":
        return kernels.cosine_map(*pairs[0])
    if operation == "topk_mean":
        return kernels.topk_mean(pairs[0][0], K)
    return kernels.fused_score([t for t, _ in pairs], [s for _, s in pairs], size=SIZE, k=K)


def eager(operation: str, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """The operation as one writes it in torch: three sums for the cosine, which torch runs faster than its own
    cosine_similarity, then interpolate and topk."""
    if operation == "topk_mean":
        return pairs[0][0].float().flatten(1).topk(K, 1).values.mean(1)
    maps = []
    for teacher, student in pairs:
        t, s = teacher.float(), student.float()
        maps.append(1 - (t * s).sum(1) / ((t * t).sum(1) * (s * s).sum(1)).clamp_min(1e-12).sqrt())
    if operation == "cosine_map":
        return maps[0]
    total = torch.zeros(())
    for index, one in enumerate(maps):
        large = F.interpolate(one[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0]
        total = large if index == 0 else total + large
    pixel_scores = total / len(maps)
    return pixel_scores, pixel_scores.flatten(1).topk(K, 1).values.mean(1)


@contextmanager
def forced(name: str) -> Iterator[None]:
    """EDGE_AD_BACKEND for ours; torch's own rows have none."""
    with _environment("EDGE_AD_BACKEND", name if name in ("cpp", "numpy", "triton") else None), torch.no_grad():
        yield


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    import os

    before = os.environ.pop(name, None)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def definition(case: Case, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[np.ndarray[Any, Any]]:
    """The exact result: NumPy's definition in float64 of the numbers as the backends get them."""
    with forced("numpy"):
        return flat(ours(case.operation, [(t.double().cpu().numpy(), s.double().cpu().numpy()) for t, s in pairs]))


def check(name: str, case: Case, result: Any, exact: list[np.ndarray[Any, Any]]) -> None:
    """Raise BackendError unless the result is the definition's, to float32's rounding over a sum of channels."""
    for given, expected in zip(flat(result), exact, strict=True):
        worst = float(np.max(np.abs(given - expected), initial=0.0)) if given.shape == expected.shape else np.inf
        if not worst <= 1e-5:
            raise BackendError(
                f"{name} is wrong: {case.operation} {case.shape} is off by {worst:.2g}",
                hint="run the kernels' tests; nothing of this case was timed",
            )


def flat(result: Any) -> list[np.ndarray[Any, Any]]:
    """Arrays of a result, whatever the backend."""
    parts = result if isinstance(result, tuple) else (result,)
    return [p.detach().cpu().numpy() if isinstance(p, torch.Tensor) else p for p in parts]


def clock(call: Call, setup: Setup, *, repeats: int, seconds: float) -> tuple[float, float, float]:
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


def row_of(case: Case, setup: Setup, backend: str, times: tuple[float, float, float]) -> dict[str, Any]:
    """One row of the CSV. The bytes are those that must be touched: features or maps in, results out."""
    width = 2 if setup.dtype != "float32" else 4
    read = sum(2 * case.batch * c * side * side * width for c, side in case.layers)
    read = read or case.batch * SIZE[0] * SIZE[1] * width
    pixels = case.batch * SIZE[0] * SIZE[1] * 4 if case.operation == "fused_score" else 0
    maps = sum(case.batch * side * side * 4 for _, side in case.layers) if case.operation == "cosine_map" else 0
    count = read + pixels + maps
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


def write_csv(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Append rows to the file, with the columns' names if it is new; to standard output if there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if path is None or not path.exists():
        writer.writeheader()
    writer.writerows({key: round(v, 3) if key == "vs_eager" else v for key, v in row.items()} for row in rows)
    if path is None:
        typer.echo(text.getvalue(), nl=False)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text.getvalue())


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the median times, one a row, on a logarithmic scale, grouped by operation and shape."""
    import cv2

    shades = {"cpp": (60, 130, 20), "triton": (60, 130, 20), "numpy": (190, 140, 70), "eager": (90, 90, 200)}
    line, left, width = 22, 430, 1100
    picture = np.full((line * (len(rows) + 1) + 20, width, 3), 255, np.uint8)
    low = np.log10(min(row["p50_ms"] for row in rows)) - 0.3
    high = np.log10(max(row["p80_ms"] for row in rows)) + 0.05
    put = functools.partial(
        cv2.putText, picture, fontFace=cv2.FONT_HERSHEY_SIMPLEX, color=(0, 0, 0), lineType=cv2.LINE_AA
    )
    title = f"{rows[0]['device']}, {rows[0]['threads']} threads: median ms, logarithmic, shorter is better"
    put(text=title, org=(8, 16), fontScale=0.45)

    def across(ms: float) -> int:
        return left + int((np.log10(ms) - low) / (high - low) * (width - left - 90))

    for index, row in enumerate(rows):
        y = line * (index + 1) + 8
        label = f"{row['operation']} {row['shape']}"
        if index == 0 or label != f"{rows[index - 1]['operation']} {rows[index - 1]['shape']}":
            put(text=label, org=(8, y + 12), fontScale=0.38)
        put(text=row["backend"], org=(left - 62, y + 12), fontScale=0.38)
        shade = shades.get(row["backend"], (150, 150, 150))
        cv2.rectangle(picture, (left, y + 2), (across(row["p50_ms"]), y + line - 6), shade, -1)
        put(text=f"{row['p50_ms']:.3g}", org=(across(row["p50_ms"]) + 5, y + 13), fontScale=0.38)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture):
        raise ConfigError(f"{path} can't be written", hint="the name must end in .png")


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def revision() -> str:
    """The checkout's commit, with + if files differ from it; empty outside of a checkout."""
    here = Path(__file__).resolve().parents[2]
    run = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, check=False)
    try:
        commit = run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        return commit + ("+" if commit and run(["git", "diff", "--quiet", "HEAD"]).returncode else "")
    except OSError:
        return ""
