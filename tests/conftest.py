"""Fixtures that several rooms share; among them a small ONNX detector that really detects, without torch."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad.config import Config

# What a machine may lack all the same where EDGE_AD_REQUIRE=system: .ci/run sets it, and any other skip fails there.
MAY_LACK = re.compile(r"\bGPU|CUDA|TensorRT|tensorrt|can't be downloaded|shared/", re.IGNORECASE)


def _skips_must_be_good(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("EDGE_AD_REQUIRE") == "system" and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        if not MAY_LACK.search(reason):
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: {reason}; EDGE_AD_REQUIRE=system makes this skip a failure"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _skips_must_be_good(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _skips_must_be_good(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and what they start inherits it: some tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _engines_are_remembered_elsewhere(tmp_path_factory) -> Iterator[None]:
    """The user's own cache keeps no choice that a test made."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_ad.runtime.engines.choice.cache_folder", lambda: folder)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; its log has what pages complain about."""
    selenium = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is not installed")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = selenium.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """The edge preset with a 6-block ViT of width 64: every part is there, all of it small."""
    config = Config.named("edge")
    return config.override(
        "model",
        teacher="test_vit",
        tokens=36,
        taps=(1, 2, 3, 4),
        groups=2,
        prototypes=32,
        decoder_channels=16,
        head_channels=8,
        detail="test_efficientnet",
    ).override("training", steps=4, batch_size=4, triplets=8, warmup_steps=1)


@pytest.fixture(scope="session")
def write_photos() -> Callable[..., list[Path]]:
    """Writes photos of a striped, noisy surface, 72 x 96 pixels."""

    def write(folder: Path, count: int, seed: int = 0) -> list[Path]:
        rng = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        stripes = 120 + 40 * np.sin(np.arange(96) / 4)
        paths = []
        for index in range(count):
            photo = stripes[None, :, None] + rng.normal(0, 6, (72, 96, 3))
            paths.append(folder / f"{index:03d}.png")
            assert cv2.imwrite(str(paths[-1]), np.clip(photo, 0, 255).astype(np.uint8))
        return paths

    return write


SIZE, PATCH, WIDTH, RANK = 64, 8, 32, 6
TOKENS = (SIZE // PATCH) ** 2
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def good_frame(rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """A striped texture, uint8 [size, size, 3]."""
    phase, period = rng.uniform(0, 6.28), rng.uniform(9, 11)
    x = np.arange(size) * 64 / size
    stripes = 128 + 60 * np.sin(x / period * 6.28 + phase)[None, :, None]
    return np.clip(stripes + rng.normal(0, 6, (size, size, 3)), 0, 255).astype(np.uint8)


def bad_frame(rng: np.random.Generator, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """The same with a spot, and the spot's mask [size, size]."""
    frame, (y, x) = good_frame(rng, size), rng.uniform(0.2, 0.8, 2) * size
    rows, columns = np.mgrid[:size, :size]
    mask = (rows - y) ** 2 + (columns - x) ** 2 < (size * rng.uniform(0.08, 0.16)) ** 2
    frame[mask] = np.clip(frame[mask] + rng.choice([-1, 1]) * rng.uniform(40, 90), 0, 255).astype(np.uint8)
    return frame, mask


