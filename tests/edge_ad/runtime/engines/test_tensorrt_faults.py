"""TensorRT versions known to compute wrong are refused or warned of by number."""

import logging

import pytest

from edge_ad.artifact import Artifact
from edge_ad.errors import BackendError
from edge_ad.export import engine
from edge_ad.runtime.engines import tensorrt as backends_tensorrt
from edge_ad.runtime.engines.self_test import SelfTestFailed
from edge_ad.runtime.engines.tensorrt_build import EngineOptions
from edge_ad.runtime.engines.tensorrt_faults import FAULTS, known_faults, refuse_faulty

ORIN, A6000, RTX_50 = (8, 7), (8, 6), (12, 0)


@pytest.mark.parametrize(
    ("version", "precision", "capability", "refused", "warned"),
    [
        ("10.3.0.30", "fp16", ORIN, True, True),  # JetPack 6.2
        ("10.3.0", "int8", ORIN, True, True),  # FP16 between the INT8 layers
        ("10.3.0", "fp32", ORIN, False, True),
        ("10.4.0", "fp32", A6000, True, True),
        ("10.4.0", "fp16", A6000, True, True),
        ("10.0.1.6", "fp16", (7, 5), False, True),
        ("10.16.1", "fp16", RTX_50, False, True),
        ("10.16.1", "fp16", A6000, False, False),  # seen on one kind of GPU only
        ("10.16.1", "fp16", (), False, True),
        ("10.16.1", "fp32", RTX_50, False, False),
        ("10.30.0", "fp16", ORIN, False, False),  # not 10.3
        ("10.7.0", "int8", ORIN, False, False),
        ("11.4.0.106", "fp16", A6000, False, False),
    ],
)
def test_versions_by_number(version, precision, capability, refused, warned):
    if refused:
        with pytest.raises(BackendError, match=f"TensorRT {version} are known to compute wrongly.*issues/") as caught:
            refuse_faulty("tensorrt", version, precision, capability)
        assert "--accept-faulty-tensorrt" in caught.value.hint
    lines = refuse_faulty("tensorrt", version, precision, capability, accept=True)
    assert bool(lines) == warned
    assert all(f"TensorRT {'.'.join(version.split('.')[:2])}: " in line for line in lines)
    assert known_faults("tensorrt-rtx", version, precision, capability) == []


def test_every_fault_names_its_source():
    assert all(fault.threads and all(own.startswith("https://") for own in fault.threads) for fault in FAULTS)


class Device:
    name, capability = "Orin", ORIN

    def close(self):
        self.closed = True


@pytest.fixture
def jetpack(monkeypatch, small_artifact):
    """A TensorRT 10.3 that builds and opens anything; gives the list of options it built with."""
    built = []

    class TensorRT:
        __version__ = "10.3.0.30"

    class Runner:
        def __init__(self, trt, device, data, precision):
            self.device, self.name = device, f"tensorrt {precision}"

        def close(self):
            pass

    def build(trt, graph, options, *others):
        built.append(options)
        return b"engine", b""

    for module in (engine, backends_tensorrt):
        monkeypatch.setattr(module, "load_tensorrt", lambda target: TensorRT)
        monkeypatch.setattr(module, "open_device", Device)
        monkeypatch.setattr(module, "build_engine_bytes", build)
        monkeypatch.setattr(module, "TensorRTRunner", Runner)
    small_artifact.add("model.fp16.onnx", small_artifact.file("model.onnx").read_bytes())
    return built, TensorRT


def test_no_engine_is_built_by_a_version_that_is_refused(jetpack, small_artifact):
    built, _ = jetpack
    with pytest.raises(BackendError, match=r"fp16 engines of TensorRT 10\.3\.0\.30 are known"):
        engine.build_engine(small_artifact, "fp16", EngineOptions())
    assert built == []
    assert "engines" not in Artifact.open(small_artifact.path).manifest.reports


def test_what_was_accepted_is_warned_of_and_stays_accepted(jetpack, small_artifact, caplog):
    built, TensorRT = jetpack
    with caplog.at_level(logging.WARNING):
        engine.build_engine(small_artifact, "fp16", EngineOptions(accept_faulty=True))
    assert "TensorRT 10.3: DINOv3" in caplog.text
    assert "TensorRT/issues/4723" in caplog.text
    caplog.clear()
    backends_tensorrt.open_artifact(small_artifact, "fp16", None, "tensorrt")
    assert "built by a version known to compute wrong: TensorRT 10.3" in caplog.text
    TensorRT.__version__ = "10.4.0"  # does not fit any more: built again, by a version that is no better
    backends_tensorrt.open_artifact(Artifact.open(small_artifact.path), "fp16", None, "tensorrt")
    assert [options.accept_faulty for options in built] == [True, True]


def test_a_rebuild_asks_again_where_nothing_was_accepted(jetpack, small_artifact):
    built, TensorRT = jetpack
    TensorRT.__version__ = "10.7.0"
    engine.build_engine(small_artifact, "fp16", EngineOptions())
    TensorRT.__version__ = "10.3.0"  # JetPack was put back
    with pytest.raises(BackendError, match="known to compute wrongly"):
        backends_tensorrt.open_artifact(small_artifact, "fp16", None, "tensorrt")
    assert len(built) == 1


def test_no_engine_is_stored_that_fails_its_self_test(jetpack, small_artifact, monkeypatch, caplog):
    built, TensorRT = jetpack
    TensorRT.__version__ = "10.7.0"
    with caplog.at_level(logging.WARNING):
        engine.build_engine(small_artifact, "fp16", EngineOptions())
    assert "was not tested: the artifact holds no reference pictures" in caplog.text
    before = Artifact.open(small_artifact.path).manifest.reports

    def wrong(runner, artifact, precision):
        raise SelfTestFailed(f"{runner.name} fails the self-test")

    for module in (engine, backends_tensorrt):
        monkeypatch.setattr(module, "check_runner", wrong)
    TensorRT.__version__ = "10.8.0"
    with pytest.raises(SelfTestFailed):
        engine.build_engine(small_artifact, "fp16", EngineOptions())
    with pytest.raises(SelfTestFailed):  # built again, since 10.7's doesn't fit
        backends_tensorrt.open_artifact(Artifact.open(small_artifact.path), "fp16", None, "tensorrt")
    assert len(built) == 3
    assert Artifact.open(small_artifact.path).manifest.reports == before
