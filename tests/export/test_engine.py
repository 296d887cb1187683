"""Engines: every TensorRT call exists in 10 and in 11, and TensorRT-RTX really builds our graphs."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_ad.errors import BackendError
from edge_ad.export.engine import build_engine, engine_graph
from edge_ad.export.job import ExportOptions, export_precision
from edge_ad.runtime.engines import tensorrt as backends_tensorrt
from edge_ad.runtime.engines import tensorrt_build as tensorrt_engine
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.tensorrt_build import EngineOptions, EngineRecord, build_engine_bytes, load_tensorrt

WHEELS = {"10": "tensorrt-cu12-bindings==10.16.1.11", "11": "tensorrt-cu13-bindings==11.4.0.106"}
CLASSES = {  # our variable names -> TensorRT's classes
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "error": "ParserError",
    "config": "IBuilderConfig", "profile": "IOptimizationProfile", "runtime": "Runtime", "engine": "ICudaEngine",
    "context": "IExecutionContext", "image": "ITensor", "used": "ITimingCache",
}  # fmt: skip
RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


def used_names():
    """Every dotted TensorRT name in our sources, as "Class.member" or "Name.member"."""
    names = set()
    for module in (tensorrt_engine, backends_tensorrt):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            chain = ast.unparse(node)
            head, _, rest = chain.partition(".")
            if head == "trt" and re.fullmatch(r"[\w.]+", rest):
                names.add(rest)
            elif head in CLASSES and re.fullmatch(r"\w+", rest):
                names.add(f"{CLASSES[head]}.{rest}")
    return {name for name in names if not RTX_ONLY & set(name.split("."))}


def stand_ins(bindings: Path, version: str) -> Path:
    """Empty libraries with the symbols that the bindings link to: enough to import them and look."""
    wanted = subprocess.run(
        ["nm", "-D", "--undefined-only", str(bindings / "tensorrt.so")], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    symbols = [line.split()[-1] for line in wanted if line.strip()]
    pattern = re.compile(r"nvinfer|nvonnx|createInfer|createNv|getInfer|PluginRegistry|initLib|getNv|TRT|nvplugin")
    mine = [
        name for name in symbols if "@" not in name and pattern.search(name) and not name.startswith(("Py", "_Py"))
    ]
    lines = [".text", '.section .note.GNU-stack,"",@progbits', ".text"]
    for name in mine:
        if name.startswith(("_ZTI", "_ZTV", "_ZTS")):
            lines += [".data", f".globl {name}", f"{name}: .fill 64,8,0", ".text"]
        else:
            lines += [f".globl {name}", f".type {name},@function", f"{name}: xor %eax,%eax", "ret"]
    folder = bindings.parent / "libraries"
    folder.mkdir()
    (folder / "empty.s").write_text("\n".join(lines) + "\n")
    (folder / "none.c").write_text("")
    for library, source in (
        ("libnvinfer", "empty.s"),
        ("libnvonnxparser", "none.c"),
        ("libnvinfer_plugin", "none.c"),
    ):
        name = f"{library}.so.{version}"
        command = ["gcc", "-shared", "-o", folder / name, folder / source, f"-Wl,-soname,{name}"]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc") or not shutil.which("nm"), reason="needs gcc, nm"
)
@pytest.mark.parametrize("version", WHEELS)
def test_every_call_exists_in_the_real_bindings(version, tmp_path):
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path, WHEELS[version]]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip(f"{WHEELS[version]} can't be downloaded here")
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    libraries = stand_ins(tmp_path / "tensorrt_bindings", version)
    names = sorted(used_names())
    assert len(names) > 30
    look = (
        "import json, operator, tensorrt_bindings as trt\n"
        f"names = {names!r}\n"
        "def there(name):\n"
        "    try: operator.attrgetter(name)(trt)\n"
        "    except AttributeError: return False\n"
        "    return True\n"
        "print(json.dumps([name for name in names if not there(name)]), trt.__version__)\n"
    )
    environment = {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    missing, found = done.stdout.rsplit(" ", 1)
    assert found.startswith(f"{version}.")
    assert json.loads(missing) == []


def test_removed_calls_are_not_used():
    text = Path(tensorrt_engine.__file__).read_text() + Path(backends_tensorrt.__file__).read_text()
    for name in (
        "int8_calibrator",
        "BuilderFlag.FP16",
        "BuilderFlag.INT8",
        "EXPLICIT_BATCH",
        "execute_v2",
        "binding",
    ):
        assert name not in text


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt-rtx-cu13 is not installed")
def test_rtx_builds_our_int8_graph_without_a_gpu(small_artifact, parts):
    normals = [((frame / 255 - 0.5) / 0.25).astype("float32").transpose(2, 0, 1) for frame in parts[0]]
    export_precision(small_artifact, "int8", normals, options=ExportOptions(threads=1, accept_loss=True))
    said = []
    options = EngineOptions("tensorrt-rtx", max_batch=4, compute_capabilities=("8.6",))
    (path,) = build_engine(small_artifact, "int8", options, said.append)
    assert path.stat().st_size > 10_000
    assert path.name == "int8.sm86.tensorrt-rtx.engine"
    assert said[0] == "building for SM 8.6"
    (record,) = backends_tensorrt.engine_records(small_artifact, "int8").values()
    assert record.capability == (8, 6)
    assert record.source == "engines/int8.onnx"
    assert backends_tensorrt.engine_records(small_artifact, "fp32") == {}
    with pytest.raises(BackendError, match="GPU"):  # not here, or not of this kind
        open_runner(small_artifact, "tensorrt", "int8")
    assert open_runner(small_artifact, "auto", "int8").name == "onnxruntime-cpu int8"


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt-rtx-cu13 is not installed")
def test_rtx_says_what_is_wrong(small_artifact):
    trt = load_tensorrt("tensorrt-rtx")
    with pytest.raises(BackendError, match="can't read the graph"):
        build_engine_bytes(trt, b"no graph", EngineOptions("tensorrt-rtx"))
    graph = small_artifact.file("model.onnx").read_bytes()
    with pytest.raises(BackendError, match=r"SM 7\.0"):
        build_engine_bytes(trt, graph, EngineOptions("tensorrt-rtx", compute_capabilities=("7.0",)))
    with pytest.raises(BackendError, match="DLA core 0"):
        build_engine_bytes(trt, graph, EngineOptions("tensorrt-rtx", dla=0, compute_capabilities=("8.6",)))


def test_an_engine_runs_only_where_it_fits():
    record = EngineRecord("tensorrt", "10.3.0", "Orin", (8, 7), "abc", "int8", 1)
    assert record.misfit("10.3.0", "Orin", (8, 7), "abc") == ""
    assert "graph has changed" in record.misfit("10.3.0", "Orin", (8, 7), "abd")
    assert "10.3.0, this is 10.4.0" in record.misfit("10.4.0", "Orin", (8, 7), "abc")
    assert "Orin (SM 8.7), this is RTX" in record.misfit("10.3.0", "RTX", (8, 6), "abc")
    flexible = EngineRecord("tensorrt", "10.3.0", "A", (8, 0), "abc", "int8", 1, True, True)
    assert flexible.misfit("10.9.1", "B", (9, 0), "abc") == ""
    assert flexible.misfit("11.0.0", "B", (9, 0), "abc")
    assert flexible.misfit("10.9.1", "B", (7, 5), "abc")


def test_missing_engines_and_packages_say_what_to_do(small_artifact, monkeypatch):
    with pytest.raises(BackendError) as caught:
        backends_tensorrt.open_artifact(small_artifact, "fp32", None, "tensorrt")
    assert "--target tensorrt" in caught.value.hint
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="can't be imported"):
        load_tensorrt()


def test_engine_graph_of_a_float_graph_is_valid(small_artifact):
    assert engine_graph(small_artifact.file("model.onnx").read_bytes())
