"""The tables and the plot of docs/benchmark.md from results/peers.csv: python tests/benchmarks/field/table.py

Without an option, prints what stands between the marks of docs/benchmark.md; --write puts it there, and draws.
Milliseconds and fit times count only where little else ran beside the measurement (column `load`).
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "peers.csv"
DOCS = HERE.parents[2] / "docs"
PAGE, PLOT = DOCS / "benchmark.md", DOCS / "images" / "benchmark.svg"
BEGIN, END = "<!-- from peers.csv -->", "<!-- end -->"
FIGURES = {"i_auroc": "I-AUROC", "p_auroc": "P-AUROC", "aupro": "AUPRO", "f1_max": "F1-max"}
ENGINES = {"torch_ms": "PyTorch", "onnxruntime_ms": "ONNX Runtime", "openvino_ms": "OpenVINO"}
BUSY = 0.5  # other work, in shares of the threads measured, beyond which times mean nothing
Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="Into docs/benchmark.md and its plot.")
    options = parser.parse_args()
    rows = read(RESULTS)
    text = page(rows)
    if not options.write:
        print(text)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    if svg := plot(rows):
        PLOT.write_text(svg, encoding="utf-8")


def read(path: Path) -> list[Row]:
    """All rows."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page(rows: Sequence[Row]) -> str:
    """All tables, each below its heading, and who is ahead where."""
    full = [row for row in rows if row["shots"] == "0"]
    clean = [row for row in full if row["condition"] == "clean" and row["i_auroc"]]
    parts = []
    if clean:
        parts = ["### All photos of good parts", accuracy(clean), wins(clean), "### What it costs", costs(clean)]
    if any(row["condition"] != "clean" for row in full):
        parts += ["### What disturbs it", robustness(full)]
    if few := [row for row in rows if row["shots"] != "0" and row["condition"] == "clean" and row["i_auroc"]]:
        parts += ["### From a few photos", few_shot(few)]
    missing = {row["method"]: row["note"] for row in rows if row["note"].startswith("weights not available")}
    parts += [f"`{method}` has no row: {note}." for method, note in missing.items()]
    return "\n\n".join(part for part in parts if part) or "No row has been measured yet."


def accuracy(rows: Sequence[Row]) -> str:
    """A line a category and method: figures in per cent, the mean over seeds."""
    return table(
        ("category", "method", *FIGURES.values(), "seeds", "photos", "pretrained weights"),
        (
            (category, method, *(mean(own, name, 1) for name in FIGURES), str(len(own)), own[0]["train"],
             own[0]["weights"])
            for (category, method), own in grouped(rows, "category", "method")
        ),
    )  # fmt: skip


def wins(rows: Sequence[Row]) -> str:
    """Sentences: in which figures of which category a peer is ahead of EdgeAD, and by how many points."""
    sentences = []
    for (category,), own in grouped(rows, "category"):
        for name, title in FIGURES.items():
            best = {
                ours: max(
                    ((fmean(float(row[name]) for row in few), method) for (method,), few in grouped(
                        [row for row in own if row[name] and row["method"].startswith("edgead") == ours], "method")),
                    default=None,
                )
                for ours in (True, False)
            }  # fmt: skip
            if best[True] and best[False] and best[False][0] > best[True][0] + 0.05:
                ahead = best[False][0] - best[True][0]
                sentences.append(f"{best[False][1]} is ahead on {category} in {title} by {ahead:.1f} points")
    if not sentences:
        return "No peer that was measured is ahead of EdgeAD in any of these figures."
    return "**Where a peer wins**: " + "; ".join(sentences) + "."


