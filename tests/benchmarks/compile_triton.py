"""Compile every Triton kernel for GPUs that need not be here, and tell what each takes of one.

    python tests/benchmarks/compile_triton.py    writes results/triton_resources.csv

Registers a thread, bytes spilled to local memory a thread, and bytes of shared memory a block, from the compiled
binary. Nothing is run or timed.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from edge_ad.kernels import triton_kernels as kernels
from edge_ad.kernels.triton_fused import fused_score_kernel

ARCHITECTURES = {
    **{80: "A100, A800", 86: "RTX 30, A10", 87: "Jetson Orin", 89: "RTX 40, L4", 90: "H100, H200"},
    120: "RTX 50",
}
DTYPES = ("fp32", "fp16", "bf16")
RESULTS = Path(__file__).parent / "results" / "triton_resources.csv"
TILES = {"channels first": ((128, 8, 4), {"t_p": 1, "s_p": 1}), "channels last": ((8, 128, 4), {"t_c": 1, "s_c": 1})}


class Row(NamedTuple):
    kernel: str
    layout: str
    dtype: str
    architecture: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    triton: str


def variants() -> Iterator[tuple[str, str, Any, dict[str, Any], int]]:
    """Name, layout, kernel, values fixed at compile time, warps."""
    for name in ("cosine_map", "cosine_map_gradient", "head_input", "head_input_gradient"):
        for layout, ((p, c, warps), ones) in TILES.items():
            fixed = {"BLOCK_P": p, "BLOCK_C": c, **ones}
            yield name, layout, kernels.plain(getattr(kernels, f"{name}_kernel")), fixed, warps
    for layout, (p, c) in {"channels first": (32, 32), "channels last": (8, 128)}.items():
        blocks = {"BLOCK_P": p, "BLOCK_C": c, "BLOCK": 1024, "BLOCK_K": 4096}
        fixed = {"LAYERS": 3, "PRODUCT": False, "LAST": layout == "channels last", **blocks}
        yield "fused_score", layout, fused_score_kernel, fixed, 8
    for product in (False, True):
        fixed = {"LAYERS": 3, "PRODUCT": product, "BLOCK": 512}
        yield "combine", "product" if product else "sum", kernels.combine_kernel, fixed, 4
    yield "topk_mean", "any", kernels.topk_mean_kernel, {"BLOCK": 4096}, 16


def compile_for(
    architecture: int, name: str, layout: str, kernel: Any, fixed: dict[str, Any], warps: int, dtype: str
) -> Row:
    """One kernel's resources on one architecture."""
    signature = {a: "constexpr" if a in fixed else _type(a, dtype) for a in kernel.arg_names}
    if name.endswith("gradient"):
        signature["OUT"] = f"*{dtype}"  # gradients have the type of the features
    place = {argument: (i,) for i, argument in enumerate(kernel.arg_names)}
    aligned = {place[a]: [["tt.divisibility", 16]] for a, kind in signature.items() if kind.startswith("*")}
    constants = {place[argument]: value for argument, value in fixed.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    binary = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    used = _resources(binary.asm["cubin"])
    shared = max(used["SHARED"], int(binary.metadata.shared))
    return Row(name, layout, dtype, f"sm_{architecture}", used["REG"], used["LOCAL"], shared, triton.__version__)


def takes_features(kernel: Any) -> bool:
    """Whether the kernel reads features, of any type; others read maps, always float32."""
    return bool(kernel.arg_names[0].startswith("T"))


def _type(argument: str, dtype: str) -> str:
    if argument.isupper() and argument[0] in "TS" and len(argument) <= 2:
        return f"*{dtype}"
    if argument.isupper():
        return "*i32" if argument == "COUNTERS" else "*fp32"
    floats = ("eps", "ya", "xa", "yb", "xb", "yc", "xc", "yd", "xd")
    return "fp32" if argument in floats or argument.startswith("weight_") else "i32"


def _resources(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text))
    return {key: int(value) for key, value in found.items()}


def main() -> None:
    rows = [
        compile_for(architecture, *variant, dtype)
        for variant in variants()
        for dtype in (DTYPES if takes_features(variant[2]) else DTYPES[:1])
        for architecture in ARCHITECTURES
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)
    print(f"{len(rows)} rows in {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
