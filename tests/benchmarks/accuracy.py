"""Rows of accuracy from the JSON of `edgead eval`, and the table of docs/results.md from the rows.

python tests/benchmarks/accuracy.py add FIGURES.json ... --device "CPU, 1 thread" [--note "..."]
python tests/benchmarks/accuracy.py table

`add` appends to results/accuracy.csv and replaces a row of the same category, preset, seed and note.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "accuracy.csv"
FIGURES = ("i_auroc", "p_auroc", "aupro", "f1_max")
SAME = ("category", "preset", "seed", "note")


def row_of(figures: dict[str, Any], device: str, note: str) -> dict[str, str]:
    """One category's row; figures in per cent."""
    about, training = figures["about"], figures["about"]["training"]
    height, width = about["image_size"]
    if len(about["classes"]) > 1:  # never in the place of a model of its own
        note = "; ".join(filter(None, (f"one model of {len(about['classes'])} categories", note)))
    return {
        "date": about["measured"][:10],
        "category": about["data"],
        "preset": about["preset"],
        "seed": str(about["seed"]),
        "note": note,
        "image_size": f"{height}x{width}",
        "teacher": about["teacher"]["description"],
        "device": device,
        "steps": str(training["steps"]),
        "minutes": f"{training['seconds'] / 60:.1f}",
        "normals": str(training["normals"]),
        "held_out": str(training["held_out"]),
        "triplets": str(training["triplets"]),
        "test_good": str(figures["good"]),
        "test_defects": str(figures["defects"]),
        **{name: f"{100 * figures[name]:.2f}" for name in FIGURES},
    }


def read() -> list[dict[str, str]]:
    """All rows."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]], note: str = "") -> str:
    """Markdown: a line a category of the `edge` preset, as it is or as `note` says; mean and deviation of seeds."""
    lines = [
        "| category | seeds | I-AUROC | P-AUROC | AUPRO | F1-max | test photos |",
        "|---|---|---|---|---|---|---|",
    ]
    chosen = [row for row in rows if row["preset"] == "edge" and row["note"] == note]
    for category in dict.fromkeys(row["category"] for row in chosen):
        runs = [row for row in chosen if row["category"] == category]
        cells = []
        for name in FIGURES:
            values = [float(run[name]) for run in runs if run[name]]
            if not values:  # a category without masks
                cells.append("-")
                continue
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.2f}{spread}")
        photos = f"{runs[0]['test_good']} + {runs[0]['test_defects']}"
        lines.append(f"| {category} | {len(runs)} | {' | '.join(cells)} | {photos} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["add", "table"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--device", default="")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    rows = read()
    if options.verb == "table":
        print(table(rows, options.note))
        return
    for path in options.files:
        row = row_of(json.loads(path.read_text(encoding="utf-8")), options.device, options.note)
        rows = [old for old in rows if any(old[key] != row[key] for key in SAME)] + [row]
    rows.sort(key=lambda row: [row[key] for key in ("preset", "note", "category", "seed")])
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