def costs(rows: Sequence[Row]) -> str:
    """A line a method: costs as means over categories and seeds, times only of quiet measurements."""
    return table(
        ("method", "fit s", "memory MB", "file MB", *(f"{title} ms" for title in ENGINES.values()), "size", "notes"),
        (
            (method, mean(quiet(own), "fit_s", 0), mean(own, "peak_mb", 0), mean(own, "size_mb", 0),
             *(mean(quiet(own), name, 0) for name in ENGINES), own[0]["image_size"], own[0]["note"])
            for (method,), own in grouped(rows, "method")
        ),
    )  # fmt: skip


def robustness(rows: Sequence[Row]) -> str:
    """I-AUROC and AUPRO by condition, the mean over the categories that have both."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows if row["i_auroc"]))
    lines = []
    for (category, method), own in grouped(rows, "category", "method"):
        cells = []
        for condition in conditions:
            found = [row for row in own if row["condition"] == condition]
            cells.append(f"{mean(found, 'i_auroc', 1)} / {mean(found, 'aupro', 1)}" if found else "")
        if any(cells[1:]):
            lines.append((category, method, *cells))
    return "I-AUROC / AUPRO.\n\n" + table(("category", "method", *conditions), lines)


def few_shot(rows: Sequence[Row]) -> str:
    """I-AUROC / AUPRO by the number of photos."""
    counts = sorted({int(row["shots"]) for row in rows})
    return "I-AUROC / AUPRO.\n\n" + table(
        ("category", "method", *(f"{count} photo{'s' * (count > 1)}" for count in counts)),
        (
            (category, method, *(
                f"{mean(few, 'i_auroc', 1)} / {mean(few, 'aupro', 1)}"
                for few in ([row for row in own if int(row["shots"]) == count] for count in counts)
            ))
            for (category, method), own in grouped(rows, "category", "method")
        ),
    )  # fmt: skip


def plot(rows: Sequence[Row]) -> str:
    """AUPRO (I-AUROC without masks) over milliseconds, a mark for each method and engine; "" without times."""
    points = []
    for (method,), own in grouped(
        [row for row in rows if row["condition"] == "clean" and row["shots"] == "0"], "method"
    ):
        timed = quiet(own)
        values = [float(row["aupro"] or row["i_auroc"]) for row in timed if row["i_auroc"]]
        for name, engine in ENGINES.items():
            times = [float(row[name]) for row in timed if row[name]]
            if values and times:
                points.append((fmean(times), fmean(values), method, engine))
    return draw(points) if points else ""


def draw(points: Sequence[tuple[float, float, str, str]]) -> str:
    """The points (ms, per cent, method, engine) as an SVG file: a colour a method, a mark an engine."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = {method: f"C{i}" for i, method in enumerate(dict.fromkeys(point[2] for point in points))}
    marks = dict(zip(ENGINES.values(), "o^s", strict=True))
    for ms, value, method, engine in points:
        axes.plot(ms, value, marks[engine], color=colours[method], markersize=8)
    axes.set(xlabel="milliseconds a picture, batch 1", ylabel="AUPRO, %", xscale="log")
    axes.grid(alpha=0.3)
    legend = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=method) for method, colour in colours.items()
    ]
    legend += [Line2D([], [], marker=mark, linestyle="", color="gray", label=name) for name, mark in marks.items()]
    axes.legend(handles=legend, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def grouped(rows: Iterable[Row], *names: str) -> list[tuple[tuple[str, ...], list[Row]]]:
    """Rows by what these columns hold, in the order of the file."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.items())


def quiet(rows: Iterable[Row]) -> list[Row]:
    """Those during whose measurement little else ran."""
    return [row for row in rows if float(row["load"]) <= float(row["threads"]) * BUSY]


def mean(rows: Iterable[Row], name: str, digits: int) -> str:
    """The column's mean; "-" where no row has it."""
    values = [float(row[name]) for row in rows if row[name]]
    return f"{fmean(values):.{digits}f}" if values else "-"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    line: Callable[[Sequence[str]], str] = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return "\n".join([line(heads), "|" + "---|" * len(heads), *(line(cells) for cells in lines)])


if __name__ == "__main__":
    main()
