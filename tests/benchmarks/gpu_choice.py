"""Which operations the dispatcher gives to Triton, from the measured rows in results/kernels_gpu.csv.

    python tests/benchmarks/gpu_choice.py    writes kernels/gpu_choice.py

Triton gets an operation and class of sizes where each of its newest rows was at least 1.1 times as fast as plain
torch. No row, no Triton.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from pathlib import Path
from typing import NamedTuple

from edge_ad.kernels.dispatch import size_class

RESULTS = Path(__file__).parent / "results" / "kernels_gpu.csv"
TABLE = Path(__file__).parents[2] / "kernels" / "gpu_choice.py"
LEAST_GAIN = 1.1
HEADER = '''"""What Triton was measured to do faster than plain torch on a GPU, by size: all else runs in torch.

Made from tests/benchmarks/results/kernels_gpu.csv by tests/benchmarks/gpu_choice.py; not to be edited by hand.
"""

TRITON = frozenset(
    {
'''


class Row(NamedTuple):
    """What the choice needs of a measured row of Triton."""

    date: str
    device: str
    operation: str
    shape: str
    dtype: str
    gain: float


def read(path: Path = RESULTS) -> list[Row]:
    """The newest row of every device, operation, shape and element type."""
    newest: dict[tuple[str, ...], Row] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["backend"] == "triton":
                key = row["device"], row["operation"], row["shape"], row["dtype"]
                newest[key] = Row(row["date"], *key, float(row["vs_eager"]))  # rows are appended
    return list(newest.values())


def bytes_read(row: Row) -> int:
    """Bytes of the features or scores that the operation reads."""
    batch, _, shapes = row.shape.removeprefix("B").partition(" ")
    numbers = sum(math.prod(map(int, re.findall(r"\d+", shape))) for shape in shapes.split("+"))
    tensors = 1 if row.operation == "topk_mean" else 2
    return int(batch) * numbers * tensors * (4 if row.dtype == "float32" else 2)


def choice(rows: list[Row]) -> list[tuple[str, str]]:
    """(operation, class of size) that Triton gets."""
    gains: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        gains.setdefault((row.operation, size_class(bytes_read(row))), []).append(row.gain)
    return sorted(key for key, values in gains.items() if min(values) >= LEAST_GAIN)


def source(chosen: list[tuple[str, str]]) -> str:
    """The table as a Python file."""
    lines = [f'        ("{operation}", "{size}"),\n' for operation, size in chosen]
    return HEADER + "".join(lines) + "    }\n)\n"


def main() -> None:
    chosen = choice(read())
    TABLE.write_text(source(chosen), encoding="utf-8")
    print(f"{len(chosen)} operations and sizes for Triton in {TABLE}", file=sys.stderr)


if __name__ == "__main__":
    main()
