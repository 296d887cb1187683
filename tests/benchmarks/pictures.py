"""The pictures of the README, made from the demo's own data and from the rows in results/.

python tests/benchmarks/pictures.py inspection ARTIFACT PHOTO   docs/images/inspection.png
python tests/benchmarks/pictures.py latency                     docs/images/accuracy_latency.svg
python tests/benchmarks/pictures.py page ARTIFACT PHOTOS        docs/images/operator_page.png (needs Chromium)

ARTIFACT and PHOTO are the demo's: `make demo`, then demo/detector and a photo of demo/data/brick/test.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np

import edge_ad
from edge_ad.data.images import write_image
from edge_ad.runtime.overlay import resize_to

ROOT = Path(__file__).parents[2]
IMAGES, RESULTS = ROOT / "docs" / "images", Path(__file__).parent / "results"
CATEGORIES = ("bottle", "grid", "toothbrush")
COLOURS = {"torch": "#767676", "onnxruntime-cpu": "#b35900", "openvino": "#1f6feb", "openvino-bf16": "#8250df"}
NAMES = {
    "torch": "PyTorch",
    "onnxruntime-cpu": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO, bf16",
}
SHAPES = {"fp32": "o", "fp16": "D", "int8": "^"}
HOLLOW = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 2}
PORT = 8123


def inspection(artifact: Path, photo: Path) -> Path:
    """Photo, map and verdict side by side."""
    with edge_ad.load(artifact) as detector:
        found = detector.predict(photo)
    side = (360, 360)
    gap = np.full((360, 12, 3), 255, np.uint8)
    big = [resize_to(frame, side) for frame in (found.frame, found.heatmap(), found.overlay())]
    return _write("inspection.png", np.hstack([big[0], gap, big[1], gap, big[2]]))


def latency() -> Path:
    """AUPRO over milliseconds: each engine and precision, the mean of the categories measured for both."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "edgead", "font.size": 10})
    figure, axes = pyplot.subplots(figsize=(7.2, 3.4), layout="constrained")
    times = _mean("model_cpu.csv", "artifact", "p50_ms", threads="2", batch="1", shape="392x392")
    metrics = _mean("export_accuracy.csv", "category", "aupro", shape="392x392")
    for (backend, precision), milliseconds in sorted(times.items()):
        aupro = metrics.get((backend, precision), metrics["onnxruntime-cpu", "fp32"] if backend == "torch" else None)
        if aupro is not None:  # hollow, so that what lies on one spot is seen
            axes.plot(milliseconds, aupro, SHAPES[precision], markeredgecolor=COLOURS[backend], **HOLLOW)
    for backend, colour in COLOURS.items():
        axes.plot([], [], "s", color=colour, label=NAMES[backend])
    for precision, shape in SHAPES.items():
        axes.plot([], [], shape, markeredgecolor="#222", label=precision.upper(), **HOLLOW)
    axes.axvline(481, color="#767676", linestyle="--", linewidth=1)
    axes.annotate("anomalib's EfficientAD-S, PyTorch:\n481 ms (accuracy not measured here)", (475, 96.4), ha="right")
    axes.set(xlabel="ms a picture, batch 1, two threads of a server CPU", ylabel="AUPRO, per cent", xlim=(0, 500))
    axes.set(ylim=(96.2, 97.4), title="Mean of bottle, grid and toothbrush, 784 patches")
    axes.legend(loc="lower left", ncols=2, frameon=False, fontsize=9)
    axes.grid(alpha=0.3)
    figure.patch.set_facecolor("white")  # readable on a dark page too
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / "accuracy_latency.svg"
    figure.savefig(path, metadata={"Date": None})
    return path


def page(artifact: Path, photos: Path) -> Path:
    """The operator page after a run over the photos."""
    from selenium import webdriver

    settings = IMAGES.parent.parent / "build" / "page.toml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(
        f'artifact = "{artifact.resolve()}"\nout = "{settings.parent / "page-run"}"\n[page]\nport = {PORT}\n'
        f'[[station]]\n[station.source]\naddress = "{photos.resolve()}"\nrepeat = true\nfps = 4\n'
    )
    line = subprocess.Popen([sys.executable, "-m", "edge_ad", "run", "--settings", str(settings), "--headless"])
    try:
        _wait(f"http://127.0.0.1:{PORT}/")
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,1000"):
            options.add_argument(argument)
        with webdriver.Chrome(options) as browser:
            browser.get(f"http://127.0.0.1:{PORT}/")
            time.sleep(20)  # parts to fill the page's trend
            shot = cv2.imdecode(np.frombuffer(browser.get_screenshot_as_png(), np.uint8), cv2.IMREAD_COLOR)
    finally:
        line.terminate()
        line.wait(60)
    return _write("operator_page.png", cv2.cvtColor(shot, cv2.COLOR_BGR2RGB))


def _mean(file: str, category: str, value: str, **wanted: str) -> dict[tuple[str, str], float]:
    """Mean of a column by (backend, precision) over CATEGORIES, where all were measured; later rows count."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    with (RESULTS / file).open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row[category] in CATEGORIES and all(row[key] == text for key, text in wanted.items()):
                found.setdefault((row["backend"], row["precision"]), {})[row[category]] = float(row[value])
    return {key: statistics.mean(rows.values()) for key, rows in found.items() if len(rows) == len(CATEGORIES)}


def _wait(address: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
        else:
            return


def _write(name: str, frame: np.ndarray) -> Path:
    IMAGES.mkdir(exist_ok=True)
    write_image(IMAGES / name, np.ascontiguousarray(frame))
    return IMAGES / name


if __name__ == "__main__":
    chosen, *arguments = sys.argv[1:]
    made = {"inspection": inspection, "latency": latency, "page": page}[chosen](*map(Path, arguments))
    print(made)
