"""Lines, rooms and arrows of the project, from its own imports; and the picture in docs/architecture.md.

python tests/benchmarks/architecture.py [--revision REV] [--arrows] [--svg FILE]

A room is a package of edge_ad (or one of its files that stands alone), and a room of the runtime. An arrow is an
import of another room; the picture leaves out those that follow from others.
"""

from __future__ import annotations

import argparse
import ast
import graphlib
import io
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("edge_ad", "kernels", "export", "calibrate")
ONE = {"pixel_metrics": "metrics", "__main__": "cli", "errors": "ground", "progress": "ground"}
Sources = dict[str, str]  # module -> text
Arrows = dict[str, set[str]]  # name -> names that it imports

WIDTH, ROW, BOX = 1180, 92, 34  # pixels: of the picture, between floors, height of a box
WORDS = {  # what a room does, under its name
    "ground": "errors, progress",
    "kernels": "maps, Top-K, resizing",
    "config": "settings of a detector",
    "artifact": "a detector on disk",
    "metrics": "AUROC, AUPRO, F1",
    "data": "photos, folders",
    "synthesis": "defects, diffusion",
    "model": "teacher, student, head",
    "training": "steps from photos to weights",
    "evaluation": "metrics of a test set",
    "report": "metrics as a page",
    "runtime": "settings, verdict",
    "runtime.engines": "ONNX Runtime, OpenVINO, TensorRT",
    "runtime.sources": "cameras, video, folders",
    "runtime.sinks": "PLC, MQTT, files",
    "runtime.predictor": "frame to scores",
    "runtime.watch": "drift, health",
    "runtime.page": "operator page",
    "runtime.line": "frame to verdict",
    "calibrate": "thresholds",
    "export": "graphs, INT8, engines",
    "bench": "timings",
    "pipeline": "train, synth, ablate",
    "cli": "one file a verb",
}


