"""Compile every Triton kernel for GPUs that need not be here, and tell what each takes of one.

    python tests/benchmarks/compile_triton.py    writes results/triton_resources.csv

Registers a thread, bytes spilled to local memory a thread, and bytes of shared memory a block, from the compiled
binary. Nothing is run or timed.
"""

from __future__ import annotations

import csv
import itertools
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
from edge_ad.kernels import triton_scores
from edge_ad.kernels.triton_ops import MAX_TILE, feature_block, topk_plan

ARCHITECTURES = {
    **{80: "A100, A800", 86: "RTX 30, A10", 87: "Jetson Orin", 89: "RTX 40, L4", 90: "H100, H200"},
    **{100: "B200", 120: "RTX 50"},
}
DTYPES = ("fp32", "fp16", "bf16")
RESULTS = Path(__file__).parent / "results" / "triton_resources.csv"
LAYOUTS = {"channels first": "_p", "channels last": "_c"}  # which strides are 1
CHANNELS, PIXELS = (384, 768), 1024  # of the features that kernels are compiled for
TOPK = {"256x256, 100": (65536, 100), "largest": (65536, 3000)}


class Row(NamedTuple):
    kernel: str
    layout: str
    dtype: str
    architecture: str
    warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    loads_of_16_bytes: int
    triton: str


def variants() -> Iterator[tuple[str, str, str, Any, dict[str, Any], int]]:
    """Name, layout, element type, kernel, values fixed at compile time, warps: as triton_ops has them."""
    for dtype, channels, layout in itertools.product(DTYPES, CHANNELS, LAYOUTS):
        last, size = layout == "channels last", 4 if dtype == "fp32" else 2
        label = f"{channels} {layout}"
        for name in ("cosine_map", "cosine_map_gradient", "head_input", "head_input_gradient"):
            most = MAX_TILE // 2 if name == "head_input_gradient" else MAX_TILE
            p, c, warps = feature_block(channels, PIXELS, size, channels_last=last, most=most)
            kernel = getattr(kernels, f"{name}_kernel")
            ones = {a: 1 for a in kernel.arg_names if a.endswith(LAYOUTS[layout])}
            yield name, label, dtype, kernel, {"BLOCK_P": p, "BLOCK_C": c, **ones}, warps
        p, c, warps = feature_block(channels, PIXELS, size, channels_last=last)
        yield "maps", label, dtype, kernels.maps_kernel, {"LAST": last, "BLOCK_P": p, "BLOCK_C": c}, warps
    for label, (count, k) in TOPK.items():
        plan = topk_plan(count, k)
        fixed = {"GROUP": plan.group, "GROUPS": triton.next_power_of_2(plan.groups), "SLOTS": plan.slots}
        yield "topk_mean", label, "fp32", triton_scores.topk_mean_kernel, fixed, min(max(plan.held // 512, 4), 16)
        yield "maxima", label, "fp32", triton_scores.maxima_kernel, {"BLOCK": 1024, "GROUP": plan.group}, 4
    for product in (False, True):
        fixed = {"LAYERS": 3, "PRODUCT": product, "BLOCK": 512, "GROUP": 16}
        yield "combine", "product" if product else "sum", "fp32", triton_scores.combine_kernel, fixed, 4


def compile_for(
    architecture: int, name: str, layout: str, dtype: str, kernel: Any, fixed: dict[str, Any], warps: int
) -> Row:
    """One kernel's resources on one architecture."""
    binary = compiled(architecture, name, dtype, kernel, fixed, warps)
    used = _resources(binary.asm["cubin"])
    shared = max(used["SHARED"], int(binary.metadata.shared))
    loads = len(re.findall(r"ld\.global[.\w]*\.v4", binary.asm["ptx"]))
    return Row(
        name,
        layout,
        dtype,
        f"sm_{architecture}",
        warps,
        used["REG"],
        used["LOCAL"],
        shared,
        loads,
        triton.__version__,
    )


def compiled(architecture: int, name: str, dtype: str, kernel: Any, fixed: dict[str, Any], warps: int) -> Any:
    """The kernel as triton_ops would have it on shapes whose strides are multiples of 16."""
    signature = {a: "constexpr" if a in fixed else _type(a, dtype) for a in kernel.arg_names}
    if name.endswith("gradient"):
        signature["OUT"] = f"*{dtype}"  # gradients have the type of the features
    place = {argument: (i,) for i, argument in enumerate(kernel.arg_names)}
    whole = ("channels", "pixels", "count", "groups", "width", "height")
    multiples = [a for a, kind in signature.items() if kind[0] == "*" or a in whole or a[1:] in ("_b", "_c", "_p")]
    aligned = {place[a]: [["tt.divisibility", 16]] for a in multiples if a not in fixed}
    constants = {place[argument]: value for argument, value in fixed.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def _type(argument: str, dtype: str) -> str:
    if argument.isupper() and argument[0] in "TS" and len(argument) <= 2:
        return f"*{dtype}"
    if argument.isupper():
        return "*i32" if argument in ("MAXIMA", "CHOSEN") else "*fp32"
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
    rows = [compile_for(architecture, *variant) for variant in variants() for architecture in ARCHITECTURES]
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)
    print(f"{len(rows)} rows in {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
