"""The TensorRT runner's own logic, with the host playing the GPU: buffers, batch sizes, graphs, failures."""

import contextlib
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_ad.artifact import Artifact
from edge_ad.errors import BackendError
from edge_ad.export import engine
from edge_ad.runtime.engines import cuda_device
from edge_ad.runtime.engines import tensorrt as backends_tensorrt
from edge_ad.runtime.engines.onnxruntime import OnnxRuntimeRunner
from edge_ad.runtime.engines.runner import OUTPUTS
from edge_ad.runtime.engines.tensorrt import TensorRTRunner
from edge_ad.runtime.engines.tensorrt_build import EngineOptions


class HostDevice:
    """Device memory is a dictionary of arrays; captured work is a list of calls."""

    name, capability, stream = "host", (8, 6), 7

    def __init__(self):
        self.memory, self.captured, self.launches, self.closed = {}, 0, 0, False

    def pinned(self, shape):
        return np.full(shape, np.nan, np.float32)

    def allocate(self, size):
        address = 1000 + len(self.memory)
        self.memory[address] = np.full(size // 4, np.nan, np.float32)
        return address

    def upload(self, address, array):
        self.memory[address][: array.size] = array.ravel()

    def download(self, array, address):
        array[...] = self.memory[address][: array.size].reshape(array.shape)

    def synchronize(self):
        pass

    def capture(self, queue):
        self.captured += 1

        def launch():
            self.launches += 1
            queue()

        return launch

    @contextlib.contextmanager
    def active(self):
        yield

    def close(self):
        self.closed = True


class HostTensorRT:
    """The calls that the runner makes, answered by ONNX Runtime."""

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

        def __init__(self):
            pass

    def __init__(self, graph, device, most):
        self.runner, self.device, self.most, self.fails = OnnxRuntimeRunner(graph, threads=1), device, most, False
        self.addresses, self.shape = {}, None
        self.num_io_tensors = 5

    def Runtime(self, logger):
        return self

    def deserialize_cuda_engine(self, data):
        return self if data else None

    def create_execution_context(self):
        return self

    def get_tensor_profile_shape(self, name, profile):
        return (1, 3, 64, 64), (self.most, 3, 64, 64), (self.most, 3, 64, 64)

    def get_tensor_name(self, index):
        return ("images", *OUTPUTS)[index]

    def get_tensor_shape(self, name):
        sizes = {"images": (3, 64, 64), "image_score": (), "pixel_scores": (256, 256)}
        return (self.shape[0], *sizes.get(name, (8, 8)))

    def set_input_shape(self, name, shape):
        self.shape = shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == self.device.stream
        if self.fails:
            return False
        memory = self.device.memory
        images = memory[self.addresses["images"]][: int(np.prod(self.shape))].reshape(self.shape)
        for name, array in zip(OUTPUTS, self.runner(images.copy()), strict=True):
            memory[self.addresses[name]][: array.size] = array.ravel()
        return True


@pytest.fixture
def opened(small_artifact):
    graph, device = small_artifact.file("model.onnx"), HostDevice()
    trt = HostTensorRT(graph, device, most=4)
    return TensorRTRunner(trt, device, b"engine"), trt, device, OnnxRuntimeRunner(graph, threads=1)


def test_every_batch_size_gives_the_right_rows(opened):
    runner, _, device, reference = opened
    rng = np.random.default_rng(0)
    for count in (1, 1, 1, 3, 4, 2, 9, 1):
        images = rng.normal(size=(count, 3, 64, 64)).astype(np.float32)
        for ours, theirs in zip(runner(images), reference(images), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert device.captured == 6  # once each time the batch size changes (9 runs as 4 + 4 + 4)
    assert device.launches >= 4


def test_outputs_are_the_callers_own(opened):
    runner, *_ = opened
    rng = np.random.default_rng(0)
    first = runner(rng.normal(size=(1, 3, 64, 64)).astype(np.float32))
    before = first.pixel_scores.copy()
    runner(rng.normal(size=(1, 3, 64, 64)).astype(np.float32))
    np.testing.assert_array_equal(first.pixel_scores, before)


def test_failures_are_raised(opened, small_artifact):
    runner, trt, device, _ = opened
    images = np.zeros((1, 3, 64, 64), np.float32)
    trt.fails = True
    with pytest.raises(BackendError, match="failed"):
        runner(images)
    runner.close()
    runner.close()
    assert device.closed
    with pytest.raises(BackendError, match="closed"):
        runner(images)
    with pytest.raises(BackendError, match="can't load the engine"):
        TensorRTRunner(trt, device, b"")


def test_an_engine_that_does_not_fit_is_built_again_as_it_was_asked_for(opened, small_artifact, monkeypatch):
    _, trt, device, _ = opened
    trt.__version__, device.name, device.capability = "10.7.0", "Orin", (8, 7)
    options = EngineOptions(max_batch=4, workspace_mib=512, dla=1)
    asked = []

    def build(module, graph, wanted, *others):
        asked.append(wanted)
        return b"engine", b""

    monkeypatch.setattr(engine, "load_tensorrt", lambda target: trt)
    monkeypatch.setattr(backends_tensorrt, "load_tensorrt", lambda target: trt)
    monkeypatch.setattr(engine, "open_device", lambda: device)
    monkeypatch.setattr(backends_tensorrt, "open_device", lambda: device)
    monkeypatch.setattr(engine, "build_engine_bytes", build)
    monkeypatch.setattr(backends_tensorrt, "build_engine_bytes", build)
    said = []
    (path,) = engine.build_engine(small_artifact, "fp32", options, said.append)
    assert said == ["building for Orin"]
    backends_tensorrt.open_artifact(small_artifact, "fp32", None, "tensorrt")
    assert asked == [options]
    trt.__version__ = "10.8.0"  # JetPack was updated
    backends_tensorrt.open_artifact(Artifact.open(small_artifact.path), "fp32", None, "tensorrt")
    assert asked == [options, options]
    record = backends_tensorrt.engine_records(Artifact.open(small_artifact.path), "fp32")
    assert record[path.relative_to(small_artifact.path).as_posix()].tensorrt == "10.8.0"


@pytest.mark.skipif(not importlib.util.find_spec("cuda"), reason="cuda-bindings is not installed")
def test_every_cuda_call_exists_in_the_bindings():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    names = set(re.findall(r'_call\(\s*"(\w+)"', Path(cuda_device.__file__).read_text()))
    assert len(names) >= 14
    assert [name for name in names if not hasattr(runtime, name)] == []
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyHostToDevice")
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")


def test_a_gpu_that_is_not_there_is_named_with_both_packages():
    with pytest.raises(BackendError, match=r"pycuda: .*cuda-python: "):
        cuda_device.open_device(99)