def sources(revision: str | None = None) -> Sources:
    """Module -> its text, of the working tree or of a revision."""
    if revision is None:
        paths = {path.relative_to(ROOT): path for room in SOURCES for path in (ROOT / room).rglob("*.py")}
        texts = {str(path): real.read_text(encoding="utf-8") for path, real in paths.items()}
    else:
        data = subprocess.run(
            ["git", "-C", ROOT, "archive", revision, *SOURCES], capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = [member for member in tar.getmembers() if member.name.endswith(".py")]
            texts = {m.name: tar.extractfile(m).read().decode() for m in members}
    found = {}
    for name, text in texts.items():
        parts = Path(name).with_suffix("").parts
        if parts[0] == "edge_ad" and parts[1] in SOURCES:  # links of an editable install
            continue
        parts = parts if parts[0] == "edge_ad" else ("edge_ad", *parts)
        found[".".join(part for part in parts if part != "__init__")] = text
    return found


def file_arrows(texts: Sources) -> Arrows:
    """Module -> modules of the project that it imports."""
    arrows: Arrows = {module: set() for module in texts}
    for module, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                target = name if name in texts else name.rpartition(".")[0]
                if target in texts and target not in (module, "edge_ad"):
                    arrows[module].add(target)
    return arrows


def room(module: str, texts: Sources) -> str:
    """The room of a module; "" for edge_ad itself, which only names what is public."""
    parts = module.split(".")[1:]
    if parts[:1] == ["runtime"]:
        package = len(parts) > 2 or (any(name.startswith(f"{module}.") for name in texts) and len(parts) == 2)
        return ".".join(parts[:2]) if package or parts[1:] == ["predictor"] else "runtime"
    return ONE.get(parts[0], parts[0]) if parts else ""


def room_arrows(texts: Sources) -> Arrows:
    """Room -> rooms that it imports."""
    arrows: Arrows = {}
    for module, targets in file_arrows(texts).items():
        here = room(module, texts)
        if here:
            arrows.setdefault(here, set()).update({room(target, texts) for target in targets} - {here, ""})
    return arrows


def reduced(arrows: Arrows) -> Arrows:
    """The arrows that don't follow from others (the transitive reduction)."""
    order = list(graphlib.TopologicalSorter(arrows).static_order())
    below: Arrows = {}
    for name in order:
        below[name] = set(arrows.get(name, ())).union(*(below[other] for other in arrows.get(name, ())))
    return {
        name: {t for t in targets if not any(t in below[other] for other in targets)}
        for name, targets in arrows.items()
    }


def floors(arrows: Arrows) -> list[list[str]]:
    """Rooms by floor, the lowest first: a room stands one above the highest that it imports. Neighbours in a row are
    ordered by what they stand on, so that arrows cross little."""
    level: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(arrows).static_order():
        level[name] = 1 + max((level[other] for other in arrows.get(name, ())), default=-1)
    rows: list[list[str]] = [sorted(n for n in level if level[n] == i) for i in range(max(level.values()) + 1)]
    users: Arrows = {name: {other for other, targets in arrows.items() if name in targets} for name in level}
    place = {name: (i + 1) / (len(row) + 1) for row in rows for i, name in enumerate(row)}
    for sweep in range(24):
        near, ordered = (arrows, rows) if sweep % 2 == 0 else (users, rows[::-1])
        for row in ordered:
            row.sort(
                key=lambda name: sum(place[n] for n in near[name]) / len(near[name]) if near[name] else place[name]
            )
            place.update({name: (i + 1) / (len(row) + 1) for i, name in enumerate(row)})
    return rows


def svg(arrows: Mapping[str, Iterable[str]], rows: list[list[str]]) -> str:
    """The rooms and the arrows as a picture."""
    height = ROW * len(rows) + 20
    centre = {
        name: (round(WIDTH * (i + 0.5) / len(row)), height - 10 - ROW * floor - ROW // 2)
        for floor, row in enumerate(rows)
        for i, name in enumerate(row)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for name, targets in sorted(arrows.items()):
        for target in sorted(targets):
            (x, y), (to_x, to_y) = centre[name], centre[target]
            top, bottom = y + BOX // 2, to_y - BOX // 2 - 2
            bend = (bottom - top) // 2
            curve = f"M{x} {top}C{x} {top + bend} {to_x} {bottom - bend} {to_x} {bottom}"
            parts.append(f'<path d="{curve}" fill="none" stroke="#777" marker-end="url(#tip)"/>')
    for name, (x, y) in sorted(centre.items()):
        width = max(6 * len(WORDS.get(name, "")), 8 * len(name)) + 14
        colour = (
            "#e3eefb" if name.startswith("runtime") else "#eef6e6" if name in ("training", "pipeline") else "#f4f1ea"
        )
        parts += [
            f'<rect x="{x - width // 2}" y="{y - BOX // 2}" width="{width}" height="{BOX}" rx="5" fill="{colour}" '
            'stroke="#444"/>',
            f'<text x="{x}" y="{y - 2}" text-anchor="middle" font-size="13" font-weight="bold">{name}</text>',
            f'<text x="{x}" y="{y + 12}" text-anchor="middle" font-size="10">{escape(WORDS.get(name, ""))}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def picture(texts: Sources) -> str:
    """docs/architecture.svg as it should be."""
    arrows = reduced(room_arrows(texts))
    return svg(arrows, floors(arrows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--revision", help="count this revision instead of the working tree")
    parser.add_argument("--arrows", action="store_true", help="name the arrows between rooms")
    parser.add_argument("--svg", type=Path, help="write the picture")
    options = parser.parse_args()
    texts = sources(options.revision)
    arrows = room_arrows(texts)
    lines: dict[str, int] = {}
    for module, text in texts.items():
        lines[room(module, texts)] = lines.get(room(module, texts), 0) + text.count("\n")
    for name, count in sorted(lines.items(), key=lambda pair: -pair[1]):
        print(
            f"{name or 'edge_ad':<20} {count:6}  {' '.join(sorted(arrows.get(name, ()))) if options.arrows else ''}"
        )
    of_rooms = sum(map(len, arrows.values()))
    of_files = sum(map(len, file_arrows(texts).values()))
    try:
        graphlib.TopologicalSorter(arrows).prepare()
        circle = "no circle"
    except graphlib.CycleError as error:
        circle = f"a circle: {' -> '.join(error.args[1])}"
    print(
        f"{sum(lines.values())} lines in {len(texts)} files; {len(arrows)} rooms, {of_rooms} arrows between rooms "
        f"({circle}), {of_files} between files"
    )
    if options.svg:
        options.svg.write_text(picture(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
