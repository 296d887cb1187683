"""Arguments, backends and the public names."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_ad import kernels
from edge_ad.errors import BackendError
from edge_ad.kernels import dispatch, gpu_choice

A = np.ones((2, 3, 4, 4), np.float32)
MEAN, STD = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
FRAME = np.zeros((8, 8, 3), np.uint8)


def test_public_names():
    assert sorted(kernels.__all__) == sorted(set(kernels.__all__))
    assert all(hasattr(kernels, name) for name in kernels.__all__)


def test_arrays_never_import_torch():
    code = (
        "import sys, numpy as np; from edge_ad import kernels as k; a = np.ones((1, 2, 3, 3), 'f4');"
        "k.fused_score([a], [a], size=(12, 12)); k.find_defects(a[0, 0], 0.5);"
        "k.preprocess(np.zeros((9, 9, 3), 'u1'), (4, 4), (0, 0, 0), (1, 1, 1)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("call", "expected", "received"),
    [
        (lambda: kernels.cosine_map(A, A[:1]), "[2, 3, 4, 4]", "[1, 3, 4, 4]"),
        (lambda: kernels.cosine_map(A, A.astype("f8")), "float32", "float64"),
        (lambda: kernels.cosine_map(A[:, :0], A[:, :0]), "C of at least 1", "[2, 0, 4, 4]"),
        (lambda: kernels.cosine_map(A[0], A[0]), "[B,C,h,w]", "[3, 4, 4]"),
        (lambda: kernels.cosine_map(A[..., :0], A[..., :0], channels_last=True), "[B,h,w,C]", "[2, 3, 4, 0]"),
        (lambda: kernels.cosine_map(A.astype(int), A.astype(int)), "float32", "int64"),
        (lambda: kernels.cosine_map([1.0], A), "NumPy array", "list"),
        (lambda: kernels.cosine_map(A, A, eps=0.0), "from 1.2e-38", "0.0"),
        (lambda: kernels.head_input(A, A, eps=float("nan")), "to 3.4e+38", "nan"),
        (lambda: kernels.head_input(A, A[:, :2]), "[2, 3, 4, 4]", "[2, 2, 4, 4]"),
        (lambda: kernels.upsample(A, (8, 8)), "[B,h,w]", "[2, 3, 4, 4]"),
        (lambda: kernels.upsample(A[0], (8, 0)), "at least 1", "0"),
        (lambda: kernels.upsample(A[0], 8), "(H, W)", "8"),
        (lambda: kernels.topk_mean(A, 0), "1 to 48", "0"),
        (lambda: kernels.topk_mean(A, 49), "1 to 48", "49"),
        (lambda: kernels.topk_mean(A[0, 0, 0]), "[B, ...]", "[4]"),
        (lambda: kernels.fused_score([A], []), "as many teacher as student", "1 teacher and 0 student"),
        (lambda: kernels.fused_score([], []), "at least 1", "0 teacher"),
        (lambda: kernels.fused_score([A, A[:1]], [A, A[:1]]), "[2, 3, 4, 4]", "[1, 3, 4, 4]"),
        (lambda: kernels.fused_score([A], [A], combine="max"), "product", "max"),
        (lambda: kernels.fused_score([A], [A], weights=(0,)), "not all 0", "[0]"),
        (lambda: kernels.fused_score([A], [A], weights=(1, 1)), "1 finite", "[1, 1]"),
        (lambda: kernels.fused_score([A], [A], sigma=-1), "from 0 to 256", "-1"),
        (lambda: kernels.fused_score([A], [A], sigma=float("inf")), "from 0 to 256", "inf"),
        (lambda: kernels.fused_score([A], [A], k=70000), "1 to 65536", "70000"),
        (lambda: kernels.preprocess(FRAME / 255, (4, 4), MEAN, STD), "uint8", "float64"),
        (lambda: kernels.preprocess(FRAME[..., :2], (4, 4), MEAN, STD), "[H,W,3]", "[8, 8, 2]"),
        (lambda: kernels.preprocess(FRAME, (4, 4), MEAN, (1, 1, 0)), "std above 0", "(1, 1, 0)"),
        (lambda: kernels.preprocess(FRAME, (4, 4), MEAN, STD, channels="hsv"), "rgb or bgr", "hsv"),
        (lambda: kernels.find_defects(A[0], 0.5), "[H,W]", "[3, 4, 4]"),
        (lambda: kernels.find_defects(A[0, 0], float("nan")), "a number", "nan"),
        (lambda: kernels.find_defects(A[0, 0], 0.5, min_area=0), "at least 1", "0"),
        (lambda: kernels.set_threads(0), "at least 1", "0"),
    ],
)
def test_bad_arguments_name_expected_and_received(call, expected, received):
    with pytest.raises(ValueError, match="expected") as error:
        call()
    before, after = str(error.value).split("received")
    assert expected in before
    assert received in after


def test_tensors_and_arrays_do_not_mix():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="expected ndarray float32"):
        kernels.cosine_map(A, torch.ones(2, 3, 4, 4))
    with pytest.raises(ValueError, match="expected Tensor float32"):
        kernels.cosine_map(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4, dtype=torch.float16))


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_a_named_backend_runs_its_kind_and_leaves_the_other(monkeypatch, name):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("EDGE_AD_BACKEND", name)
    assert isinstance(kernels.cosine_map(A, A), np.ndarray)
    assert isinstance(kernels.cosine_map(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)), torch.Tensor)
    if name == "numpy":
        assert dispatch._backend("cosine_map", A).__name__ == "edge_ad.kernels.reference"


def test_an_unknown_backend_is_an_error(monkeypatch):
    monkeypatch.setenv("EDGE_AD_BACKEND", "cuda")
    with pytest.raises(BackendError, match="names no backend"):
        kernels.topk_mean(A, 1)


def test_a_named_backend_that_cannot_run_raises(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("EDGE_AD_BACKEND", "triton")
    with pytest.raises(BackendError, match="triton"):
        kernels.topk_mean(torch.ones(1, 5), 1)
    monkeypatch.setenv("EDGE_AD_BACKEND", "cpp")
    dispatch._load_cpp.cache_clear()
    monkeypatch.setitem(sys.modules, "edge_ad.kernels.cpp_ops", None)  # an installation without the C++ module
    with pytest.raises(BackendError, match="cpp can't run"):
        kernels.topk_mean(A, 1)
    dispatch._load_cpp.cache_clear()


def test_without_the_cpp_module_the_definitions_run_and_say_so_once(monkeypatch, caplog):
    dispatch._load_cpp.cache_clear()
    monkeypatch.delenv("EDGE_AD_BACKEND", raising=False)
    monkeypatch.setitem(sys.modules, "edge_ad.kernels.cpp_ops", None)
    assert kernels.topk_mean(A, 1).tolist() == [1, 1]
    assert kernels.topk_mean(A, 2).tolist() == [1, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    dispatch._load_cpp.cache_clear()


class OnGpu:
    """What the dispatcher asks of a tensor on a GPU."""

    is_cuda, requires_grad = True, False

    def __init__(self, count, requires_grad=False):
        self.count, self.requires_grad = count, requires_grad

    def element_size(self):
        return 4

    def numel(self):
        return self.count


def test_triton_is_taken_only_where_it_was_measured_to_be_faster(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("EDGE_AD_BACKEND", raising=False)
    monkeypatch.setattr(dispatch, "TRITON", frozenset({("cosine_map", "small"), ("cosine_map_gradient", "large")}))

    def taken(operation, count, *more):
        return dispatch._backend(operation, OnGpu(count), *more).__name__.rpartition(".")[2]

    half = dispatch.SMALL_BYTES // 8  # of two tensors
    assert taken("cosine_map", half, OnGpu(half)) == "triton_ops"
    assert taken("cosine_map", half, OnGpu(half + 1)) == "torch_ops"  # no row of that size
    assert taken("cosine_map", half, OnGpu(half, requires_grad=True)) == "torch_ops"  # nor of its gradient
    assert taken("cosine_map", half, OnGpu(half + 1, requires_grad=True)) == "triton_ops"
    assert taken("topk_mean", half) == "torch_ops"
    monkeypatch.setenv("EDGE_AD_BACKEND", "triton")
    assert taken("topk_mean", half) == "triton_ops"
    monkeypatch.setenv("EDGE_AD_BACKEND", "torch")
    assert taken("cosine_map", half, OnGpu(half)) == "torch_ops"


@pytest.fixture(scope="module")
def choosing():
    path = Path(__file__).parents[1] / "benchmarks" / "gpu_choice.py"
    spec = importlib.util.spec_from_file_location("choosing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_choice_is_what_the_rows_say(choosing):
    chosen = choosing.choice(choosing.read())
    assert choosing.TABLE.read_text() == choosing.source(chosen)
    assert set(chosen) == gpu_choice.TRITON
    operations = {operation for operation, _ in chosen}
    assert "cosine_map" in operations
    assert not {"topk_mean", "fused_score"} & operations  # measured to be slower than torch on an H200


def test_one_slow_row_keeps_triton_from_its_class_until_it_is_measured_again(choosing, tmp_path):
    lines = [
        "date,device,backend,operation,shape,dtype,vs_eager",
        *(
            f"2026-01-0{day},card,{backend},topk_mean,B{batch} 256x256,float32,{gain}"
            for day, backend, batch, gain in ((1, "triton", 1, 4.0), (1, "triton", 2, 0.9), (1, "compile", 1, 0.5))
        ),
    ]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    assert choosing.choice(choosing.read(path)) == []
    path.write_text("\n".join([*lines, "2026-01-03,card,triton,topk_mean,B2 256x256,float32,1.1"]))
    assert choosing.choice(choosing.read(path)) == [("topk_mean", "small")]
    read = [
        choosing.Row("", "", *row, 1.0)
        for row in (
            ("topk_mean", "B64 256x256", "float32"),
            ("topk_mean", "B65 256x256", "float32"),
            ("cosine_map", "B8 64x64x64", "float32"),
            ("fused_score", "B8 64x64x64+1x1x1", "bfloat16"),
        )
    ]
    counts = [choosing.bytes_read(row) for row in read]
    assert counts == [64 * 65536 * 4, 65 * 65536 * 4, 8 * 64**3 * 8, 8 * (64**3 + 1) * 4]
    assert [dispatch.size_class(count) for count in counts] == ["small", "large", "small", "small"]


def test_available_backends_gives_reasons():
    reasons = kernels.available_backends()
    assert set(reasons) == set(dispatch.BACKENDS)
    assert reasons["numpy"] == ""