def prepared(frames: list[np.ndarray]) -> np.ndarray:
    """Frames of the graph's own size as its input [B, 3, SIZE, SIZE]."""
    images = (np.stack(frames).astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


class _Graph:
    """Nodes and weights as they are written down."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.nodes, self.weights, self.rng = [], {}, rng

    def node(self, kind: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        from onnx import helper

        out = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"/{out}", **attributes))
        return out

    def weight(self, value: object, kind: type = np.float32) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights[name] = np.asarray(value, kind)
        return name

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        product = self.node("MatMul", x, self.weight(self.rng.normal(0, inputs**-0.5, (inputs, outputs))))
        return self.node("Add", product, self.weight(self.rng.normal(0, 0.1, outputs)))

    def norm(self, x: str) -> str:
        scale, bias = self.weight(np.ones(WIDTH)), self.weight(np.zeros(WIDTH))
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-6)

    def model(self, outputs: dict[str, list[object]]) -> bytes:
        from onnx import TensorProto, checker, helper, numpy_helper

        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        checker.check_model(model, full_check=True)
        return model.SerializeToString()


def _teacher(graph: _Graph) -> str:
    """Patch embedding, one block of attention and MLP, output norm: features [B, TOKENS, WIDTH]."""
    kernel = graph.weight(graph.rng.normal(0, 0.1, (WIDTH, 3, PATCH, PATCH)))
    x = graph.node("Conv", "images", kernel, strides=[PATCH] * 2, kernel_shape=[PATCH] * 2)
    x = graph.node("Reshape", x, graph.weight([0, WIDTH, TOKENS], np.int64))
    x = graph.node("Transpose", x, perm=[0, 2, 1])
    y = graph.norm(x)
    q, k, v = (graph.linear(y, WIDTH, WIDTH) for _ in range(3))
    weights = graph.node("MatMul", q, graph.node("Transpose", k, perm=[0, 2, 1]))
    weights = graph.node("Softmax", graph.node("Mul", weights, graph.weight(WIDTH**-0.5)), axis=-1)
    x = graph.node("Add", x, graph.linear(graph.node("MatMul", weights, v), WIDTH, WIDTH))
    hidden = graph.linear(graph.norm(x), WIDTH, 4 * WIDTH)
    erf = graph.node("Erf", graph.node("Mul", hidden, graph.weight(0.5**0.5)))
    gate = graph.node("Mul", graph.node("Add", erf, graph.weight(1.0)), graph.weight(0.5))
    x = graph.node("Add", x, graph.linear(graph.node("Mul", hidden, gate), 4 * WIDTH, WIDTH))
    return graph.norm(x)


def _graph_bytes() -> bytes:
    """Teacher, a student that knows only the normal features' main directions, map, head, scores."""
    import onnxruntime

    rng = np.random.default_rng(0)
    graph = _Graph(rng)
    features = _teacher(graph)
    images = prepared([good_frame(rng) for _ in range(48)])
    session = onnxruntime.InferenceSession(graph.model({features: ["batch", TOKENS, WIDTH]}))
    normal = session.run(None, {"images": images})[0].reshape(-1, WIDTH)
    basis = np.linalg.svd(normal, full_matrices=False)[2][:RANK]
    student = graph.node("MatMul", features, graph.weight(basis.T))
    student = graph.node("MatMul", student, graph.weight(basis))
    axis = graph.weight([-1], np.int64)

    def unit(x: str) -> str:
        length = graph.node("ReduceL2", x, axis, keepdims=1)
        return graph.node("Div", x, graph.node("Add", length, graph.weight(1e-6)))

    product = graph.node("Mul", unit(features), unit(student))
    cosine = graph.node("ReduceSum", product, axis, keepdims=0)
    distance = graph.node("Sub", graph.weight(1.0), cosine)
    side = SIZE // PATCH
    anomaly_map = graph.node("Reshape", distance, graph.weight([0, side, side], np.int64), out="anomaly_map")
    graph.node("Mul", anomaly_map, graph.weight(10.0), out="head_logits")
    up = np.array([np.interp((np.arange(256) + 0.5) * side / 256 - 0.5, range(side), row) for row in np.eye(side)])
    rows = graph.node("MatMul", graph.weight(up.T), anomaly_map)
    graph.node("MatMul", rows, graph.weight(up), out="pixel_scores")
    flat = graph.node("Reshape", "pixel_scores", graph.weight([0, 256 * 256], np.int64))
    graph.nodes.append(_top_k(graph, flat))
    graph.node("ReduceMean", "top", axis, out="image_score", keepdims=0)
    sizes = {"anomaly_map": [side, side], "head_logits": [side, side], "pixel_scores": [256, 256], "image_score": []}
    return graph.model({name: ["batch", *shape] for name, shape in sizes.items()})


def _top_k(graph: _Graph, flat: str) -> object:
    from onnx import helper

    return helper.make_node("TopK", [flat, graph.weight([100], np.int64)], ["top", "where"], name="/top", axis=-1)


@pytest.fixture(scope="session")
def _built_artifact(tmp_path_factory) -> Path:
    from edge_ad.artifact import Artifact, Manifest, Preprocessing
    from edge_ad.config import Config

    manifest = Manifest("small", Config.named("nano").to_dict(), Preprocessing((SIZE, SIZE), MEAN, STD), ("stripes",))
    path = tmp_path_factory.mktemp("artifact") / "small"
    return Artifact.create(path, manifest, {"model.onnx": _graph_bytes()}).path


@pytest.fixture
def small_artifact(_built_artifact, tmp_path):
    """An artifact of one's own to change, with a real FP32 graph (64x64, 8x8 tokens) and no calibration."""
    from edge_ad.artifact import Artifact

    return Artifact.open(shutil.copytree(_built_artifact, tmp_path / "artifact"))


@pytest.fixture(scope="session")
def parts():
    """(good frames [40], bad frames [20], masks [20]) of the small detector's product, 64x64."""
    rng = np.random.default_rng(7)
    bad = [bad_frame(rng) for _ in range(20)]
    return [good_frame(rng) for _ in range(40)], [frame for frame, _ in bad], [mask for _, mask in bad]
