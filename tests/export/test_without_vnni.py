"""INT8 on a processor without VNNI, played by QEMU: pairs of products that leave 16 bits are cut off there.

The largest sums that can be: every activation and every weight at the end of its range. The exact result is known,
so the test needs no such machine to compare with, and a graph with weights up to 127 shows that it would notice.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edge_ad.export import quantize
from edge_ad.export.quantize import quantize_int8

QEMU = shutil.which("qemu-x86_64")
SCRIPT = """
import json, sys
import numpy as np
import onnxruntime
inputs = dict(np.load(sys.argv[1]))
results = {}
for path in sys.argv[2:]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    results["onnxruntime " + path] = [array.tolist() for array in session.run(["y", "z"], inputs)]
try:
    import openvino
except ImportError:
    openvino = None
for path in sys.argv[2:] if openvino else ():
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    found = compiled(inputs)
    results["openvino " + path] = [found[name].tolist() for name in ("y", "z")]
print(json.dumps(results))
"""


def tiny(level):
    """A linear layer and a product of two activations in INT8, with weights up to `level`."""
    weight = np.random.default_rng(0).uniform(0.98, 1, (64, 48)).astype(np.float32)
    shapes = {"x": [1, 16, 64], "q": [1, 2, 16, 64], "k": [1, 2, 64, 16], "y": [1, 16, 48], "z": [1, 2, 16, 16]}
    values = {name: helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Identity", [name], [f"{name}.inside"], f"{name}.copy") for name in ("x", "q", "k")
    ] + [  # what reads the graph's own input stays in float
        helper.make_node("MatMul", ["x.inside", "w"], ["y"], "linear"),
        helper.make_node("MatMul", ["q.inside", "k.inside"], ["z"], "product"),
    ]
    graph = helper.make_graph(
        nodes, "tiny", [values[n] for n in "xqk"], [values[n] for n in "yz"], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "SAFE_LEVEL", level)
        return quantize_int8(model.SerializeToString(), {f"{name}.inside": 1.0 for name in "xqk"}), weight


def expected(inputs, weight, level):
    """(y, z) in whole numbers, in float64."""
    x = np.clip(np.rint(inputs["x"].astype(float) * 127), -128, 127)
    scale = np.abs(weight).max(0).astype(float) / level
    q, k = (np.rint(np.clip(inputs[name].astype(float), -1, 1) * level) for name in "qk")
    return x @ np.rint(weight / scale) * scale / 127, q @ k / level**2


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(engine, level) -> largest difference from the exact results, as a share of the largest of them."""
    if QEMU is None or platform.machine() != "x86_64":
        pytest.skip("qemu-x86_64 (Debian's qemu-user) is not installed")
    folder = tmp_path_factory.mktemp("qemu")
    rng = np.random.default_rng(1)
    inputs = {
        name: rng.uniform(0.98, 1.3, shape).astype(np.float32)
        for name, shape in (("x", (1, 16, 64)), ("q", (1, 2, 16, 64)), ("k", (1, 2, 64, 16)))
    }
    np.savez(folder / "inputs.npz", **inputs)
    paths = {}
    for level in (quantize.SAFE_LEVEL, 127):
        graph, weight = tiny(level)
        paths[level] = folder / f"{level}.onnx"
        paths[level].write_bytes(graph)
    command = [
        QEMU,
        "-cpu",
        "Haswell",
        sys.executable,
        "-c",
        SCRIPT,
        str(folder / "inputs.npz"),
        *map(str, paths.values()),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout)
    errors = {}
    for level, path in paths.items():
        exact = expected(inputs, weight, level)
        for engine in ("onnxruntime", "openvino"):
            if f"{engine} {path}" in results:
                errors[engine, level] = [
                    float(np.abs(np.array(own) - ours).max() / np.abs(ours).max())
                    for own, ours in zip(results[f"{engine} {path}"], exact, strict=True)
                ]
    return errors


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_our_graphs_give_the_exact_sums(found, engine):
    if engine == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    linear, product = found[engine, quantize.SAFE_LEVEL]
    assert linear < 1e-5
    assert product < 1e-5


def test_weights_up_to_127_would_be_noticed(found):
    assert max(found["onnxruntime", 127]) > 0.1
