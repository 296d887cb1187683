"""Arguments, backends and the public names."""

import subprocess
import sys

import numpy as np
import pytest

from edge_ad import kernels
from edge_ad.errors import BackendError
from edge_ad.kernels import dispatch

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
        assert dispatch._backend(A).__name__ == "edge_ad.kernels.reference"


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


def test_available_backends_gives_reasons():
    reasons = kernels.available_backends()
    assert set(reasons) == set(dispatch.BACKENDS)
    assert reasons["numpy"] == ""
